"""Certificates: how far an image may change, in L2, before a smoothed classifier changes its class.

Randomized smoothing of Cohen, Rosenfeld and Kolter (2019); :mod:`pyrobayes.inference.smoothing` has the draws. If the base
classifier gives a class with a probability above p > 1/2 under the noise, then the smoothed classifier gives it for every
image within sigma * Phi^-1(p) (theorem 1, with 1 - p as the bound of all other classes). Draws bound p from below.

* CERTIFY: the selection draws choose a class. Others bound its probability; where the bound isn't above 1/2, it abstains.
* PREDICT: the class that most draws give, or none where the second could be as frequent.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from pyrobayes.codec import saved
from pyrobayes.data.images import Images
from pyrobayes.errors import check_count, check_fraction, check_step_size
from pyrobayes.evaluation.images import map_images, opened, validated_images
from pyrobayes.evaluation.particles import Mean
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.records import FINITE, Limits, Summarized, require
from pyrobayes.inference.interface import Classifier
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.inference.smoothing import class_counts
from pyrobayes.options import SIGMA, CertificationOptions
from pyrobayes.progress import Progress, shows_progress

RADII = (0.25, 0.5, 1.0)  # told in tables


@dataclass(frozen=True, repr=False)
class Certification(Summarized):
    """Certificates of images for noise of one sigma. Other fields are told in :mod:`pyrobayes.evaluation.records`.

    Attributes:
        sigma: standard deviation of the noise, on pixels in [0, 1].
        draws: n, how many noisy copies of an image bound the probability of its class.
        selection_draws: n0, how many others choose the class.
        alpha: chance that a certificate is wrong, of each image by itself.
        labels: [N] true classes.
        selected: [N] the classes that most selection draws gave.
        counts: [N][C] how many of the n draws gave each class.
        clean_accuracy: share of the images that the base classifier itself classifies correctly, without noise.
    """

    model: str
    data: str
    sigma: float
    draws: int
    selection_draws: int
    alpha: float
    labels: list[int]
    selected: list[int]
    counts: list[list[int]]
    clean_accuracy: Rate
    caveats: tuple[str, ...] = field(default=(), metadata=saved(if_any=True))
    DERIVED = {
        "radii": lambda self: self.radii,
        "predictions": lambda self: self.predictions,
        "smoothed_accuracy": lambda self: self.smoothed_accuracy,
        "abstained": lambda self: self.abstained,
        "certified": lambda self: [{"radius": r, "accuracy": self.certified(r)} for r in (0.0, *RADII)],
        "average_radius": lambda self: self.average_radius.value,
    }
    LIMITS = {
        "sigma": Limits(most=FINITE),
        "draws": Limits(least=1, most=FINITE),
        "selection_draws": Limits(least=1, most=FINITE),
        "alpha": Limits(),
        "labels": Limits("N", below="classes"),
        "selected": Limits("N", below="classes"),
        "counts": Limits("NC", most=FINITE),
        "clean_accuracy": Limits(),
    }

    def __post_init__(self):
        require(len(self.counts) > 0, "a certification needs an image at least")
        super().__post_init__()
        require(0 < self.alpha < 1 and self.sigma > 0, f"alpha {self.alpha} and sigma {self.sigma} must be above 0")
        alike = {(len(counts), sum(counts)) for counts in self.counts} == {(self.classes, self.draws)}
        require(alike, f"the counts of every image must be of {self.classes} classes and {self.draws} draws")

    def _summary(self) -> tuple[str, list[list[str]]]:
        rates = {"without noise": self.clean_accuracy, "smoothed": self.smoothed_accuracy, "abstained": self.abstained}
        rates |= {f"radius {radius:g}": self.certified(radius) for radius in RADII}
        cells = {f"{name} (%)": rate.percent() for name, rate in rates.items()}
        cells["average radius"] = f"{self.average_radius.value:.3f}"
        title = f"{self.model}, sigma {self.sigma:g}, {self.images:,} images of {self.data}, {self.draws:,} draws"
        return title, [list(cells), list(cells.values())]

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.labels)

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return len(self.counts[0])

    @cached_property
    def radii(self) -> list[float]:
        """[N] radii in L2, of pixels in [0, 1], within which the smoothed classifier gives the selected class; 0 where it abstains."""
        given = [counts[chosen] for counts, chosen in zip(self.counts, self.selected)]
        return [radius_of(bound, self.sigma) for bound in lower_bounds(given, self.draws, self.alpha)]

    @cached_property
    def predictions(self) -> list[int | None]:
        """[N] the classes that PREDICT gives by the n draws; None where it abstains."""
        return [smoothed_class(counts, self.alpha) for counts in self.counts]

    @property
    def smoothed_accuracy(self) -> Rate:
        """Share of all images whose prediction is correct; one that abstains isn't."""
        return Rate.among(p == y for p, y in zip(self.predictions, self.labels))

    @property
    def abstained(self) -> Rate:
        """Share of all images without a certificate, for any class."""
        return Rate.among(radius == 0 for radius in self.radii)

    @property
    def correct_radii(self) -> list[float]:
        """[N] the radii, but 0 where the class that is certified isn't the true one."""
        return [r if chosen == y else 0.0 for r, chosen, y in zip(self.radii, self.selected, self.labels)]

    def certified(self, radius: float) -> Rate:
        """Share of all images certified to be classified correctly within a radius, its end included."""
        return Rate.among(each > radius for each in self.correct_radii)

    @property
    def average_radius(self) -> Mean:
        """The average certified radius of Zhai et al. (2020): the mean of the radii, 0 where the class is wrong."""
        return Mean.of(torch.tensor(self.correct_radii, dtype=torch.float64))


