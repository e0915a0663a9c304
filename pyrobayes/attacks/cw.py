"""The attack of Carlini and Wagner: the nearest image that is misclassified."""

import math
from dataclasses import dataclass
from typing import ClassVar

from pyrobayes.attacks.base import per_image, register
from pyrobayes.attacks.least_distance import LeastDistance
from pyrobayes.attacks.norms import size
from pyrobayes.errors import check_count, check_step_size
from pyrobayes.options import option

FIRST_WEIGHT = 0.1  # c of the first search


@register("cw")
@dataclass(frozen=True)
class CW(LeastDistance):
    """The least change in L2 that makes the classifier wrong; Carlini and Wagner (2017), sections V and VI.A.

    Adam minimises `|x' - x|^2 - c loss(x')` over w, where x' = (tanh(w) + 1) / 2 stays in [0, 1]. Where x' is misclassified
    already, it minimises the distance alone. A search over c, separate for every image, repeats that.

    Args:
        searches: how many values of c are tried.
    """

    norm: str = "l2"
    steps: int = option(100, "steps of Adam in each search", check=check_count)
    searches: int = option(6, check=check_count)
    step_size: float | None = option(None, "learning rate of Adam", none_means="0.05", check=check_step_size)

    norms: ClassVar[tuple[str, ...]] = ("l2",)

    def nearest(self, problem, judge):
        first = (0.0, math.inf, FIRST_WEIGHT)
        low, high, weight = (problem.x.new_full(problem.x.shape[:1], value) for value in first)
        best, distance = problem.x, high
        for search in range(self.searches):
            reached = False
            for images, margin in self._descent(problem, judge, weight, 1 + search * self.steps):
                length = size(images - problem.x, self.norm)
                astray = margin > 0
                nearer = astray & (length < distance)
                best = images.where(per_image(nearer), best)
                distance, reached = length.where(nearer, distance), reached | astray
            low, high = low.where(reached, weight), weight.where(reached, high)
            weight = (10 * weight).where(high.isinf(), (low + high) / 2)
        return best

    def _descent(self, problem, judge, weight, draw):
        """Yields the images after every step, and their margins [B] by the judge."""
        import torch

        w = (problem.x * 2 - 1).mul(1 - 1e-3).atanh()  # inside (-1, 1), so that a step moves a black pixel
        adam = torch.optim.Adam([w], lr=self.step_size or 0.05)
        images, margin = (w.tanh() + 1) / 2, judge(problem.x)
        for step in range(self.steps):
            _, gradient = problem.gradient(images, draw + step)
            push = per_image(weight * (margin <= 0))
            slope = 2 * images * (1 - images)  # of x' in w
            w.grad = (2 * (images - problem.x) - push * gradient) * slope
            adam.step()
            images = (w.tanh() + 1) / 2
            margin = judge(images)
            yield images, margin
