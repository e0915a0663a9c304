"""SimBA: one direction at a time, up or down, without any gradient."""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

from pyrobayes.attacks.base import Attack, per_image, register
from pyrobayes.errors import check_count, check_step_size
from pyrobayes.options import option

STEP_IN_L2 = 0.2  # epsilon of the paper
LOWEST = 1 / 4  # of the frequencies, along each side


@register("simba")
@dataclass(frozen=True)
class SimBA(Attack):
    """One direction at a time, up or down, kept where it raises the loss; Guo et al. (2019), algorithm 1.

    The directions are pixels, or cosines of low frequency, in a random order; after the last one comes another order. The
    attack needs predictions alone. A random classifier answers every query with `eot` draws of its own, and is asked about
    the image so far in every step: no lucky answer is held against later ones. A misclassified image is attacked further.
    """

    gradient: str = dataclasses.field(default="path", init=False)
    steps: int = option(
        1000, "directions that are tried, by two queries each, three of a random classifier", check=check_count
    )
    basis: str = option("pixel", "directions: single pixels, or cosines of low frequency", ("pixel", "dct"))
    step_size: float | None = option(
        None, "size of a step", none_means="eps; in L2 0.2, or eps if less", check=check_step_size
    )

    follows_gradient: ClassVar[bool] = False

    def perturb(self, problem, eps):
        images, loss = problem.x, problem.loss(problem.x, 0)
        size = self.step_size or (eps if self.norm == "linf" else min(eps, STEP_IN_L2))
        for step, direction in enumerate(itertools.islice(directions(problem), self.steps)):
            if problem.random and step:
                loss = problem.loss(images, 3 * step)
            up, down = (problem.project(images + sign * size * direction, eps) for sign in (1, -1))
            after_up, after_down = problem.loss(up, 3 * step + 1), problem.loss(down, 3 * step + 2)
            raised, lowered = after_up > loss, after_down > loss
            images = up.where(per_image(raised), down.where(per_image(lowered), images))
            loss = after_up.where(raised, after_down.where(lowered, loss))
        return images


def directions(problem):
    """Directions of length 1 in the attack's norm, [B, channels, height, width] each, without end; every image has its own order."""
    import torch

    channels, *sides = problem.x.shape[1:]
    rows, columns = (vectors(problem.attack.basis, side).to(problem.x) for side in sides)
    several = channels, len(rows), len(columns)
    for orders in itertools.count():
        order = problem.uniforms(orders)[:, :, : len(rows), : len(columns)].flatten(1).argsort(1)
        for place in order.T:
            channel, row, column = torch.unravel_index(place, several)
            chosen = torch.arange(channels, device=channel.device) == channel[:, None]
            wave = chosen[:, :, None, None] * rows[row][:, None, :, None] * columns[column][:, None, None, :]
            norm = wave.flatten(1).norm(p=math.inf if problem.attack.norm == "linf" else 2, dim=1)
            yield wave / per_image(norm)


def vectors(basis: str, side: int):
    """Along one side of an image, the pixels or the lowest frequencies of the cosine transform (DCT-II), [M, side]."""
    import torch

    if basis == "pixel":
        return torch.eye(side)
    frequencies = torch.arange(math.ceil(LOWEST * side))
    return torch.cos(math.pi * frequencies[:, None] * (torch.arange(side) + 0.5) / side)
