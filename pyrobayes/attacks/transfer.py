"""Transfer: images made against other classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrobayes.attacks.base import worst
from pyrobayes.attacks.pgd import PGD
from pyrobayes.attacks.registry import register
from pyrobayes.errors import InputError
from pyrobayes.options import option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pyrobayes.attacks.problem import Problem


def check_classifiers(name: str, value) -> None:
    """Refuse a `value` of argument `name` that is no tuple of classifiers."""
    if value == ():
        return
    from torch import nn

    if not isinstance(value, tuple) or not all(isinstance(each, nn.Module) for each in value):
        raise InputError(f"{name} must be a tuple of classifiers, got {value!r}")


@register("transfer")
@dataclass(frozen=True)
class Transfer(PGD):
    """Images that PGD makes against other classifiers (Papernot, McDaniel and Goodfellow 2016).

    The attack never computes a gradient of the classifier that it attacks. With several sources, an image keeps the
    perturbation that raises the loss of the attacked classifier most.

    Args:
        sources: the other classifiers. A command opens the model named `source`, or takes all others.
    """

    source: str | None = option(
        None,
        "model that the images are made against, and that isn't attacked",
        none_means="all other models, of which the worst counts",
    )
    sources: tuple[nn.Module, ...] = option((), check=check_classifiers)

    follows_gradient: ClassVar[bool] = False

    def perturb(self, problem: Problem, eps: float) -> Tensor:
        if not self.sources:
            raise InputError("transfer needs other classifiers to take its images from: give sources")
        made = (super(Transfer, self).perturb(problem.against(source), eps) for source in self.sources)
        if len(self.sources) == 1:
            return next(made)
        return worst((images, problem.loss(images)) for images in made)

    def described(self) -> dict:
        names = [
            source.factorization.name if hasattr(source, "factorization") else type(source).__name__
            for source in self.sources
        ]
        described = super().described()
        del described["source"]
        return described | {"sources": names}
