"""`pyrobayes detect`: fit tests that reject adversarial images, and attack models and tests."""

import dataclasses
import itertools
from collections.abc import Sequence

from pyrobayes.attacks import Attack
from pyrobayes.attacks.attack_options import DetectionOptions
from pyrobayes.commands.attack import attacker_of, planned_attacks
from pyrobayes.commands.context import Context
from pyrobayes.data.images import Images
from pyrobayes.evaluation import detection
from pyrobayes.evaluation.detection import Detection, Detector, fit_detector
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.options import DETECTION_TESTS
from pyrobayes.results import figures
from pyrobayes.results.registry import ResultCommand, register
from pyrobayes.results.sections import detections_section
from pyrobayes.results.store import ResultStore

DETECT = register(
    ResultCommand(
        "detect",
        "detection.json",
        DetectionOptions,
        Detection,
        done="attacked and tested",
        section=detections_section,
        figures=("detection-*",),
    )
)


def detect(
    models: Sequence[str] = (),
    options: DetectionOptions = DetectionOptions(),
    context: Context = Context(),
    *,
    resume: bool = False,
) -> list[Detection]:
    """Fit the tests of trained models that reject adversarial images, and attack models and tests.

    Writes `detection.json` and a `detection-MODEL` each (PDF and PNG; `-MODEL-ATTACK` with several attacks).

    Args:
        models: their names, in any case; every trained model where left out.
        options: see :class:`pyrobayes.DetectionOptions`. For every evade weight each attack is made again
            against every test, as the strongest of Li et al. (2019): on all particles at once (`snapshot`), with the
            weighted statistic of the test taken off the loss.
        context: where the models are, and where results go.
        resume: as in :func:`pyrobayes.commands.attack.attack`.
    """
    planned, test = planned_attacks(models, options, context)
    trained = context.provenance(classifier for _, classifier in planned)
    training = context.images(test.name, "train")
    units = [(classifier.factorization.name, by.name) for by, classifier in planned]
    attacked = attacker_of(test, options, context.progress)
    given = (DETECT, context.results, options, test, trained, units)
    with ResultStore(
        *given, resume=resume, reusable=lambda result: result.attack != "transfer", progress=context.progress
    ) as store:
        missing = [pair for pair, unit in zip(planned, units) if not store.has(*unit)]
        detectors = _fit_detectors((classifier for _, classifier in missing), training, options, context)
        for by, classifier in planned:

            def make(by=by, classifier=classifier) -> list[Detection]:
                detector = detectors[classifier]
                models_images = classifier.factorization.structure.models_images
                found = []
                for tests, against in _against(by, detector, options):
                    result = attacked(classifier, against, 0)
                    found += [detection.detect(detector, result, name, models_images=models_images) for name in tests]
                return found

            name = classifier.factorization.name
            results, new = store.get(name, make, by.name)
            store.draw(f"detection-{options.file_suffix(name, by.name)}", new, figures.detection, results)
        return store.results_of_named()


def _fit_detectors(classifiers, training: Images, options: DetectionOptions, context: Context) -> dict:
    """The tests of each classifier; all are fitted before the first attack."""
    few = min(options.train_images, len(training))
    limits = {"images": few, "batch_size": options.batch_size, "progress": context.progress}
    distinct: dict[BayesClassifier, None] = dict.fromkeys(classifiers)
    return {each: fit_detector(each, training, false_alarms=options.false_alarms, **limits) for each in distinct}


def _against(by: Attack, detector: Detector, options: DetectionOptions) -> list[tuple[Sequence[str], Attack]]:
    """Attacks, each with the tests that look at it: the plain one with all, and those that evade one test each."""
    weighted = itertools.product(DETECTION_TESTS, options.evade_weight)
    return [(DETECTION_TESTS, by)] + [
        ((test,), dataclasses.replace(by, snapshot=True, evade=detector.evading(test), evade_weight=weight))
        for test, weight in weighted
    ]
