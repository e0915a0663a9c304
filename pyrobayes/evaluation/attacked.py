"""How a classifier does on adversarial images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn

from pyrobayes import attacks
from pyrobayes.attacks import Attack, Problem
from pyrobayes.attacks.norms import farthest, size
from pyrobayes.codec import saved
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError, check_eps, check_integer
from pyrobayes.evaluation.images import CHECKED, chosen_batch, diagnose, expect, map_images, opened, validated_images
from pyrobayes.evaluation.rates import Median, Rate
from pyrobayes.evaluation.records import FINITE, Limits, Summarized, null_for, table
from pyrobayes.inference.interface import Classifier
from pyrobayes.inference.noise import NoiseStream, Purpose, key_of, uniforms
from pyrobayes.options import EPS
from pyrobayes.progress import Progress, shows_progress

JUDGES = 20  # further draws of the defender's noise, which say whether the nearest image counts


@dataclass(frozen=True, repr=False)
class AttackResult(Summarized):
    """How a classifier does on adversarial images. Other fields are told in :mod:`pyrobayes.evaluation.records`.

    Attributes:
        labels: [N] true classes.
        clean_predictions: [N] predicted classes of the clean images.
        predictions: [E][N] predicted classes of the adversarial images.
        posteriors: [E][N] posteriors of those predicted classes.
        unmoved: images, not of the target class, for which no gradient that the attack asked for had a finite value
            other than zero. None of an attack that does without.
        distances: [N] lengths, in the attack's norm, of the least changes that an attack which looks for them found; infinite
            where the classifier didn't fall for it; None for other attacks.
        judges: further draws of the defender's noise, of which most must misclassify an image for its distance to count; None
            where one draw judges, as in results of earlier versions.
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
    distances: list[float] | None = field(default=None, metadata=null_for(math.inf))
    judges: int | None = None
    flipped_by_resampling: Rate | None = field(default=None, metadata=saved("changed"))
    approximation: Rate | None = None
    gradient_signs: Rate | None = None
    classes: int | None = None
    caveats: tuple[str, ...] = field(default=(), metadata=saved(if_any=True))
    clean_log_joint: Tensor | None = field(default=None, metadata=saved(omit=True))
    log_joint: Tensor | None = field(default=None, metadata=saved(omit=True))
    examples: Tensor | None = field(default=None, metadata=saved(omit=True))
    DERIVED = {
        "clean_accuracy": lambda self: self.clean_accuracy,
        "rates": lambda self: [self._rates(i) for i in range(len(self.eps))],
    }
    LIMITS = {
        "eps": Limits("E", most=FINITE),
        "unmoved": Limits(),
        "labels": Limits("N", below="classes"),
        "clean_predictions": Limits("N", below="classes"),
        "predictions": Limits("EN", below="classes"),
        "posteriors": Limits("EN", most=1.0001),
        "distances": Limits("N", most=math.inf),
    }

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
        places = range(len(self.eps))
        rates = {"misclassified (%)": self.success, "correct images flipped (%)": self.flipped}
        title = f"{self.attack} on {self.model}, {self.images:,} images of {self.data}, clean accuracy"
        title = f"{title} {self.clean_accuracy.sentence()}"
        if self.unmoved.count:
            title += f", no gradient for {self.unmoved.count} images, whose robustness is not known"
        return title, table("", self.eps, {name: list(map(rate, places)) for name, rate in rates.items()})

    @property
    def images(self) -> int:
        """The number of attacked images."""
        return len(self.labels)

    @property
    def clean_accuracy(self) -> Rate:
        """Share of the clean images classified correctly."""
        return Rate.among(p == y for p, y in zip(self.clean_predictions, self.labels))

    def success(self, index: int) -> Rate:
        """Success rate at `eps[index]`: share of all attacked images that end up misclassified."""
        return Rate.among(p != y for p, y in zip(self.predictions[index], self.labels))

    def flipped(self, index: int) -> Rate:
        """Share of the initially correct images that end up misclassified at `eps[index]`."""
        triples = zip(self.predictions[index], self.clean_predictions, self.labels)
        return Rate.among(p != y for p, clean, y in triples if clean == y)

    @property
    def median_distance(self) -> float | None:
        """Median of the distances over the initially correct images; infinite where most didn't fall for the attack.

        Images of the target class, which are left alone, are not among them; NaN if there are no others.
        """
        return self.distance and self.distance.value

    @property
    def distance(self) -> Median | None:
        """The median distance with its 95% interval."""
        if self.distances is None:
            return None
        triples = zip(self.distances, self.clean_predictions, self.labels, strict=True)
        return Median.of(distance for distance, p, y in triples if p == y != self.options.get("target"))

    def accuracy_within(self, distance: float) -> Rate:
        """Share of all images that no change which the attack found, of at most this length, has misclassified."""
        return Rate.among(each > distance for each in self.distances)

    def reached(self, index: int) -> Rate | None:
        """Share of the images of other classes that end up in the target class at `eps[index]`; None without one."""
        target = self.options.get("target")
        if not isinstance(target, int):
            return None
        return Rate.among(p == target for p, y in zip(self.predictions[index], self.labels) if y != target)

    def _rates(self, index: int) -> dict:
        """The rates at `eps[index]`, as the file has them."""
        reached = self.reached(index)
        rates = {"eps": self.eps[index], "success": self.success(index), "flipped": self.flipped(index)}
        return rates | ({"reached": reached} if reached else {})


