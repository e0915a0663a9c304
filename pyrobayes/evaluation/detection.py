"""Tests that reject an image by its log p(x, y), fitted to training images, and what they catch of an attack.

The three of Li et al. (2019): the marginal test rejects an image with too low a log p(x); the logit test one with too
low a log p(x, y) for the class y that is predicted; the KL test one whose posterior is too far from the mean posterior
of the training images of that class. All need nothing but log joints.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pyrobayes.codec import saved
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError, check_fraction, choice
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.images import DIAGNOSTICS, expect, map_images, opened, validated_images
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.records import FINITE, Limits, Summarized, null_for, require, table
from pyrobayes.inference.interface import Classifier
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.options import DETECTION_TESTS
from pyrobayes.progress import Progress, shows_progress

OF_POSTERIORS = "kl"  # the test that needs no log p(x, y)
POINTS = 101  # of a ROC curve
RATES = ("success", "detected", "undetected", "accepted_accuracy")


@dataclass(frozen=True)
class Detector:
    """The tests of one classifier.

    A test's score is its statistic less the statistic's mean over the training images of the class that is predicted,
    over its standard deviation; for the marginal test both are over all of them. It rejects what scores above its
    threshold.

    Attributes:
        posteriors: [C, C] the mean posterior of the training images of each class.
        means, deviations: of each test's statistic for the class that they are of, [C] nats.
        thresholds: of each test's score.
    """

    posteriors: Tensor
    means: dict[str, Tensor]
    deviations: dict[str, Tensor]
    thresholds: dict[str, float]

    @property
    def tests(self) -> tuple[str, ...]:
        """The names of the tests."""
        return tuple(self.means)

    def statistic(self, test: str, log_joint: Tensor) -> Tensor:
        """A test's statistic, [B] nats, from log p(x, y) [B, C]; differentiable, and high for suspicious images."""
        return _statistic(self._known(test), log_joint, log_joint.argmax(1), self.posteriors)

    def score(self, test: str, log_joint: Tensor) -> Tensor:
        """The statistic in standard deviations from the mean of the class that is predicted, [B]."""
        predicted = log_joint.argmax(1)
        return (self.statistic(test, log_joint) - self.means[test][predicted]) / self.deviations[test][predicted]

    def rejects(self, test: str, log_joint: Tensor) -> Tensor:
        """True where a test takes an image for adversarial, [B]."""
        return self.score(test, log_joint) > self.thresholds[test]

    def evading(self, test: str) -> "Evasion":
        """The statistic that an attack keeps low to pass a test; see :class:`pyrobayes.attacks.Attack`."""
        return Evasion(self, self._known(test))

    def _known(self, test: str) -> str:
        test = choice("test", test, DETECTION_TESTS)
        if test not in self.tests:
            raise InputError(
                f"the {test} test needs log p(x, y), and the classifier gives logits alone: take {OF_POSTERIORS}"
            )
        return test


@dataclass(frozen=True)
class Evasion:
    """The statistic of a detector's test, as a function of log p(x, y)."""

    detector: Detector
    test: str

    def __call__(self, log_joint: Tensor) -> Tensor:
        return self.detector.statistic(self.test, log_joint)

    def rejects(self, log_joint: Tensor) -> Tensor:
        """True where the test takes an image for adversarial, [B]."""
        return self.detector.rejects(self.test, log_joint)

    def __str__(self) -> str:
        return self.test


def _statistic(test: str, log_joint: Tensor, y: Tensor, posteriors: Tensor) -> Tensor:
    """The statistic of images that are taken for class y, [B] nats."""
    if test == "marginal":
        return -log_joint.logsumexp(1)
    if test == "logit":
        return -log_joint.gather(1, y[:, None])[:, 0]
    usual = posteriors.to(log_joint)[y]
    return (torch.xlogy(usual, usual) - usual * log_joint.log_softmax(1)).sum(1)


