"""Projected gradient descent, and the same with momentum."""

import math
import numbers
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyrobayes.attacks.base import Attack, Problem, register, worst
from pyrobayes.errors import InputError, check_flag, check_integer, check_step_size


@dataclass(frozen=True)
class Iterative(Attack):
    """Steps uphill, from one or several starts; of several an image keeps the end with the highest loss.

    Args:
        steps: how many.
        restarts: how many starts.
        random_start: start uniformly in the ball, and not at the image.
    """

    steps: int = 40
    restarts: int = 1
    random_start: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_integer("steps", self.steps, least=1)
        check_integer("restarts", self.restarts, least=1)
        check_flag("random start", self.random_start)
        if self.restarts > 1 and not self.random_start:
            raise InputError("restarts without a random start would all be the same: leave one of them out")

    def climb(self, problem: Problem, eps: float, start: Tensor, draw: int) -> Tensor:
        """From `start` to the end, likewise."""
        raise TypeError(f"{type(self).__name__} must define climb(problem, eps, start, draw)")

    def perturb(self, problem: Problem, eps: float) -> Tensor:
        draws = self.steps + 1  # of a restart; those after the last restart's judge them all
        ends = (self.from_start(problem, eps, restart, restart * draws) for restart in range(self.restarts))
        if self.restarts == 1:
            return next(ends)
        return worst((images, problem.loss(images, self.restarts * draws)) for images in ends)

    def from_start(self, problem: Problem, eps: float, restart: int, draw: int) -> Tensor:
        """The end [B, ...] of one start; noise is to be drawn with `draw` and those after it."""
        start = problem.project(problem.in_ball(restart, eps), eps) if self.random_start else problem.x
        return self.climb(problem, eps, start, draw)


@register("pgd")
@dataclass(frozen=True)
class PGD(Iterative):
    """Steps along the sign of the gradient (in L2: its direction), each projected back (Madry et al. 2018).

    Args:
        step_size: of each step, in the norm; None for 2.5 eps / steps (theirs in L2).
    """

    step_size: float | None = None

    def __post_init__(self):
        super().__post_init__()
        check_step_size(self.step_size)

    def climb(self, problem: Problem, eps: float, start: Tensor, draw: int) -> Tensor:
        size = self.step_size or 2.5 * eps / self.steps
        images, along = start, torch.zeros_like(start)
        for step in range(self.steps):
            _, gradient = problem.gradient(images, draw + step)
            along = self.accumulated(along, gradient)
            images = problem.project(images + size * problem.ascend(along), eps)
        return images

    def accumulated(self, before: Tensor, gradient: Tensor) -> Tensor:
        """What a step goes along; plain descent forgets what was before."""
        return gradient


@register("mim")
@dataclass(frozen=True)
class MIM(PGD):
    """Iterative FGSM with momentum (Dong et al. 2018, equations 6 and 7); starts at the image.

    Its steps are PGD's, by default 2.5 eps / steps; theirs are eps / steps.

    Args:
        decay: mu, of the accumulated gradient; each gradient is divided by its L1 norm.
    """

    steps: int = 10
    restarts: int = field(default=1, init=False)
    random_start: bool = field(default=False, init=False)
    decay: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.decay, numbers.Real) or not 0 <= self.decay < math.inf:
            raise InputError(f"decay must be a finite number from 0, got {self.decay!r}")

    def accumulated(self, before: Tensor, gradient: Tensor) -> Tensor:
        total = gradient.abs().flatten(1).sum(1)[:, None, None, None]
        return self.decay * before + gradient / total.clamp_min(torch.finfo(gradient.dtype).tiny)