@shows_progress
def attack(
    classifier: Classifier | nn.Module,
    data: Images,
    eps: float | Sequence[float] = EPS,
    *,
    name: str | None = None,
    by: Attack | str = "fgsm",
    attacker: Mapping = MappingProxyType({}),
    images: int | None = None,
    batch_size: int | None = None,
    examples: int | None = 8,
    checked: int = CHECKED,
    progress: Progress | bool | None = True,
) -> AttackResult:
    """Attack a classifier on every image of a data set.

    Args:
        classifier: as in :func:`pyrobayes.evaluate`; it defends itself with its own particles, noise and seed.
        data, name, images, batch_size, progress: as there.
        eps: bounds of the perturbation in the attack's norm.
        by: the attack, or its name.
        attacker: options of the classifier that the attacker overrides, such as particles.
        examples: how many adversarial images to keep; all where None.
        checked: how many clean images the diagnostics look at; none where 0.
    """
    perturb = attacks.get(by) if isinstance(by, str) else by
    expect("attack", perturb, Attack)
    expect("attacker", attacker, Mapping)
    check_integer("examples", examples or 0, least=0)
    check_integer("checked", checked, least=0)
    classifier = opened(classifier, data, name)
    batch_size = chosen_batch(classifier, batch_size)
    data, everything = validated_images(classifier, data, images, batch_size), data
    eps, seen = check_eps(eps, perturb.norm), classifier.replaced(**attacker) if attacker else classifier
    # The nearest image has to be found before its distance is known: within the last bound lies every image.
    furthest = farthest(math.prod(data.image_shape), perturb.norm) if perturb.least_distance else 0
    bounds = (*eps, furthest) if furthest > eps[-1] else eps
    judging = JUDGES if perturb.least_distance and classifier.random else None
    if isinstance(perturb.target, int):
        check_integer("target", perturb.target, least=0, most=len(data.classes) - 1)
    keep = len(data) if examples is None else min(examples, len(data))

    def measure(indices: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        towards = of_other_classes(everything, indices, perturb.seed).to(x.device) if perturb.matching else None
        problem = Problem(perturb, seen.for_images(indices, NoiseStream.ATTACKER), x, y, indices, towards)
        judges = [classifier.for_images(indices, NoiseStream.REDRAWS + number) for number in range(judging or 0)]
        solved = _solved(problem, classifier.for_images(indices, NoiseStream.DEFENDER), bounds, judges)
        return solved | {"examples": solved["examples"][: max(0, keep - int(indices[0])), : len(eps)]}

    size = min(batch_size, max(1, seen.images_at_once // perturb.eot))
    found = map_images(measure, data, size, classifier.name, progress)
    return AttackResult.of(
        model=classifier.name,
        generative=classifier.structure.generative,
        caveats=classifier.caveats,
        attack=perturb.name,
        options=perturb.described() | ({"attacker": dict(attacker)} if attacker else {}),
        data=data.name,
        eps=eps,
        labels=data.labels.tolist(),
        unmoved=Rate.of(found["unmoved"]),
        distances=found["distances"].tolist() if perturb.least_distance else None,
        judges=judging,
        clean_log_joint=found["clean"],
        log_joint=found["attacked"].transpose(0, 1)[: len(eps)],
        examples=found["examples"].transpose(0, 1),
        **diagnose(classifier, seen, data.head(min(checked, len(data))), batch_size) if checked else {},
    )


@torch.enable_grad()
def _solved(
    problem: Problem, defender: Classifier, bounds: Sequence[float], judges: Sequence[Classifier]
) -> dict[str, Tensor]:
    """One batch attacked within all bounds, and judged by the defender."""
    x, y, perturb = problem.x, problem.y, problem.attack
    adversarial = perturb.solve(problem, bounds)
    with torch.no_grad():
        clean = defender(x)
        # At eps 0 the image is the clean one, and so is its noise.
        attacked = torch.stack([defender(image) if e else clean for e, image in zip(bounds, adversarial)], dim=1)
    found = {
        "clean": clean,
        "attacked": attacked,
        "unmoved": problem.blind & (y != perturb.target) & perturb.follows_gradient,
        "examples": adversarial.transpose(0, 1),
    }
    if perturb.least_distance:
        with torch.no_grad():
            last = torch.stack([judge(adversarial[-1]) for judge in judges] or [attacked[:, -1]]).argmax(2)
        astray = (last == perturb.target if isinstance(perturb.target, int) else last != y).double().mean(0) > 0.5
        found["distances"] = size(adversarial[-1] - x, perturb.norm).where(astray, math.inf)
    return found


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