@shows_progress
def certify(
    classifier: Classifier | nn.Module,
    data: Images,
    sigma: float = SIGMA,
    *,
    name: str | None = None,
    draws: int = CertificationOptions.draws,
    selection_draws: int = CertificationOptions.selection_draws,
    alpha: float = CertificationOptions.alpha,
    images: int | None = None,
    batch_size: int = CertificationOptions.batch_size,
    progress: Progress | bool | None = True,
) -> Certification:
    """Certify how far images may change before the smoothed classifier changes their class.

    Every draw takes fresh noise on the pixels and fresh noise of the classifier. Both follow from the classifier's seed, the
    image's place and the number of the draw, so that results depend neither on the batch nor on how many processes share
    the work. Certificates for several sigmas scale the same draws: each holds, but they are not independent.

    Args:
        classifier: the base classifier, with its own particles, noise and seed.
        data, name, images, progress: as in :func:`pyrobayes.evaluate`.
        sigma: standard deviation of the noise, on pixels in [0, 1].
        draws, selection_draws, alpha: n, n0 and alpha of the paper, see :class:`Certification`.
        batch_size: noisy copies at a time; changes memory and speed, not results.
    """
    check_step_size("sigma", sigma)
    check_count("draws", draws)
    check_count("selection draws", selection_draws)
    check_fraction("alpha", alpha)
    classifier = opened(classifier, data, name)
    data, name = validated_images(classifier, data, images, batch_size), classifier.name

    def right(indices: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"right": classifier.for_images(indices, NoiseStream.DEFENDER)(x).argmax(1) == y}

    clean, x = map_images(right, data, batch_size)["right"], data.batch(slice(None))[0]
    told = {"batch_size": batch_size, "name": f"{name}, sigma {sigma:g}"}
    selected = class_counts(classifier, x, sigma, range(selection_draws), **told).argmax(1)
    others = range(selection_draws, selection_draws + draws)
    return Certification(
        model=name,
        data=data.name,
        sigma=float(sigma),
        draws=draws,
        selection_draws=selection_draws,
        alpha=float(alpha),
        labels=data.labels.tolist(),
        selected=selected.tolist(),
        counts=class_counts(classifier, x, sigma, others, progress=progress, **told).tolist(),
        clean_accuracy=Rate.of(clean),
        caveats=classifier.caveats,
    )


def lower_bounds(counts: Sequence[int], draws: int, alpha: float) -> list[float]:
    """The lower ends of one-sided intervals of confidence 1 - alpha, for so many of the draws (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return [float(beta.ppf(alpha, count, draws - count + 1)) if count else 0.0 for count in counts]


def radius_of(probability: float, sigma: float) -> float:
    """The radius for a bound of the class's probability, sigma * Phi^-1(bound), in L2; 0, an abstention, up to 1/2."""
    return sigma * statistics.NormalDist().inv_cdf(probability) if 0.5 < probability < 1 else 0.0


def smoothed_class(counts: Sequence[int], alpha: float) -> int | None:
    """The class that most draws gave, by their counts [C]; None where chance may have put it before the second.

    PREDICT of Cohen et al. (2019): a two-sided binomial test of the two classes. It gives another class than the smoothed
    classifier with a chance of alpha at most.
    """
    from scipy.stats import binomtest

    second, first = sorted(counts)[-2:]
    likely = first and binomtest(first, first + second, 0.5).pvalue <= alpha
    return list(counts).index(first) if likely else None
