"""The Square attack: random search, without any gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrobayes.attacks.base import Attack, higher
from pyrobayes.attacks.registry import register
from pyrobayes.errors import check_count
from pyrobayes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pyrobayes.attacks.problem import Problem

FIRST_SHARE = 0.8  # the first squares cover this share of the image
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # the share is halved after these of 10,000 steps


@register("square")
@dataclass(frozen=True)
class Square(Attack):
    """Squares at +eps or -eps, kept where they raise the loss; Andriushchenko et al. (2020), algorithms 1 and 2.

    The attack needs predictions alone. Where it does better than an attack by gradients, the gradients are masked. All
    steps see one draw of a random classifier's noise. A misclassified image is attacked further.
    """

    loss: str = "margin"
    steps: int = option(1000, "squares that are tried", check=check_count)

    norms: ClassVar[tuple[str, ...]] = ("linf",)
    follows_gradient: ClassVar[bool] = False

    def perturb(self, problem: Problem, eps: float) -> Tensor:
        size, width = problem.x.shape[-2:].numel(), problem.x.shape[-1]
        stripes = eps * signs(problem.uniforms(0)[:, :, :1])  # one for each column
        best = problem.project(problem.x + stripes, eps)
        highest = problem.loss(best)
        for step in range(self.steps):
            side = max(1, min(round(math.sqrt(share(step, self.steps) * size)), width, problem.x.shape[-2]))
            numbers = problem.uniforms(1 + step)
            inside = square(problem.x, side, numbers)
            sign = signs(numbers[:, :, -1:, -1:])  # one for each channel
            images = problem.project((problem.x + eps * sign).where(inside, best), eps)
            idle = (
                (images == best).flatten(1).all(1)[:, None, None, None]
            )  # the square has this sign already: try the other
            images = problem.project((problem.x - eps * sign).where(inside & idle, images), eps)
            best, highest = higher(images, problem.loss(images), best, highest)
        return best


def signs(numbers: Tensor) -> Tensor:
    """-1 or 1 for each number from 0 to 1."""
    return (numbers - 0.5).sign()


def share(step: int, steps: int) -> float:
    """The share of the image that a square covers: the schedule of the authors' code, stretched to so many steps."""
    return FIRST_SHARE / 2 ** sum(step * 10_000 / steps > after for after in HALVED)


def square(x: Tensor, side: int, numbers: Tensor) -> Tensor:
    """True in a square of `side` pixels in each image, [B, 1, height, width]; its first two numbers place the square."""
    import torch

    height, width = x.shape[-2:]
    first = numbers.flatten(1)[:, :2, None]
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    top, left = ((first[:, i] * (n - side + 1)).floor() for i, n in enumerate((height, width)))
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
