"""The declaration of an attack: its options with their defaults and help, and what all attacks share.

The command line takes the options of all attacks from these declarations, and must not wait seconds for torch. The
modules of the attacks therefore import torch, and :class:`pyrobayes.attacks.problem.Problem`, for type checkers only
(`if TYPE_CHECKING`); a function that needs torch to compute imports it in its first line.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrobayes.attacks.losses import LOSSES, MATCHING
from pyrobayes.errors import (
    InputError,
    check_count,
    check_eps,
    check_flag,
    check_integer,
    check_norm,
    check_positive,
    check_seed,
    is_number,
    numbers_in,
)
from pyrobayes.options import TERMS, check_fields, option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pyrobayes.attacks.problem import Problem

NORMS = ("linf", "l2", "area")
EACH = "each"


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

    norm: str = option("linf", "norm of the perturbation that eps bounds; area is a share of the image", NORMS)
    loss: str = option(
        "cross-entropy",
        "loss that the attack increases; a matching loss goes towards an image of another class",
        (*LOSSES, *MATCHING),
    )
    term: str | None = option(
        None, "factor whose log-probability alone the attack sees", TERMS, open=True, none_means="all factors"
    )
    snapshot: bool = option(
        False, "increase the mean of the losses of every particle's own log joint", check=check_flag
    )
    target: str | int | None = option(
        None, "number of the class to be predicted, or 'each'", none_means="any but the true one"
    )
    eot: int = option(
        1,
        "independent estimates of the posterior whose mean the attack sees; with --snapshot, times as many particles",
        check=check_count,
    )
    seed: int = option(0, check=check_seed)
    evade: Callable | None = None
    evade_weight: float = option(1.0, check=check_positive)

    name: ClassVar[str] = "this attack"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    least_distance: ClassVar[bool] = False
    follows_gradient: ClassVar[bool] = True

    def __post_init__(self):
        check_fields(self)
        check_norm(self.name, self.norm, self.norms)
        if self.target is not None and self.target != EACH:
            check_integer("target", self.target, least=0)
        self._check_combinations()

    def _check_combinations(self) -> None:
        without = ["target", "snapshot", "evade"] + ["term"] * (self.loss == "latent-matching")
        for name in without if self.matching else ():
            if getattr(self, name) is not None and getattr(self, name) is not False:
                raise InputError(f"{self.loss} goes towards another image, and has no {name}: leave it out")
        if self.evade is not None and self.eot > 1 and not self.snapshot:
            raise InputError(
                "eot sees the mean of posteriors, which has no log p(x) to evade a test with: leave eot out, or take a snapshot"
            )
        if self.evade is not None and self.term is not None:
            raise InputError("a test to evade looks at all terms of log p(x, y): leave term out")

    @property
    def matching(self) -> bool:
        """Whether the attack goes towards images of other classes."""
        return self.loss in MATCHING

    def described(self) -> dict:
        """The options as plain JSON values."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {"evade": self.evade and str(self.evade)}

    def perturb(self, problem: Problem, eps: float) -> Tensor:
        """Adversarial images [B, channels, height, width] for one eps; the base keeps them in bounds."""
        raise TypeError(f"{type(self).__name__} must define perturb(problem, eps)")

    def perturb_all(self, problem: Problem, eps: Sequence[float]) -> Tensor:
        """Adversarial images for several eps, [E, B, channels, height, width]; one eps at a time by default."""
        import torch

        return torch.stack([self.perturb(problem, value) if value else problem.x for value in eps])

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
            classifier: gives log p(x, y), or logits, [B, C], differentiably in x. A random classifier draws its noise
                from the images' places, unless it was made for certain images already
                (:meth:`pyrobayes.BayesClassifier.for_images`).
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

        single = is_number(eps)
        values = [float(eps)] if single else numbers_in(eps)
        adversarial = self.solve(Problem(self, classifier, x, y, indices, references), values)
        return adversarial[0] if single else adversarial

    def solve(self, problem: Problem, eps: Sequence[float]) -> Tensor:
        """The adversarial images of one batch, [E, B, channels, height, width], for E values of eps."""
        check_eps(eps, self.norm)
        return self._to_each(problem, eps) if self.target == EACH else self._bounded(problem, eps)

    def _bounded(self, problem: Problem, eps: Sequence[float]) -> Tensor:
        import torch

        found = self.perturb_all(problem, eps).detach()
        if problem.target is not None:
            found = found.where((problem.target != problem.y)[:, None, None, None], problem.x)
        return torch.stack([problem.project(images, value) for images, value in zip(found, eps)])

    def _to_each(self, problem: Problem, eps: Sequence[float]) -> Tensor:
        import torch

        def towards(target: int) -> tuple[Tensor, Tensor]:
            found = self._bounded(problem.towards(target), eps)
            reached = torch.stack([problem.loss_of_truth(images) for images in found])
            return found, reached.where(problem.y != target, -math.inf)

        return worst(towards(target) for target in range(problem.num_classes))


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
    return images.where(better[..., None, None, None], best), loss.where(better, highest)


def lengths(images: Tensor) -> Tensor:
    """L2 norms, [B, 1, 1, 1]."""
    return images.flatten(1).norm(dim=1)[:, None, None, None]
