"""Transfer: images made against other classifiers."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from pyrobayes.attacks.base import Problem, register, worst
from pyrobayes.attacks.pgd import PGD
from pyrobayes.errors import InputError


@register("transfer")
@dataclass(frozen=True)
class Transfer(PGD):
    """Images that PGD makes against other classifiers (Papernot, McDaniel and Goodfellow 2016).

    The gradient of the one attacked is never asked for. Of several sources an image keeps the one that raises the
    loss of the one attacked most.

    Args:
        sources: the other classifiers.
    """

    sources: tuple[nn.Module, ...] = ()

    follows_gradient: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.sources, tuple) or not all(isinstance(source, nn.Module) for source in self.sources):
            raise InputError(f"sources must be a tuple of classifiers, got {self.sources!r}")

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
        return super().described() | {"sources": names}
