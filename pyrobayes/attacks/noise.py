"""Random noise: it shows how many images fall to luck, without any gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrobayes.attacks.base import Attack, worst
from pyrobayes.attacks.registry import register
from pyrobayes.errors import check_count
from pyrobayes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pyrobayes.attacks.problem import Problem


@dataclass(frozen=True)
class RandomNoise(Attack):
    """The worst of several random perturbations: an image keeps the one with the highest loss.

    A random classifier judges all of them with one draw of its noise.
    """

    draws: int = option(100, "draws of random noise, of which the worst counts", check=check_count)

    follows_gradient: ClassVar[bool] = False

    def drawn(self, problem: Problem, draw: int, eps: float) -> Tensor:
        """Images [B, channels, height, width], each with one perturbation."""
        raise TypeError(f"{type(self).__name__} must define drawn(problem, draw, eps)")

    def perturb(self, problem: Problem, eps: float) -> Tensor:
        drawn = (problem.project(self.drawn(problem, draw, eps), eps) for draw in range(self.draws))
        return worst((images, problem.loss(images)) for images in drawn)


@register("uniform")
@dataclass(frozen=True)
class Uniform(RandomNoise):
    """Noise that is uniform in the ball."""

    def drawn(self, problem: Problem, draw: int, eps: float) -> Tensor:
        return problem.in_ball(draw, eps)


@register("gaussian")
@dataclass(frozen=True)
class Gaussian(RandomNoise):
    """Normal noise. In L-infinity its standard deviation is eps / 2, cut at eps; in L2 its length is eps."""

    def drawn(self, problem: Problem, draw: int, eps: float) -> Tensor:
        noise = problem.normals(draw)
        return problem.x + (eps / 2 * noise if self.norm == "linf" else eps * problem.ascend(noise))
