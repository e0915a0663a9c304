"""Auto-PGD."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyrobayes.attacks.pgd import Iterative
from pyrobayes.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from pyrobayes.attacks.problem import Problem

MOMENTUM = 0.75  # alpha of Croce and Hein (2020), equation 2
RISING = 0.75  # rho of their condition 1


@register("apgd")
@dataclass(frozen=True)
class APGD(Iterative):
    """Steps with momentum, whose size is halved where they no longer help; Croce and Hein (2020), algorithm 1.

    An image ends where its loss was highest. The paper runs it with the cross-entropy and the `dlr` loss in turn. Two
    images are compared with one draw of a random classifier's noise, at two more forward passes a step. With a draw each,
    the luckiest draw would be kept, and its luck taken for progress.
    """

    steps: int = 100

    def climb(self, problem: Problem, eps: float, start: Tensor, draw: int) -> Tensor:
        import torch

        size = torch.full_like(start[:, :1, :1, :1], 2 * eps)
        before = images = start
        loss, gradient = problem.gradient(images, draw)
        best, best_gradient, highest = images, gradient, loss
        rises, halved = torch.zeros_like(loss), torch.ones_like(loss, dtype=torch.bool)
        improved = torch.zeros_like(halved)
        checks = checkpoints(self.steps)
        last = 0
        for step in range(1, self.steps + 1):
            ahead = problem.project(images + size * problem.ascend(gradient), eps)
            alpha = MOMENTUM if step > 1 else 1.0
            ahead = problem.project(images + alpha * (ahead - images) + (1 - alpha) * (images - before), eps)
            before, images, previous = images, ahead, loss
            loss, gradient = problem.gradient(images, draw + step)
            if problem.random:
                previous, highest = (problem.loss(each, draw + step) for each in (before, best))
            rises = rises + (loss > previous)
            better = loss > highest
            improved = improved | better
            where = better[:, None, None, None]
            best, best_gradient = images.where(where, best), gradient.where(where, best_gradient)
            highest = loss.where(better, highest)
            if step in checks:
                halved = (rises < RISING * (step - last)) | ~(halved | improved)
                where = halved[:, None, None, None]
                size = (size / 2).where(where, size)
                images, gradient = best.where(where, images), best_gradient.where(where, gradient)
                loss = highest.where(halved, loss)
                rises, improved, last = torch.zeros_like(rises), torch.zeros_like(improved), step
        return best


def checkpoints(steps: int) -> set[int]:
    """The steps after which the step size may be halved: ceil(p_j steps), section 3.3 of the paper."""
    before, now, found = 0, 22, set()  # hundredths
    while now <= 100:
        found.add(math.ceil(now * steps / 100))
        before, now = now, now + max(now - before - 3, 6)
    return found
