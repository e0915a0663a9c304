"""`pyrobayes detect`: fit tests that reject adversarial images, and attack models and tests."""

import dataclasses
import itertools
import os
from collections.abc import Sequence

from pyrobayes.attacks import Attack
from pyrobayes.attacks.attack_options import DetectionOptions
from pyrobayes.commands import context
from pyrobayes.commands.attack import attacker_of, planned_attacks
from pyrobayes.commands.context import read_provenance
from pyrobayes.commands.writing import draw, writing
from pyrobayes.evaluation import detection
from pyrobayes.evaluation.detection import Detection, Detector, fit_detector
from pyrobayes.options import DETECTION_TESTS
from pyrobayes.progress import Progress, silent
from pyrobayes.results import figures
from pyrobayes.results.store import ResultsFile


def detect(
    models: Sequence[str] = (),
    options: DetectionOptions = DetectionOptions(),
    *,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    out: str | os.PathLike | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> list[Detection]:
    """Fit the tests of trained models that reject adversarial images, and attack models and tests.

    Writes `detection.json` and one `detection-MODEL` each (PDF and PNG; `-MODEL-ATTACK` with several attacks) to `out`.

    Args:
        options: see :class:`pyrobayes.DetectionOptions`. For every evade weight each attack is made again
            against every test, as the strongest of Li et al. (2019): on all particles at once (`snapshot`), with the
            weighted statistic of the test taken off the loss.

    The other arguments are those of :func:`attack`.
    """
    planned, test = planned_attacks(models, options, data=data, data_dir=data_dir, runs=runs, device=device)
    trained, training = (
        read_provenance((each for _, each in planned), runs),
        context.load_split(test.name, "train", data_dir),
    )
    with writing("detect", out, runs) as folder:
        detectors = {
            classifier: fit_detector(
                classifier,
                training,
                false_alarms=options.false_alarms,
                images=min(options.train_images, len(training)),
                batch_size=options.batch_size,
                progress=progress,
            )
            for classifier in dict.fromkeys(classifier for _, classifier in planned)
        }

        def against(by: Attack, detector: Detector) -> list[tuple[Sequence[str], Attack]]:
            """The attack, with all tests, and those on each test besides."""
            weighted = itertools.product(DETECTION_TESTS, options.evade_weight)
            return [(DETECTION_TESTS, by)] + [
                ((test,), dataclasses.replace(by, snapshot=True, evade=detector.evading(test), evade_weight=weight))
                for test, weight in weighted
            ]

        # All are made before the first attack.
        attacks_on = [(classifier, against(by, detectors[classifier])) for by, classifier in planned]
        results: list[Detection] = []
        attacked = attacker_of(test, options, progress)
        file = ResultsFile(folder, "detect", options, test, trained) if folder else None
        for classifier, chosen in attacks_on:
            detector, found = detectors[classifier], []
            models_images = classifier.factorization.models_images
            for tests, by in chosen:
                result = attacked(classifier, by, 0)
                found += [detection.detect(detector, result, name, models_images=models_images) for name in tests]
            results += found
            if file:
                file.write(results)
                draw(folder / f"detection-{options.file_suffix(result.model, result.attack)}", figures.detection, found)
        return results