@shows_progress
def fit_detector(
    classifier: Classifier | nn.Module,
    data: Images,
    *,
    name: str | None = None,
    false_alarms: float = 0.05,
    images: int | None = None,
    batch_size: int = 100,
    progress: Progress | bool | None = True,
) -> Detector:
    """The tests of a classifier, with thresholds that a share of the training images exceeds.

    A module gives no log p(x, y): it gets the KL test alone, which needs nothing but posteriors.

    Args:
        classifier, name, images, batch_size, progress: as in :func:`pyrobayes.evaluate`.
        data: training images.
        false_alarms: the share of them that each test may reject, above 0 and below 1.
    """
    check_fraction("false alarms", false_alarms)
    classifier = opened(classifier, data, name)
    data, told = validated_images(classifier, data, images, batch_size), f"{classifier.name} thresholds"

    def measure(indices: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"log_joint": classifier.for_images(indices, NoiseStream.CALIBRATION)(x)}

    found = map_images(measure, data, batch_size, told, progress)
    tests = DETECTION_TESTS if classifier.has_particles else (OF_POSTERIORS,)
    return detector_of(found["log_joint"], data.labels.cpu(), false_alarms, tests)


def detector_of(log_joint: Tensor, y: Tensor, false_alarms: float, tests: Sequence[str] = DETECTION_TESTS) -> Detector:
    """The tests of a classifier, from the log joints of training images, [N, C] nats, of classes y [N]."""
    posterior = log_joint.softmax(1)
    of_class = [y == c for c in range(log_joint.shape[1])]
    everywhere = torch.ones_like(of_class[0])
    # A class with hardly any image takes the statistics of all images.
    of_class = [chosen if chosen.sum() > 1 else everywhere for chosen in of_class]
    posteriors = torch.stack([posterior[chosen].mean(0) for chosen in of_class])
    detector = Detector(posteriors, {}, {}, {})
    for test in tests:
        statistic = _statistic(test, log_joint, y, posteriors)
        groups = [statistic[everywhere if test == "marginal" else chosen] for chosen in of_class]
        detector.means[test] = torch.stack([group.mean() for group in groups])
        detector.deviations[test] = torch.stack([group.std() for group in groups]).clamp_min(1e-6)
        allowed = math.floor(false_alarms * len(log_joint))
        detector.thresholds[test] = detector.score(test, log_joint).sort(descending=True).values[allowed].item()
    return detector


@dataclass(frozen=True, repr=False)
class Detection(Summarized):
    """How much of one attack one test catches. Other fields are told in :mod:`pyrobayes.evaluation.records`.

    Attributes:
        test: its name.
        meaningful: False for a test of p(x) or p(x, y) where the model has no p(x|...): the marginal test sees the error of
            the estimate there, the logit test p(y|x).
        false_alarms: share of the clean test images that it rejects.
        success: [E] share of all attacked images that end up misclassified.
        detected: [E] share of the misclassified images that it rejects.
        undetected: [E] share of all attacked images that end up misclassified and accepted.
        accepted_accuracy: [E] share of the accepted images, adversarial or not, that are classified correctly.
        auc: [E] area under the ROC curve, successful adversarial images against clean ones; NaN without any.
        roc: [E][101] share of the successful images above thresholds that 0, 1, ... 100% of the clean ones exceed.
        clean_selective: [100] accuracy on the 1, 2, ... 100% of the clean images that the test suspects least; None in
            results of earlier versions.
        selective: [E][100] the same of the attacked images.
    """

    model: str
    attack: str
    options: dict
    data: str
    eps: tuple[float, ...]
    test: str
    meaningful: bool
    false_alarms: Rate
    success: list[Rate]
    detected: list[Rate]
    undetected: list[Rate]
    accepted_accuracy: list[Rate]
    auc: list[float] = field(metadata=null_for(math.nan))
    roc: list[list[float]] = field(metadata=null_for([math.nan] * POINTS))
    flipped_by_resampling: Rate | None = field(default=None, metadata=saved("changed"))
    approximation: Rate | None = None
    gradient_signs: Rate | None = None
    clean_selective: list[float] | None = None
    selective: list[list[float]] | None = None
    caveats: tuple[str, ...] = field(default=(), metadata=saved(if_any=True))

    LIMITS = {
        "eps": Limits("E", most=FINITE),
        "success": Limits("E"),
        "detected": Limits("E", part=True),
        "undetected": Limits("E"),
        "accepted_accuracy": Limits("E", part=True),
        "auc": Limits("E", undefined=True),
        "roc": Limits("EP", undefined=True),
        "clean_selective": Limits("P"),
        "selective": Limits("EP"),
    }

    def __post_init__(self):
        super().__post_init__()
        require("norm" in self.options, "the attack's options have no norm")
        for success, detected, undetected in zip(self.success, self.detected, self.undetected):
            agree = (detected.total, undetected.count) == (success.count, success.count - detected.count)
            require(agree, f"{success}, {detected} and {undetected} don't agree")

    def _summary(self) -> tuple[str, list[list[str]]]:
        shown = {"misclassified": self.success, "of these detected": self.detected, "undetected": self.undetected}
        rows = {f"{name} (%)": rates for name, rates in shown.items()}
        title = f"{self.test} test of {self.model} against {self.attack}, {self.images:,} images of {self.data}"
        return f"{title}, {self.false_alarms.sentence()} false alarms", table("", self.eps, rows)

    @property
    def images(self) -> int:
        """How many test images were attacked."""
        return self.false_alarms.total


