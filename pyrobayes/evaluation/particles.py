"""How many particles are enough: what their number K does to a classifier."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyrobayes.codec import saved
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError, check_integer
from pyrobayes.evaluation.images import map_images, validated_images
from pyrobayes.evaluation.rates import NORMAL_95, Rate
from pyrobayes.evaluation.records import FINITE, Limits, Record, require
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.inference.importance import ImportanceEstimate
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.progress import Progress, shows_progress

COUNTS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Mean:
    """A mean over images, and half the width of its 95% interval, normal."""

    value: float
    half: float

    @classmethod
    def of(cls, values: Tensor) -> "Mean":
        """The mean of values [N]; one alone has an interval without ends."""
        half = NORMAL_95 * values.std().item() / len(values) ** 0.5 if len(values) > 1 else math.inf
        return cls(values.mean().item(), half)

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the interval."""
        return self.value - self.half, self.value + self.half


@dataclass(frozen=True)
class Effect(Record):
    """A classifier's results with K particles a class. Other fields are told in :mod:`pyrobayes.evaluation.records`.

    Attributes:
        particles: K.
        serving: how many particles log p(x, y) is the estimate of: K, or C K under the mixture, where all classes share them.
        accuracy: share of images classified correctly.
        effective_sample_size: from 1 to `serving`, of an image the mean over its classes.
        pareto_k: the quantiles of 5, 50 and 95% over images and classes, see
            :func:`pyrobayes.inference.importance.pareto_shape`; None where fewer than 21 serve, or all weights of an
            image and class are the same.
        log_joint: [N] nats, log p(x, y) of every image with its true class.
    """

    model: str
    estimator: str
    data: str
    generative: bool
    particles: int
    serving: int
    accuracy: Rate
    flipped_by_resampling: Rate = field(metadata=saved("changed"))
    effective_sample_size: Mean
    pareto_k: tuple[float, float, float] | None
    log_joint: list[float] = field(metadata=saved(encode=lambda values: [round(value, 4) for value in values]))
    LIMITS = {
        "accuracy": Limits(),
        "flipped_by_resampling": Limits(),
        "pareto_k": Limits("Q", least=-FINITE, most=FINITE),
        "log_joint": Limits("N", least=-FINITE, most=FINITE),
    }

    def __post_init__(self):
        super().__post_init__()
        require(self.images > 1, f"an effect needs two images at least, got {self.images}")
        require(1 <= self.particles <= self.serving, f"{self.serving} particles can't serve for {self.particles}")
        size = self.effective_sample_size.value
        require(0 <= size <= 1.0001 * self.serving, f"effective_sample_size must be up to {self.serving}, got {size}")

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.log_joint)

    def bias(self, reference: "Effect") -> Mean:
        """log p(x, y) less that of a better estimate, nats: the mean over the images that both are of."""
        return Mean.of(torch.tensor(self.log_joint) - torch.tensor(reference.log_joint))


def references(measured: Sequence[Effect]) -> dict[str, Effect]:
    """By model, the effect of which most particles serve: what the bias of the others is told against."""
    return {effect.model: effect for effect in sorted(measured, key=lambda effect: effect.serving)}


@shows_progress
def effects(
    classifier: BayesClassifier,
    data: Images,
    counts: Sequence[int] = COUNTS,
    *,
    batch_size: int = 20,
    progress: Progress | bool | None = True,
) -> list[Effect]:
    """Evaluate a classifier with every number of particles in `counts`.

    The particles of a smaller number are the first of a larger one, so that two numbers differ by what the others add.

    Args:
        classifier: such as :func:`pyrobayes.load` gives; its own number of particles and pruning don't matter.
        data: labelled images, two at least.
        counts: numbers K of particles.
        batch_size, progress: as in :func:`pyrobayes.evaluate`.
    """
    for count in counts:
        check_integer("counts", count, least=1)
    counts = sorted(set(counts))
    if not isinstance(classifier, BayesClassifier):
        raise InputError(
            f"classifier must be a BayesClassifier, as pyrobayes.load gives one, got {repr(classifier):.80}"
        )
    data = validated_images(classifier, data, None, batch_size)
    if not counts or len(data) < 2:
        raise InputError(f"counts and two images at least are needed, got counts {counts} and {len(data)} images")
    most = classifier.replaced(particles=counts[-1], prune=None, noise="fresh")
    shared = classifier.factorization.num_classes if most.options.estimator == "mixture" else 1

    def measure(indices: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        draws = NoiseStream.DEFENDER, NoiseStream.SECOND_DRAW
        weights = [most.for_images(indices, draw).estimate(x).log_weights.cpu() for draw in draws]
        return {
            (count, name): value
            for count in counts
            for name, value in _compared(*(each[: count * shared] for each in weights), y.cpu()).items()
        }

    found = map_images(measure, data, batch_size, classifier.factorization.name, progress)
    return [
        Effect(
            model=classifier.factorization.name,
            estimator=most.options.estimator,
            data=data.name,
            generative=classifier.factorization.structure.generative,
            particles=count,
            serving=count * shared,
            accuracy=Rate.of(found[count, "right"]),
            flipped_by_resampling=Rate.of(found[count, "flipped"]),
            effective_sample_size=Mean.of(found[count, "sizes"]),
            pareto_k=_quantiles(found[count, "pareto_k"]),
            log_joint=found[count, "log_joint"].tolist(),
        )
        for count in counts
    ]


def _compared(ours: Tensor, others: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Results [B] of images by their log weights [K, C, B]; other draws tell which predictions change."""
    estimate = ImportanceEstimate(ours)
    predicted = estimate.log_joint.argmax(1)
    return {
        "right": predicted == y,
        "flipped": predicted != ImportanceEstimate(others).log_joint.argmax(1),
        "sizes": estimate.effective_sample_size.mean(1),
        "log_joint": estimate.log_joint.gather(1, y[:, None])[:, 0],
        "pareto_k": estimate.pareto_k,
    }


def _quantiles(tails: Tensor) -> tuple[float, ...] | None:
    quantiles = tails.flatten().quantile(tails.new_tensor([0.05, 0.5, 0.95])).tolist()
    return tuple(quantiles) if tails.isfinite().all() else None
