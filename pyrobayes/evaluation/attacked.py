"""How a classifier does on adversarial images."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from pyrobayes import attacks, distributed
from pyrobayes.attacks import Attack, Problem
from pyrobayes.attacks.base import lengths
from pyrobayes.codec import saved
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError, check_eps, check_integer
from pyrobayes.evaluation.diagnostics import CHECKED, diagnose
from pyrobayes.evaluation.images import expect, validated_images
from pyrobayes.evaluation.ranges import check_bounds, check_classes, check_lengths, check_range, require
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.summary import Summarized, at_each
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.inference.noise import NoiseStream, Purpose, key_of, uniforms
from pyrobayes.options import EPS
from pyrobayes.progress import Progress, shows_progress


def _finite(distances: list[float] | None) -> list[float | None] | None:
    return distances and [distance if math.isfinite(distance) else None for distance in distances]


def _infinite(saved: list[float | None] | None) -> list[float] | None:
    return saved and [math.inf if distance is None else float(distance) for distance in saved]


@dataclass(frozen=True, repr=False)
class AttackResult(Summarized):
    """How a classifier does on adversarial images.

    Attributes:
        model, generative, attack, data: the classifier, the attack and the data set.
        options: the attack's options, and those of the classifier that the attacker overrides.
        eps: [E] the bounds.
        labels: [N] true classes.
        clean_predictions: [N] predicted classes of the clean images.
        predictions: [E][N] predicted classes of the adversarial images.
        posteriors: [E][N] posteriors of those predicted classes.
        unmoved: images, not of the target class, for which no gradient that the attack asked for had a finite value
            other than zero. None of an attack that does without.
        distances: [N] L2 lengths of the least changes that an attack which looks for them found; infinite where the
            classifier didn't fall for it; None for other attacks.
        flipped_by_resampling: as in :class:`Evaluation`, of the first clean images; None for a classifier that isn't random.
        approximation: as there, of the same images.
        gradient_signs: share of the pixels of these whose gradient has another sign than that without approximations,
            with the same noise; None where the attacker's options ask for none.
        classes: C; None in results of earlier versions, whose classes are only known to be from 0.
        clean_log_joint: [N, C] nats, of the clean images. This and what follows is None of a result read from its file.
        log_joint: [E, N, C] nats, of the adversarial images.
        examples: [E, M, channels, height, width] the first adversarial images.
    """

    model: str
    generative: bool
    attack: str
    options: dict
    data: str
    eps: tuple[float, ...]
    labels: list[int]
    clean_predictions: list[int]
    predictions: list[list[int]]
    posteriors: list[list[float]]
    unmoved: Rate
    distances: list[float] | None = field(default=None, metadata=saved(encode=_finite, decode=_infinite))
    flipped_by_resampling: Rate | None = field(default=None, metadata=saved("changed"))
    approximation: Rate | None = None
    gradient_signs: Rate | None = None
    classes: int | None = None
    clean_log_joint: Tensor | None = field(default=None, metadata=saved(omit=True))
    log_joint: Tensor | None = field(default=None, metadata=saved(omit=True))
    examples: Tensor | None = field(default=None, metadata=saved(omit=True))
    DERIVED = {
        "clean_accuracy": lambda self: self.clean_accuracy,
        "rates": lambda self: [self._rates(i) for i in range(len(self.eps))],
    }

    def __post_init__(self):
        check_bounds(self.eps)
        require(self.images > 0, "no images")
        require(self.unmoved.total == self.images, f"unmoved must be of {self.images} images, got {self.unmoved.total}")
        check_lengths(len(self.eps), self, "predictions", "posteriors")
        check_lengths(self.images, self, "clean_predictions", "distances")
        check_classes("labels", self.labels, self.classes)
        check_classes("clean_predictions", self.clean_predictions, self.classes)
        for predictions, posteriors in zip(self.predictions, self.posteriors):
            require(len(predictions) == len(posteriors) == self.images, f"results must be of {self.images} images each")
            check_classes("predictions", predictions, self.classes)
            check_range("posteriors", posteriors, 1.0001)
        check_range("distances", self.distances or [], math.inf)

    @classmethod
    def of(cls, *, clean_log_joint: Tensor, log_joint: Tensor, **others) -> "AttackResult":
        """A result with the predictions and posteriors that the log joints give."""
        return cls(
            clean_log_joint=clean_log_joint,
            log_joint=log_joint,
            classes=clean_log_joint.shape[1],
            clean_predictions=clean_log_joint.argmax(1).tolist(),
            predictions=log_joint.argmax(2).tolist(),
            posteriors=log_joint.softmax(2).amax(2).tolist(),
            **others,
        )

    def _summary(self) -> tuple[str, list[list[str]]]:
        rates = {"misclassified (%)": self.success, "correct images flipped (%)": self.flipped}
        rows = [[name, *(rate(i).percent() for i in range(len(self.eps)))] for name, rate in rates.items()]
        title = f"{self.attack} on {self.model}, {self.images:,} images of {self.data}"
        return f"{title}, clean accuracy {self.clean_accuracy.sentence()}", [["", *at_each(self.eps)], *rows]

    @property
    def images(self) -> int:
        """The number of attacked images."""
        return len(self.labels)

    @property
    def clean_accuracy(self) -> Rate:
        """Share of the clean images classified correctly."""
        return Rate(sum(p == y for p, y in zip(self.clean_predictions, self.labels)), self.images)

    def success(self, index: int) -> Rate:
        """Success rate at `eps[index]`: share of all attacked images that end up misclassified."""
        return Rate(sum(p != y for p, y in zip(self.predictions[index], self.labels)), self.images)

    def flipped(self, index: int) -> Rate:
        """Share of the initially correct images that end up misclassified at `eps[index]`."""
        triples = zip(self.predictions[index], self.clean_predictions, self.labels)
        right = [p != y for p, clean, y in triples if clean == y]
        return Rate(sum(right), len(right))

    @property
    def median_distance(self) -> float | None:
        """Median of the distances over the initially correct images; infinite where most didn't fall for the attack.

        Images of the target class, which are left alone, are not among them; NaN if there are no others.
        """
        if self.distances is None:
            return None
        each = zip(self.distances, self.clean_predictions, self.labels, strict=True)
        right = [distance for distance, p, y in each if p == y != self.options.get("target")]
        return statistics.median(right) if right else math.nan

    def reached(self, index: int) -> Rate | None:
        """Share of the images of other classes that end up in the target class at `eps[index]`; None without one."""
        target = self.options.get("target")
        if not isinstance(target, int):
            return None
        others = [p == target for p, y in zip(self.predictions[index], self.labels) if y != target]
        return Rate(sum(others), len(others))

    def _rates(self, index: int) -> dict:
        """The rates at `eps[index]`, as the file has them."""
        reached = self.reached(index)
        rates = {"eps": self.eps[index], "success": self.success(index), "flipped": self.flipped(index)}
        return rates | ({"reached": reached} if reached else {})


@shows_progress
def attack(
    classifier: BayesClassifier,
    data: Images,
    eps: float | Sequence[float] = EPS,
    *,
    by: Attack | str = "fgsm",
    attacker: Mapping = MappingProxyType({}),
    images: int | None = None,
    batch_size: int = 100,
    examples: int | None = 8,
    checked: int = CHECKED,
    progress: Progress | bool | None = True,
) -> AttackResult:
    """Attack a classifier on every image of a data set.

    Args:
        classifier: such as :func:`pyrobayes.load` gives; it defends itself with its own particles, noise and seed.
        data: labelled images.
        eps: bounds of the perturbation in the attack's norm.
        by: the attack, or its name.
        attacker: options of the classifier that the attacker overrides, such as particles.
        images: take only the first so many images; all where None.
        batch_size: images at a time; changes memory and speed, not results.
        examples: how many adversarial images to keep; all where None.
        checked: how many clean images the diagnostics look at; none where 0.
        progress: True shows a bar on a terminal and in a notebook, False or None shows nothing; a
            :class:`pyrobayes.Progress` is called after every batch.
    """
    perturb = attacks.get(by) if isinstance(by, str) else by
    expect("attack", perturb, Attack)
    expect("attacker", attacker, Mapping)
    check_integer("examples", examples or 0, least=0)
    check_integer("checked", checked, least=0)
    data, everything = validated_images(classifier, data, images, batch_size), data
    eps, seen = check_eps(eps, perturb.norm), classifier.replaced(**attacker) if attacker else classifier
    # The nearest image has to be found before its distance is known. No image of [0, 1] is further than the last bound.
    bounds = (*eps, math.sqrt(data.pixels[0].numel())) if perturb.least_distance else eps
    if isinstance(perturb.target, int):
        check_integer("target", perturb.target, least=0, most=len(data.classes) - 1)
    keep = len(data) if examples is None else min(examples, len(data))
    size, batches = min(batch_size, max(1, seen.images_at_once // perturb.eot)), []
    for indices, x, y in distributed.share(data.batches(size)):
        towards = of_other_classes(everything, indices, perturb.seed).to(x.device) if perturb.matching else None
        problem = Problem(perturb, seen.for_images(indices, NoiseStream.ATTACKER), x, y, indices, towards)
        found = _solved(problem, perturb, classifier.for_images(indices, NoiseStream.DEFENDER), bounds, len(eps))
        found["examples"] = found["examples"][: max(0, keep - int(indices[0]))]
        batches.append({name: value.cpu() for name, value in found.items()})
        progress.images(classifier.factorization.name, int(indices[-1]) + 1, len(data))
    batches = distributed.gather(batches)
    found = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    return AttackResult.of(
        model=classifier.factorization.name,
        generative=classifier.factorization.structure.generative,
        attack=perturb.name,
        options=perturb.described() | ({"attacker": dict(attacker)} if attacker else {}),
        data=data.name,
        eps=eps,
        labels=data.labels.tolist(),
        unmoved=Rate.of(found["unmoved"]),
        distances=found["distances"].tolist() if perturb.least_distance else None,
        clean_log_joint=found["clean"],
        log_joint=found["attacked"].transpose(0, 1),
        examples=found["examples"].transpose(0, 1),
        **diagnose(classifier, seen, data.head(min(checked, len(data))), batch_size) if checked else {},
    )


def _solved(
    problem: Problem, perturb: Attack, defender: BayesClassifier, bounds: Sequence[float], wanted: int
) -> dict[str, Tensor]:
    """One batch attacked within all bounds, and judged by the defender; the first `wanted` bounds are reported."""
    x, y = problem.x, problem.y
    adversarial = perturb.solve(problem, bounds)
    with torch.no_grad():
        clean = defender(x)
        # At eps 0 the image is the clean one, and so is its noise.
        attacked = torch.stack([defender(image) if e else clean for e, image in zip(bounds, adversarial)])
    last = attacked[-1].argmax(1)
    astray = last == perturb.target if isinstance(perturb.target, int) else last != y
    return {
        "clean": clean,
        "attacked": attacked[:wanted].transpose(0, 1),
        "unmoved": problem.blind & (y != perturb.target) & perturb.follows_gradient,
        "distances": lengths(adversarial[-1] - x)[:, 0, 0, 0].where(astray, math.inf),
        "examples": adversarial[:wanted].transpose(0, 1),
    }


def of_other_classes(data: Images, indices: Tensor, seed: int) -> Tensor:
    """One image of another class for each of those at `indices`, [B, channels, height, width], drawn from (seed, index)."""
    labels = data.labels.cpu()
    by_class, place = labels.sort(stable=True)
    label = labels[indices.cpu()]
    first, last = (torch.searchsorted(by_class, label, right=right) for right in (False, True))
    others = len(labels) - (last - first)
    if not others.all():
        raise InputError(f"{data.name} has images of one class only: a matching loss needs those of another")
    uniform = uniforms(key_of(seed, Purpose.REFERENCES, indices.cpu()), torch.tensor(0))
    drawn = (uniform * others).long().clamp(max=others - 1)
    return data.batch(place[drawn + (drawn >= first) * (last - first)].to(data.labels.device))[0]
