"""The declaration of an attack: its options with their defaults and help, what all attacks share, and the registry.

The command line takes the options of all attacks from these declarations, and must not wait seconds for torch. A function
of an attack that needs torch to compute therefore imports it in its first line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from pyrobayes import errors
from pyrobayes.attacks.losses import LOSSES, MATCHING
from pyrobayes.errors import InputError
from pyrobayes.options import GRADIENTS, check_fields, declaration, option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pyrobayes.attacks.problem import Problem

EACH = "each"
LEAST = 2.0**-126  # float32's least normal number: a length of at least this can be divided by
_REGISTRY: dict[str, type[Attack]] = {}


@dataclass(frozen=True)
class Attack:
    """An attack in an eps ball: a subclass computes the perturbations, the base keeps them in bounds.

    A subclass is a frozen dataclass. Its fields are its options, and it defines :meth:`perturb`. A field that is made
    by :func:`pyrobayes.options.option` with a help text is an option of the command line too, and a field of
    :class:`pyrobayes.AttackOptions`. A subclass that changes only the default of a field keeps its help and its check.

    Class variables say what else is to be known of an attack:

    * `norms`: the norms that can bound it, its default first;
    * `least_distance`: it looks for the nearest adversarial image, and eps only limits the distance;
    * `follows_gradient`: it uses the gradient of the classifier that it attacks.

    Args:
        seed: seed of the numbers that the attack draws.
        evade: a function of log p(x, y) [B, C] that gives [B], and that the attack also keeps low, such as
            :meth:`pyrobayes.evaluation.detection.Detector.evading`.
        evade_weight: lambda, the weight with which `evade` is subtracted from the loss.
    """

    norm: str = option(
        "linf",
        "norm of the perturbation that eps bounds; l0 counts pixel values, area is a share of the image",
        ("linf", "l2", "l1", "l0", "area"),
    )
    loss: str = option(
        "cross-entropy",
        "loss that the attack increases; a matching loss goes towards an image of another class",
        (*LOSSES, *MATCHING),
    )
    term: str | None = option(
        None,
        "factor whose log-probability alone the attack sees",
        ("x", "y", "z"),
        open=True,
        none_means="all factors",
    )
    snapshot: bool = option(False, "increase the mean of the losses of every particle's own log joint")
    target: str | int | None = option(
        None, "number of the class to be predicted, or 'each'", none_means="any but the true one"
    )
    eot: int = option(
        1,
        "independent estimates of the posterior whose mean the attack sees; with --snapshot, times as many particles",
        check=errors.check_count,
    )
    gradient: str = option(
        "path",
        "gradient of log p(x, y): through the guide's samples too, by Fisher's identity with them held fixed, or half of each",
        GRADIENTS,
    )
    seed: int = option(0, check=errors.check_seed)
    evade: Callable | None = None
    evade_weight: float = option(1.0, check=errors.check_positive)

    name: ClassVar[str] = "this attack"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    least_distance: ClassVar[bool] = False
    follows_gradient: ClassVar[bool] = True

    def __post_init__(self):
        check_fields(self)
        if self.norm not in self.norms:
            bounds = " or ".join(self.norms)
            raise InputError(f"{self.name} is bounded in {bounds}, not in {self.norm}: leave the norm out")
        if self.target is not None and self.target != EACH:
            errors.check_integer("target", self.target, least=0)
        without = ["target", "snapshot", "evade"] + ["term"] * (self.loss == "latent-matching")
        for name in without if self.matching else ():
            if getattr(self, name) is not None and getattr(self, name) is not False:
                raise InputError(f"{self.loss} goes towards another image, and has no {name}: leave it out")
        if self.evade is not None and self.eot > 1 and not self.snapshot:
            raise InputError(
                "eot sees the mean of posteriors, which has no log p(x) to evade a test with: leave eot out, or take a snapshot"
            )
        if self.gradient != "path" and self.term is not None:
            raise InputError("Fisher's identity is one of all factors together: leave term or gradient out")
        if self.gradient != "path" and self.loss == "latent-matching":
            raise InputError(
                "latent-matching follows the guide alone, which only the gradient path does: leave gradient out"
            )
        if self.evade is not None and self.term is not None:
            raise InputError("a test to evade looks at all terms of log p(x, y): leave term out")

    @property
    def matching(self) -> bool:
        """True if the attack goes towards images of other classes."""
        return self.loss in MATCHING

    def described(self) -> dict:
        """The options as plain JSON values."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.gradient == "path":
            del plain["gradient"]  # as in results from before there was a choice
        return plain | {"evade": self.evade and str(self.evade)}

    def gradients(self, particles: int, classes: int) -> int:
        """How many gradients of one particle of one class an image takes at most, where the classifier has so many of both."""
        several = (getattr(self, name, 1) for name in ("steps", "restarts", "eot"))
        return math.prod(several) * particles * classes if self.follows_gradient else 0

    def perturb(self, problem: Problem, eps: float) -> Tensor:
        """Adversarial images [B, channels, height, width] for one eps; the base keeps them in bounds."""
        raise NotImplementedError(f"{type(self).__name__} must define perturb(problem, eps)")

    def perturb_all(self, problem: Problem, eps: Sequence[float]) -> Sequence[Tensor]:
        """Adversarial images [B, channels, height, width] for each of several eps; one eps at a time by default."""
        return [self.perturb(problem, value) if value else problem.x for value in eps]

    def __call__(
        self,
        classifier: nn.Module,
        x: Tensor,
        y: Tensor,
        eps: float | Sequence[float],
        *,
        indices: Tensor | None = None,
        references: Tensor | None = None,
    ) -> Tensor:
        """Attack a classifier.

        Args:
            classifier: gives log p(x, y), or logits, [B, C], differentiably in x: ours, or any module or function, see
                :class:`pyrobayes.ModuleClassifier`. A random classifier draws its noise from the images' places, unless it
                was made for certain images already (:meth:`pyrobayes.BayesClassifier.for_images`).
            x: images [B, channels, height, width] in [0, 1].
            y: their true classes [B].
            eps: bounds of the perturbation in the attack's norm; in L-infinity each in [0, 1].
            indices: [B] the images' places in their data set; the numbers that the attack draws follow from them. They
                count from 0 where left out.
            references: [B, channels, height, width] images of other classes that a matching loss goes towards.

        Returns:
            Adversarial images in [0, 1], none further than eps from its original:
            [E, B, channels, height, width] for E values of eps, without the first dimension for a single number.
        """
        from pyrobayes.attacks.problem import Problem

        single = errors.is_number(eps)
        values = [float(eps)] if single else errors.numbers_in(eps)
        problem = Problem(self, classifier, x, y, indices, references)
        adversarial = self.solve(problem, values)
        if not getattr(classifier, "pinned", False):  # as training attacks it, batch after batch
            problem.warn_of_no_gradient()
        return adversarial[0] if single else adversarial

    def solve(self, problem: Problem, eps: Sequence[float]) -> Tensor:
        """The adversarial images of one batch, [E, B, channels, height, width], for E values of eps."""
        import torch

        errors.check_eps(eps, self.norm)
        if self.target != EACH:
            return self._bounded(problem, eps)

        def towards(target: int) -> tuple[Tensor, Tensor]:
            found = self._bounded(problem.towards(target), eps)
            losses = torch.stack([problem.loss(images) for images in found])  # without a target
            return found, losses.where(problem.y != target, -math.inf)

        with torch.no_grad():
            classes = problem.log_posterior(problem.x, 0).shape[1]
        return worst(towards(target) for target in range(classes))

    def _bounded(self, problem: Problem, eps: Sequence[float]) -> Tensor:
        import torch

        with problem.precisely():  # for gradients that other libraries take
            found = [images.detach() for images in self.perturb_all(problem, eps)]
        if problem.target is not None:
            found = [images.where(per_image(problem.target != problem.y), problem.x) for images in found]
        return torch.stack([problem.project(images, value) for images, value in zip(found, eps, strict=True)])


