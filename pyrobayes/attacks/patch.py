"""The adversarial patch."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pyrobayes.attacks.base import Problem, register
from pyrobayes.attacks.pgd import Iterative
from pyrobayes.attacks.square import square
from pyrobayes.errors import check_step_size


@register("patch")
@dataclass(frozen=True)
class Patch(Iterative):
    """A square of any pixels at a random place, one for each image (Karmon, Zoran and Goldberg 2018).

    Eps is the share of the image that the square covers at most. Its pixels start at random and go along the sign of
    the gradient; everything else stays. Each restart is another place.

    Args:
        step_size: of the pixels; None for 2.5 / steps.
    """

    norm: str = "area"
    step_size: float | None = None

    norms: ClassVar[tuple[str, ...]] = ("area",)

    def __post_init__(self):
        super().__post_init__()
        check_step_size(self.step_size)

    def from_start(self, problem: Problem, eps: float, restart: int, draw: int) -> Tensor:
        side = math.floor(math.sqrt(eps * problem.x.shape[-2:].numel()) + 1e-6)
        inside = square(problem.x, side, problem.uniforms(2 * restart))
        images = problem.uniforms(2 * restart + 1).where(inside, problem.x) if self.random_start else problem.x
        size = self.step_size or 2.5 / self.steps
        for step in range(self.steps):
            _, gradient = problem.gradient(images, draw + step)
            images = (images + size * gradient.sign()).clamp(0, 1).where(inside, problem.x)
        return images
