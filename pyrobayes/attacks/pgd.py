"""Projected gradient descent, plain and with momentum."""

import dataclasses
from dataclasses import dataclass

from pyrobayes.attacks.base import LEAST, Attack, per_image, register, worst
from pyrobayes.errors import InputError, check_count, check_from_zero, check_step_size
from pyrobayes.options import option


@dataclass(frozen=True)
class Iterative(Attack):
    """Steps uphill from one or several starts; an image keeps the end with the highest loss.

    A subclass defines `climb(problem, eps, start, draw)`: the images at the end of the steps from the images `start`. Noise is
    drawn with `draw` and the numbers after it.

    Args:
        random_start: start uniformly in the ball, and not at the image.
    """

    steps: int = option(40, "steps along the gradient", check=check_count)
    restarts: int = option(1, "random starts, or places of a patch; the worst counts", check=check_count)
    random_start: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.restarts > 1 and not self.random_start:
            raise InputError("restarts without a random start would all be the same: leave one of them out")

    def perturb(self, problem, eps):
        draws = self.steps + 1  # for each restart; the draw after the last restart's judges all ends
        ends = (self.from_start(problem, eps, restart, restart * draws) for restart in range(self.restarts))
        if self.restarts == 1:
            return next(ends)
        return worst((images, problem.loss(images, self.restarts * draws)) for images in ends)

    def from_start(self, problem, eps, restart, draw):
        """The images at the end of one start, [B, ...]; noise is drawn with `draw` and the numbers after it."""
        start = problem.project(problem.in_ball(restart, eps), eps) if self.random_start else problem.x
        return self.climb(problem, eps, start, draw)


@register("pgd")
@dataclass(frozen=True)
class PGD(Iterative):
    """Steps along the sign of the gradient (in L2: its direction), each projected back (Madry et al. 2018).

    The default step size is theirs in L2.
    """

    step_size: float | None = option(None, "size of a step", none_means="2.5 eps / steps", check=check_step_size)

    def climb(self, problem, eps, start, draw):
        images, along = start, start.new_zeros(start.shape)
        for step in range(self.steps):
            images, along = self.step(problem, eps, images, along, step, draw)
        return images

    def step(self, problem, eps, images, along, step, draw):
        """The images after one step, and its direction; `along` is that of the step before."""
        return problem.step(self.moved, images, along, eps, self.size(eps, step), draw + step)

    def moved(self, problem, images, along, eps, size, draw):
        """The images a step of this size further, and the direction of the step."""
        _, gradient = problem.gradient(images, draw)
        along = self.accumulated(along, gradient)
        return problem.project(images + size * problem.ascend(along), eps), along

    def size(self, eps, step):
        """The size of a step; each is as large here."""
        return self.step_size or 2.5 * eps / self.steps

    def accumulated(self, before, gradient):
        """The direction of a step, from the direction before and the gradient; plain descent takes the gradient."""
        return gradient


@register("mim")
@dataclass(frozen=True)
class MIM(PGD):
    """Iterative FGSM with momentum (Dong et al. 2018, equations 6 and 7), which starts at the image.

    The default step size is that of PGD, 2.5 eps / steps; in the paper it is eps / steps.

    Args:
        decay: mu, the weight of the accumulated gradient, to which each gradient is added over its L1 norm.
    """

    steps: int = 10
    restarts: int = dataclasses.field(default=1, init=False)
    random_start: bool = dataclasses.field(default=False, init=False)
    decay: float = option(1.0, check=check_from_zero)

    def accumulated(self, before, gradient):
        total = per_image(gradient.abs().flatten(1).sum(1))
        return self.decay * before + gradient / total.clamp_min(LEAST)
