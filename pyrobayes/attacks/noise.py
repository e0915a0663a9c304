"""Random noise: it shows how many images fall to luck, without any gradient."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from pyrobayes.attacks.base import Attack, register, worst
from pyrobayes.errors import check_count
from pyrobayes.options import option


@register("uniform")
@dataclass(frozen=True)
class Uniform(Attack):
    """Noise that is uniform in the ball. An image keeps the draw with the highest loss.

    A random classifier judges all draws of an image with one draw of its own noise.
    """

    gradient: str = dataclasses.field(default="path", init=False)
    draws: int = option(100, "draws of random noise, of which the worst counts", check=check_count)

    follows_gradient: ClassVar[bool] = False

    def drawn(self, problem, draw, eps):
        """Images [B, channels, height, width], each with one perturbation."""
        return problem.in_ball(draw, eps)

    def perturb(self, problem, eps):
        drawn = (problem.project(self.drawn(problem, draw, eps), eps) for draw in range(self.draws))
        return worst((images, problem.loss(images)) for images in drawn)


@register("gaussian")
@dataclass(frozen=True)
class Gaussian(Uniform):
    """Normal noise. In L-infinity its standard deviation is eps / 2, cut at eps; in L2 its length is eps."""

    def drawn(self, problem, draw, eps):
        noise = problem.normals(draw)
        return problem.x + (eps / 2 * noise if self.norm == "linf" else eps * problem.ascend(noise))
