"""`pyrobayes detect`: fit tests that reject adversarial images, and attack models and tests."""

import dataclasses
import itertools
from collections.abc import Sequence

from pyrobayes.attacks import Attack
from pyrobayes.attacks.attack_options import DetectionOptions
from pyrobayes.commands.attack import attacker_of, planned_attacks
from pyrobayes.commands.context import Context
from pyrobayes.evaluation import detection
from pyrobayes.evaluation.detection import Detection, Detector, fit_detector
from pyrobayes.inference.interface import Classifier
from pyrobayes.results import figures, sections
from pyrobayes.results.registry import ResultCommand, register

DETECT = ResultCommand(
    "detect",
    "detection.json",
    DetectionOptions,
    Detection,
    done="attacked and tested",
    section=sections.detections_section,
    sentences=sections.detection_sentences,
    figures=("detection-*",),
)
register(DETECT)


def detect(
    models: Sequence[str] = (),
    options: DetectionOptions = DetectionOptions(),
    context: Context = Context(),
    *,
    resume: bool = False,
) -> list[Detection]:
    """Fit the tests of trained models that reject adversarial images, and attack models and tests.

    Writes `detection.json` and a `detection-MODEL` each (`-MODEL-ATTACK` with several attacks).

    For every evade weight each attack is made again against every test, as the strongest of Li et al. (2019): on all
    particles at once (`snapshot`), with the weighted statistic of the test taken off the loss.
    """
    options = context.settled(options)
    planned, test = planned_attacks(models, options, context)
    attacked = attacker_of(test, options, context.progress)
    fitting = {"false_alarms": options.false_alarms, "batch_size": options.batch_size, "progress": context.progress}

    def detected(classifier: Classifier, by: Attack) -> list[Detection]:
        generative = {"models_images": classifier.structure.models_images}
        found = []
        for tests, against in _against(by, detectors[classifier], options, classifier.has_particles):
            result = attacked(classifier, against, 0)
            found += [detection.detect(detectors[classifier], result, name, **generative) for name in tests]
        return found

    reusable = {"reusable": lambda result: result.attack != "transfer"}
    with context.store(DETECT, options, test, planned, resume=resume, **reusable) as store:
        training = context.images(test.source or test.name, "train")
        few = min(options.train_images, len(training))
        missing = [each for each, by in planned if not store.has(each.name, by.name)]
        detectors = {each: fit_detector(each, training, images=few, **fitting) for each in dict.fromkeys(missing)}
        for classifier, by in planned:
            name = classifier.name
            results, new = store.get(name, lambda pair=(classifier, by): detected(*pair), by.name)
            store.draw(f"detection-{options.file_suffix(name, by.name)}", new, figures.detection, results)
        return store.results_of_named()


def _against(
    by: Attack, detector: Detector, options: DetectionOptions, snapshot: bool
) -> list[tuple[Sequence[str], Attack]]:
    """Attacks, each with the tests that look at it: the plain one with all, and those that evade one test each."""
    return [(detector.tests, by)] + [
        ((test,), dataclasses.replace(by, snapshot=snapshot, evade=detector.evading(test), evade_weight=weight))
        for test, weight in itertools.product(detector.tests, options.evade_weight)
    ]
