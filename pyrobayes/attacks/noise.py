"""Random noise: what an image's luck is worth without any gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pyrobayes.attacks.base import Attack, Problem, register, worst
from pyrobayes.errors import check_integer


@dataclass(frozen=True)
class RandomNoise(Attack):
    """The worst of several random perturbations: an image keeps the one with the highest loss.

    Args:
        draws: how many; all are judged with the same noise of a random classifier.
    """

    draws: int = 100

    follows_gradient: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        check_integer("draws", self.draws, least=1)

    def drawn(self, problem: Problem, draw: int, eps: float) -> Tensor:
        """Images with one perturbation each."""
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
    """Normal noise: in L-infinity of standard deviation eps / 2, cut at eps; in L2 of length eps before it is cut to [0, 1]."""

    def drawn(self, problem: Problem, draw: int, eps: float) -> Tensor:
        noise = problem.normals(draw)
        return problem.x + (eps / 2 * noise if self.norm == "linf" else eps * problem.ascend(noise))
