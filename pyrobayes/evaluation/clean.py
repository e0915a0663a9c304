"""How a classifier does on clean images."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pyrobayes.codec import saved
from pyrobayes.data.images import Images
from pyrobayes.evaluation.images import approximation, chosen_batch, map_images, opened, validated_images
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.records import FINITE, Limits, Summarized, require
from pyrobayes.inference.interface import Classifier
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.progress import Progress, shows_progress


@dataclass(frozen=True, repr=False)
class Evaluation(Summarized):
    """How a classifier does on clean images. Other fields are told in :mod:`pyrobayes.evaluation.records`.

    Attributes:
        images: how many were taken.
        accuracy: share of the images classified correctly.
        negative_log_likelihood: mean of -log p(y|x), nats.
        calibration_error: expected calibration error of the predicted class's posterior, 15 equal bins
            (Guo et al. 2017), from 0 to 1.
        log_evidence: mean log p(x), nats; None for a model without p(x|...).
        effective_sample_size: mean over images and classes, from 1 to the particles that serve each class; None without particles.
        confusion: [C][C] counts, true class by predicted class.
    """

    model: str
    data: str
    images: int
    accuracy: Rate
    flipped_by_resampling: Rate = field(metadata=saved("changed"))
    negative_log_likelihood: float
    calibration_error: float
    log_evidence: float | None
    effective_sample_size: float | None
    confusion: list[list[int]]
    approximation: Rate | None = None
    caveats: tuple[str, ...] = field(default=(), metadata=saved(if_any=True))
    LIMITS = dict.fromkeys(
        ("negative_log_likelihood", "log_evidence", "effective_sample_size"), Limits(least=-FINITE, most=FINITE)
    ) | {"calibration_error": Limits(most=1.0001)}

    def __post_init__(self):
        super().__post_init__()
        counts = [count for row in self.confusion for count in row]
        totals = self.accuracy.total, self.flipped_by_resampling.total, sum(counts)
        require(totals == (self.images,) * 3, f"{self.images} images, but their rates and counts are of {totals}")
        require(min(counts, default=0) >= 0, "confusion must have counts from 0")
        require(all(len(row) == len(self.confusion) for row in self.confusion), "confusion must be [C][C]")

    def _summary(self) -> tuple[str, list[list[str]]]:
        cells = {
            "accuracy (%)": self.accuracy.percent(),
            "changed (%)": self.flipped_by_resampling.percent(),
            "NLL (nats)": f"{self.negative_log_likelihood:.3f}",
            "ECE": f"{self.calibration_error:.3f}",
            "log p(x) (nats)": "-" if self.log_evidence is None else f"{self.log_evidence:.2f}",
            "ESS": "-" if self.effective_sample_size is None else f"{self.effective_sample_size:.2f}",
        }
        return f"{self.model} on {self.images:,} images of {self.data}", [list(cells), list(cells.values())]


@shows_progress
def evaluate(
    classifier: Classifier | nn.Module,
    data: Images,
    *,
    name: str | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    progress: Progress | bool | None = True,
) -> Evaluation:
    """Evaluate a classifier on clean images, with its own particles, noise and seed.

    Args:
        classifier: such as :func:`pyrobayes.load` gives, or any module from images to logits [B, C]; see
            :class:`pyrobayes.ModuleClassifier`.
        data: labelled images.
        name: of the classifier in results, in place of its own or its class's.
        images: take only the first so many of them.
        batch_size: images at a time; changes memory and speed, not results. By what is free on a GPU where left out.
        progress: True shows a bar on a terminal and in a notebook, False or None shows nothing; a
            :class:`pyrobayes.Progress` is called after every batch.
    """
    classifier = opened(classifier, data, name)
    batch_size = chosen_batch(classifier, batch_size)
    data, fresh = validated_images(classifier, data, images, batch_size), classifier.replaced(noise="fresh")

    def measure(indices: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        estimate = classifier.for_images(indices, NoiseStream.DEFENDER).estimate(x)
        other = fresh.for_images(indices, NoiseStream.SECOND_DRAW)(x).argmax(1)
        return {"log_joint": estimate.log_joint, "sizes": estimate.effective_sample_size, "other": other}

    found = map_images(measure, data, batch_size, classifier.name, progress)
    log_joint, labels, classes = found["log_joint"], data.labels.cpu(), len(data.classes)
    predicted, posterior = log_joint.argmax(1), log_joint.log_softmax(1)
    confusion = (labels * classes + predicted).bincount(minlength=classes**2).reshape(classes, classes)
    return Evaluation(
        model=classifier.name,
        data=data.name,
        images=len(data),
        accuracy=Rate.of(predicted == labels),
        flipped_by_resampling=Rate.of(predicted != found["other"]),
        negative_log_likelihood=-posterior.gather(1, labels[:, None]).mean().item(),
        calibration_error=calibration_error(posterior.exp(), labels),
        log_evidence=log_joint.logsumexp(1).mean().item() if classifier.structure.models_images else None,
        effective_sample_size=found["sizes"].mean().item() if classifier.has_particles else None,
        confusion=confusion.tolist(),
        approximation=approximation(classifier, data, batch_size),
        caveats=classifier.caveats,
    )


def calibration_error(posterior: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3) of posteriors [N, C], with equal bins."""
    confidence, predicted = posterior.max(1)
    gap = (predicted == labels).float() - confidence
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return (torch.zeros(bins, device=gap.device).index_add(0, place, gap).abs().sum() / len(labels)).item()
