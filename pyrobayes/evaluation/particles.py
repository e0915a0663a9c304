"""How many particles are enough: what their number K does to a classifier."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyrobayes.codec import saved
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError, check_integer
from pyrobayes.evaluation.images import validated_images
from pyrobayes.evaluation.ranges import check_range, require
from pyrobayes.evaluation.rates import NORMAL_95, Rate
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
        """The mean of values [N], at least two."""
        return cls(values.mean().item(), NORMAL_95 * values.std().item() / len(values) ** 0.5)

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the interval."""
        return self.value - self.half, self.value + self.half


def _to_four_places(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]


@dataclass(frozen=True)
class Effect:
    """A classifier's results with K particles a class.

    Attributes:
        model, estimator, data: names.
        generative: nothing depends on the image, see :attr:`pyrobayes.factorizations.Structure.generative`.
        particles: K.
        serving: how many particles log p(x, y) is the estimate of: K, or C K under the mixture, where all classes share them.
        accuracy: share of images classified correctly.
        flipped_by_resampling: share of images whose class another draw changes.
        effective_sample_size: from 1 to `serving`, of an image the mean over its classes.
        pareto_k: the quantiles of 5, 50 and 95% over images and classes, see :func:`pyrobayes.inference.importance.pareto_shape`; None where
            fewer than 21 serve, or all weights of an image and class are the same.
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
    log_joint: list[float] = field(metadata=saved(encode=_to_four_places))

    def __post_init__(self):
        images = len(self.log_joint)
        require(
            images > 1 and all(map(math.isfinite, self.log_joint)), "log_joint must be finite, of two images at least"
        )
        require(self.accuracy.total == self.flipped_by_resampling.total == images, f"rates must be of {images} images")
        require(1 <= self.particles <= self.serving, f"{self.serving} particles can't serve for {self.particles}")
        check_range("effective_sample_size", [self.effective_sample_size.value], 1.0001 * self.serving)
        require(all(map(math.isfinite, self.pareto_k or ())), "pareto_k must be finite")

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
        batch_size: images at a time; changes memory and speed, not results.
        progress: True shows a bar on a terminal and in a notebook, False or None shows nothing; a
            :class:`pyrobayes.Progress` is called after every batch.

    Raises:
        InputError: the data or the counts can't be used.
    """
    for count in counts:
        check_integer("counts", count, least=1)
    counts = sorted(set(counts))
    data = validated_images(classifier, data, None, batch_size)
    if not counts or len(data) < 2:
        raise InputError(f"counts and two images at least are needed, got counts {counts} and {len(data)} images")
    most = classifier.replaced(particles=counts[-1], prune=None, noise="fresh")
    shared = classifier.factorization.num_classes if most.options.estimator == "mixture" else 1
    found: list[list[tuple[Tensor, ...]]] = [[] for _ in counts]
    with torch.no_grad():
        for indices, x, y in data.batches(batch_size):
            y = y.cpu()
            draws = [
                most.for_images(indices, draw).estimate(x).log_weights.cpu()
                for draw in (NoiseStream.DEFENDER, NoiseStream.SECOND_DRAW)
            ]
            for batches, count in zip(found, counts):
                ours, others = (ImportanceEstimate(log_weights[: count * shared]) for log_weights in draws)
                predicted, again = (each.log_joint.argmax(1) for each in (ours, others))
                log_joint = ours.log_joint.gather(1, y[:, None])[:, 0]
                sizes = ours.effective_sample_size.mean(1)
                batches.append((predicted == y, predicted != again, sizes, log_joint, ours.pareto_k))
            progress.images(classifier.factorization.name, int(indices[-1]) + 1, len(data))
    return [
        _effect(most, data, count, count * shared, *(torch.cat(parts) for parts in zip(*batches)))
        for count, batches in zip(counts, found)
    ]


def _effect(
    classifier: BayesClassifier, data: Images, count: int, serving: int, right, changed, sizes, log_joint, tails
):
    quantiles = tails.flatten().quantile(tails.new_tensor([0.05, 0.5, 0.95])).tolist()
    return Effect(
        model=classifier.factorization.name,
        estimator=classifier.options.estimator,
        data=data.name,
        generative=classifier.factorization.structure.generative,
        particles=count,
        serving=serving,
        accuracy=Rate.of(right),
        flipped_by_resampling=Rate.of(changed),
        effective_sample_size=Mean.of(sizes),
        pareto_k=tuple(quantiles) if tails.isfinite().all() else None,
        log_joint=log_joint.tolist(),
    )