def worst(candidates: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """For each image, the candidate with the highest loss.

    Args:
        candidates: at least one pair of images [..., channels, height, width] and losses [...].
    """
    best = highest = None
    for images, loss in candidates:
        if best is None:
            best, highest = images, loss.new_full(loss.shape, -math.inf)
        best, highest = higher(images, loss, best, highest)
    return best


def higher(images: Tensor, loss: Tensor, best: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """The new images and losses where the loss is above the highest so far; the best and the highest elsewhere."""
    better = loss > highest
    return images.where(per_image(better), best), loss.where(better, highest)


def per_image(values: Tensor) -> Tensor:
    """One value for each image, [...], as [..., 1, 1, 1]."""
    return values[..., None, None, None]


def lengths(images: Tensor) -> Tensor:
    """L2 norms, [B, 1, 1, 1]."""
    return per_image(images.flatten(1).norm(dim=1))


def register(name: str) -> Callable[[type[Attack]], type[Attack]]:
    """Class decorator: make an attack known under `name`, lower case."""

    def add(cls: type[Attack]) -> type[Attack]:
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return add


def offered() -> dict[str, dict[str, type[Attack]]]:
    """The options of attacks that have a help text, each with the attacks that have it, by name."""
    found: dict[str, dict[str, type[Attack]]] = {}
    for attack, cls in _REGISTRY.items():
        for field in fields(cls):
            if field.init and "help" in declaration(cls, field.name):
                found.setdefault(field.name, {})[attack] = cls
    return found


def names() -> list[str]:
    """The names of all registered attacks."""
    return list(_REGISTRY)


def options(name: str) -> set[str]:
    """The names of the options of an attack."""
    return {field.name for field in fields(_REGISTRY[errors.choice("attack", name, _REGISTRY)]) if field.init}


def get(name: str, **given) -> Attack:
    """The attack registered under `name`, with its options.

    Raises:
        InputError: no attack has this name (the message says the nearest one), or this attack has no such option.
    """
    name = errors.choice("attack", name, _REGISTRY)
    if unknown := sorted(set(given) - options(name)):
        raise InputError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(sorted(options(name)))}")
    return _REGISTRY[name](**given)
