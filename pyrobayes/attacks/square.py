"""The Square attack: random search, without any gradient."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

from pyrobayes.attacks.base import Attack, higher, per_image, register
from pyrobayes.errors import check_count
from pyrobayes.options import option

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
    gradient: str = dataclasses.field(default="path", init=False)
    steps: int = option(1000, "squares that are tried", check=check_count)

    norms: ClassVar[tuple[str, ...]] = ("linf",)
    follows_gradient: ClassVar[bool] = False

    def perturb(self, problem, eps):
        height, width = problem.x.shape[-2:]
        stripes = (problem.uniforms(0)[:, :, :1] - 0.5).sign()  # one for each column
        best = problem.project(problem.x + eps * stripes, eps)
        highest = problem.loss(best)
        for step in range(self.steps):
            side = max(1, min(round(math.sqrt(share(step, self.steps) * height * width)), width, height))
            numbers = problem.uniforms(1 + step)
            inside = square(problem.x, side, numbers)
            sign = (numbers[:, :, -1:, -1:] - 0.5).sign()  # one for each channel
            images = problem.project((problem.x + eps * sign).where(inside, best), eps)
            idle = per_image((images == best).flatten(1).all(1))  # the square has this sign already: try the other
            images = problem.project((problem.x - eps * sign).where(inside & idle, images), eps)
            best, highest = higher(images, problem.loss(images), best, highest)
        return best


def share(step: int, steps: int) -> float:
    """The share of the image that a square covers: the schedule of the authors' code, stretched to so many steps."""
    return FIRST_SHARE / 2 ** sum(step * 10_000 / steps > after for after in HALVED)


def square(x, side, numbers):
    """True in a square of `side` pixels in each image, [B, 1, height, width]; its first two numbers place the square."""
    import torch

    first = numbers.flatten(1)[:, :2, None]
    within = []
    for i, length in enumerate(x.shape[-2:]):
        start, places = (first[:, i] * (length - side + 1)).floor(), torch.arange(length, device=x.device)
        within.append((places >= start) & (places < start + side))
    rows, columns = within
    return (rows[:, :, None] & columns[:, None, :])[:, None]