def detect(detector: Detector, result: AttackResult, test: str, *, models_images: bool = True) -> Detection:
    """Measure how much of an attack a test catches.

    Args:
        detector: see :func:`fit_detector`.
        result: see :func:`pyrobayes.evaluation.attack`.
        test: `marginal`, `logit` or `kl`.
        models_images: whether the model has a p(x|...).
    """
    expect("detector", detector, Detector)
    expect("result", result, AttackResult)
    if result.log_joint is None:
        raise InputError("a result that was read from a file has no log joints to test: attack again")
    test = detector._known(test)
    labels = torch.tensor(result.labels)
    clean = detector.score(test, result.clean_log_joint)
    found: dict[str, list] = {name: [] for name in (*RATES, "auc", "roc", "selective")}
    for log_joint in result.log_joint:
        rejected, wrong = detector.rejects(test, log_joint), log_joint.argmax(1) != labels
        shares = wrong, rejected[wrong], wrong & ~rejected, ~wrong[~rejected]
        scores = detector.score(test, log_joint)
        suspicious = scores[wrong]
        curves = area_under_roc(suspicious, clean), roc(suspicious, clean)
        selective = selective_accuracy(scores, ~wrong)
        for values, value in zip(found.values(), (*map(Rate.of, shares), *curves, selective), strict=True):
            values.append(value)
    return Detection(
        **{
            name: getattr(result, name)
            for name in ("model", "attack", "options", "data", "eps", "caveats", *DIAGNOSTICS)
        },
        test=test,
        meaningful=models_images or test == "kl",
        false_alarms=Rate.of(detector.rejects(test, result.clean_log_joint)),
        clean_selective=selective_accuracy(clean, result.clean_log_joint.argmax(1) == labels),
        **found,
    )


def selective_accuracy(scores: Tensor, right: Tensor, points: int = 100) -> list[float]:
    """The accuracy on the shares 1/points, 2/points, ... 1 of the images with the lowest scores [N]; `right` [N] are correct.

    It is the curve of accuracy against coverage of El-Yaniv and Wiener (2010). Equal scores keep their order. A share is
    rounded up to whole images.
    """
    ranked = right[scores.argsort(stable=True)].double().cumsum(0)
    counts = (torch.arange(1, points + 1) * len(right) + points - 1) // points
    return (ranked[counts - 1] / counts).tolist()


def area_under_roc(positive: Tensor, negative: Tensor) -> float:
    """The chance that a positive scores above a negative one, ties counting half; NaN without one of both."""
    if not len(positive) or not len(negative):
        return math.nan
    ordered = negative.sort().values
    below, up_to = (torch.searchsorted(ordered, positive, right=right).double() for right in (False, True))
    return ((below + up_to) / 2 / len(negative)).mean().item()


def roc(positive: Tensor, negative: Tensor, points: int = POINTS) -> Sequence[float]:
    """The share of the positives above thresholds that 0 to 100% of the negatives exceed; NaN without any."""
    if not len(positive) or not len(negative):
        return [math.nan] * points
    shares = torch.linspace(1, 0, points, dtype=torch.float64)
    thresholds = torch.quantile(negative.double(), shares, interpolation="lower")
    shares = (positive.double()[:, None] > thresholds).double().mean(0)
    shares[-1] = 1.0  # below all of them, and of the positives
    return shares.tolist()
