"""Transfer: images made against other classifiers."""

from dataclasses import dataclass
from typing import ClassVar

from pyrobayes.attacks.base import register, worst
from pyrobayes.attacks.pgd import PGD
from pyrobayes.errors import InputError
from pyrobayes.options import option


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
    sources: tuple = ()

    follows_gradient: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.sources, tuple) or not all(map(callable, self.sources)):
            raise InputError(f"sources must be a tuple of classifiers, got {self.sources!r}")

    def perturb(self, problem, eps):
        if not self.sources:
            raise InputError("transfer needs other classifiers to take its images from: give sources")
        made = (super(Transfer, self).perturb(problem.against(source), eps) for source in self.sources)
        return next(made) if len(self.sources) == 1 else worst((images, problem.loss(images)) for images in made)

    def described(self):
        from pyrobayes.inference.interface import Classifier
        from pyrobayes.inference.modules import ModuleClassifier

        described = super().described()
        del described["source"]
        named = (source if isinstance(source, Classifier) else ModuleClassifier(source) for source in self.sources)
        return described | {"sources": [source.name for source in named]}
