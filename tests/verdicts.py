"""Verdicts of tests: quick ones, the run behind one, and the lines of its sheet."""

from pyrobayes import RobustnessOptions
from pyrobayes.evaluation.robustness.cache import ResultCache
from pyrobayes.evaluation.robustness.checks import CHECKS
from pyrobayes.evaluation.robustness.measurements import RobustnessRun
from pyrobayes.evaluation.robustness.verdict import verdict_of
from pyrobayes.progress import silent

QUICK = RobustnessOptions(images=60, eps=(0.1, 0.2, 0.3), steps=5, redraws=4, checked_images=30, batch_size=30)


def run_of(classifier, data, options, training=None, sources=()):
    few, options = data.head(options.images), options.settled()
    return RobustnessRun(classifier, few, options, sources, ResultCache(), silent, training=training or data)


def sheet(run):
    return {check.number: check for check in verdict_of(run).checks}


def judged(run, *numbers):
    """The lines of some checks alone, by number."""
    return {number: CHECKS[number].judge(*CHECKS[number].measure(run)) for number in numbers}
