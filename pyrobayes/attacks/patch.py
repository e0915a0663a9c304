"""The adversarial patch."""

import math
from dataclasses import dataclass
from typing import ClassVar

from pyrobayes.attacks.base import register
from pyrobayes.attacks.pgd import Iterative
from pyrobayes.attacks.square import square
from pyrobayes.errors import check_step_size
from pyrobayes.options import option


@register("patch")
@dataclass(frozen=True)
class Patch(Iterative):
    """A square of any pixels at a random place, one for each image (Karmon, Zoran and Goldberg 2018).

    Eps is the largest share of the image that the square covers. The pixels in the square start at random and go along
    the sign of the gradient; all others stay. Each restart is another place.
    """

    norm: str = "area"
    step_size: float | None = option(None, "size of a step", none_means="2.5 / steps", check=check_step_size)

    norms: ClassVar[tuple[str, ...]] = ("area",)

    def from_start(self, problem, eps, restart, draw):
        side = math.floor(math.sqrt(eps * problem.x.shape[-2:].numel()) + 1e-6)
        inside = square(problem.x, side, problem.uniforms(2 * restart))
        images = problem.uniforms(2 * restart + 1).where(inside, problem.x) if self.random_start else problem.x
        size = self.step_size or 2.5 / self.steps
        for step in range(self.steps):
            _, gradient = problem.gradient(images, draw + step)
            images = (images + size * gradient.sign()).clamp(0, 1).where(inside, problem.x)
        return images
