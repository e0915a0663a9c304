"""Attacks of libraries: foolbox, and the authors' AutoAttack. They are there where the library is installed.

A library takes a classifier for a deterministic function of the image. :mod:`pyrobayes.attacks.adapters` makes one of a random
classifier.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from pyrobayes.attacks.base import Attack, register
from pyrobayes.attacks.least_distance import LeastDistance
from pyrobayes.attacks.norms import NAMES, ORDERS
from pyrobayes.errors import InputError, check_count
from pyrobayes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pyrobayes.attacks.least_distance import Judge
    from pyrobayes.attacks.problem import Problem

EOT = 20  # gradients that a step of AutoAttack for random classifiers averages
TARGETS = 9  # classes that the targeted attacks of AutoAttack go towards


def library(name: str, attack: str) -> ModuleType:
    """The module of a library; :class:`InputError` where it isn't installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{attack} is an attack of {name}, which can't be imported ({error}): pip install 'pyrobayes[attacks]'"
        ) from None


@dataclass(frozen=True)
class LibraryAttack(LeastDistance):
    """A library's attack for the least distance. A subclass defines :meth:`search`.

    The library sees a classifier of two classes, right and wrong. The judge's margin decides between them, and the gradient is
    that of the attack's own loss, with other noise and `step_particles` particles at every step.

    Attributes:
        alone: it draws numbers for the whole batch, and so attacks one image at a time: an image's result then follows from the
            seed and the image.
    """

    steps: int = option(100, "steps, each with one gradient", check=check_count)
    step_particles: int = option(1, "particles of every class that a step sees", check=check_count)

    package: ClassVar[str] = "foolbox"
    alone: ClassVar[bool] = False

    def gradients(self, particles, classes):
        return super().gradients(min(self.step_particles, particles), classes)

    def nearest(self, problem, judge):
        import torch

        module = library(self.package, self.name)
        if not self.alone:
            return self.search(module, problem, judge)
        parts = [judge.of(torch.tensor([i], device=problem.x.device)) for i in range(len(problem.x))]
        return torch.cat([self.search(module, part.problem, part) for part in parts])

    def search(self, module: ModuleType, problem: Problem, judge: Judge) -> Tensor:
        """The images [B, channels, height, width] that the library finds."""
        raise NotImplementedError(f"{type(self).__name__} must define search(module, problem, judge)")


@dataclass(frozen=True)
class FoolboxAttack(LibraryAttack):
    """An attack of foolbox. A subclass makes it, in :meth:`made`."""

    def made(self, offered: ModuleType):
        """The attack as foolbox's own object, from its module of attacks."""
        raise NotImplementedError(f"{type(self).__name__} must define made(offered)")

    def search(self, module, problem, judge):
        return self.run(self.made(module.attacks), module, problem, judge)

    def run(self, attack, module: ModuleType, problem: Problem, judge: Judge, **starts) -> Tensor:
        """The images [B, channels, height, width] that an attack of foolbox finds."""
        from pyrobayes.attacks.adapters import RightOrWrong, random_state

        seen = RightOrWrong(problem.by(self, self.step_particles), judge)
        model = module.PyTorchModel(seen.eval(), bounds=(0, 1), device=problem.x.device)
        with random_state(problem, self.alone):
            return attack.run(model, problem.x, module.Misclassification(0 * problem.y), **starts)


@register("fmn")
@dataclass(frozen=True)
class FMN(FoolboxAttack):
    """Steps along the gradient in a ball that shrinks where an image is misclassified and grows elsewhere (Pintor et al. 2021).

    In L2 and L1 it starts from what DDN finds in as many steps. Without such a start it misses most images in L1.
    """

    norms: ClassVar[tuple[str, ...]] = tuple(ORDERS)

    @property
    def started(self) -> bool:
        """True where it starts from the image of another attack."""
        return self.norm in ("l2", "l1")

    def gradients(self, particles, classes):
        return super().gradients(particles, classes) * (1 + self.started)

    def made(self, offered):
        return getattr(offered, f"L{self.norm[1:].capitalize()}FMNAttack")(steps=self.steps)

    def search(self, module, problem, judge):
        if not self.started:
            return super().search(module, problem, judge)
        found = self.run(module.attacks.DDNAttack(steps=self.steps), module, problem, judge)
        wrong = (judge(found) > 0).nonzero()[:, 0]
        if len(wrong):
            rest, attack = judge.of(wrong), self.made(module.attacks)
            found[wrong] = self.run(attack, module, rest.problem, rest, starting_points=found[wrong])
        return found


@register("ddn")
@dataclass(frozen=True)
class DDN(FoolboxAttack):
    """Steps whose direction is the gradient's and whose length is set apart from it (Rony et al. 2019)."""

    norm: str = "l2"
    norms: ClassVar[tuple[str, ...]] = ("l2",)

    def made(self, offered):
        return offered.DDNAttack(steps=self.steps)


@dataclass(frozen=True)
class DecisionAttack(FoolboxAttack):
    """An attack of foolbox that walks along the boundary from a misclassified image, by decisions alone."""

    gradient: str = dataclasses.field(default="path", init=False)
    step_particles: int = dataclasses.field(default=1, init=False)

    alone: ClassVar[bool] = True
    follows_gradient: ClassVar[bool] = False

    def search(self, module, problem, judge):
        from pyrobayes.attacks.adapters import misclassified_image

        if (start := misclassified_image(problem, judge)) is None:
            return problem.x
        return self.run(self.made(module.attacks), module, problem, judge, starting_points=start)


@register("hop-skip-jump")
@dataclass(frozen=True)
class HopSkipJump(DecisionAttack):
    """Steps along the boundary by decisions alone, whose direction random neighbours tell (Chen, Jordan and Wainwright 2020)."""

    steps: int = option(10, "steps, each with about a hundred decisions or more", check=check_count)

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def made(self, offered):
        return offered.HopSkipJumpAttack(steps=self.steps, constraint=self.norm)


@register("boundary")
@dataclass(frozen=True)
class Boundary(DecisionAttack):
    """A random walk along the boundary by decisions alone (Brendel, Rauber and Bethge 2018)."""

    norm: str = "l2"
    steps: int = option(1000, "steps, each with one decision", check=check_count)

    norms: ClassVar[tuple[str, ...]] = ("l2",)

    def made(self, offered):
        return offered.BoundaryAttack(steps=self.steps)


@register("fab")
@dataclass(frozen=True)
class FAB(LibraryAttack):
    """Projections onto the linearised boundary, from the image and back to it (Croce and Hein 2020, FAB), by their own code."""

    package: ClassVar[str] = "pyautoattack"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def search(self, module, problem, judge):
        from pyrobayes.attacks.adapters import RightOrWrong

        attack = importlib.import_module(f"{module.__name__}.fab_pt").FABAttack_PT
        seen = RightOrWrong(problem.by(self, self.step_particles), judge)
        fab = attack(seen, norm=NAMES[self.norm], n_iter=self.steps, device=problem.x.device)
        return fab.attack_single_run(problem.x, 0 * problem.y).to(problem.x.dtype)


@register("autoattack")
@dataclass(frozen=True)
class AutoAttack(Attack):
    """The ensemble of Croce and Hein (2020), by their own code: `standard`, or `rand` for random classifiers.

    It sees log p(x, y) of all classes, centred for every image, with other noise whenever it asks. What it asks for first breaks
    an image for good, as with any classifier: it knows no further draws. Images go one at a time, since it leaves out those that
    it broke.

    Args:
        steps: of Auto-PGD and FAB.
        queries: of Square.
        targets: how many classes the targeted attacks go towards.
    """

    variant: str = option("standard", "version of AutoAttack", ("standard", "rand"))
    steps: int = option(100, "steps of Auto-PGD and FAB", check=check_count)
    queries: int = option(5000, check=check_count)
    targets: int = option(TARGETS, check=check_count)

    package: ClassVar[str] = "pyautoattack"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def __post_init__(self):
        super().__post_init__()
        for name in ("loss", "snapshot", "target", "evade"):
            if getattr(self, name) != getattr(AutoAttack, name):
                raise InputError(f"autoattack has losses and targets of its own: leave {name} out")

    def gradients(self, particles, classes):
        climbs = 2 * EOT if self.variant == "rand" else 1 + 2 * self.targets  # Auto-PGD, and with targets also FAB
        return super().gradients(particles, classes) * climbs

    def perturb(self, problem, eps):
        import torch

        from pyrobayes.attacks.adapters import auto_attack

        module = library(self.package, self.name)
        places = torch.arange(len(problem.x), device=problem.x.device)
        return torch.cat([auto_attack(module, self, problem.of(place[None]), eps) for place in places])
