"""The attack of Carlini and Wagner: the nearest image that is misclassified."""

import math
import numbers
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyrobayes.attacks.base import EACH, Attack, Problem, lengths, register
from pyrobayes.errors import InputError, check_integer, check_step_size

FIRST_WEIGHT = 0.1  # c of the first search


@register("cw")
@dataclass(frozen=True)
class CW(Attack):
    """The least change in L2 that leads the classifier astray; Carlini and Wagner (2017), sections V and VI.A.

    Adam minimises `|x' - x|^2 - c loss(x')` over w, where x' = (tanh(w) + 1) / 2 stays in [0, 1], and without the loss
    where x' has gone astray. A search for c, for every image of its own, repeats that. What counts as astray is the
    margin, judged with one draw of a random classifier's noise, which no gradient has seen: the luck of many draws would
    count as nearness. In a ball too small for what was found, the image goes towards it as far as the ball allows.

    Args:
        steps: of Adam, for every c.
        searches: how many c.
        step_size: of Adam, in w.
        confidence: the margin, in nats, above which an image counts as astray; a random classifier falls for more of
            them the higher it is.
    """

    norm: str = "l2"
    loss: str = "margin"
    steps: int = 100
    searches: int = 6
    step_size: float | None = None
    confidence: float = 0.0

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    least_distance: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_integer("steps", self.steps, least=1)
        check_integer("searches", self.searches, least=1)
        check_step_size(self.step_size)
        if not isinstance(self.confidence, numbers.Real) or not 0 <= self.confidence < math.inf:
            raise InputError(f"confidence must be a finite number of nats from 0, got {self.confidence!r}")
        if self.target == EACH or self.evade is not None:
            what = "has the nearest class for its target already" if self.target == EACH else "can't evade a test"
            raise InputError(f"cw looks for the nearest misclassified image, and {what}: leave it out")

    def perturb_all(self, problem: Problem, eps) -> Tensor:
        found = self.nearest(problem)
        return torch.stack([found if value else problem.x for value in eps])

    def nearest(self, problem: Problem) -> Tensor:
        """The nearest images that are misclassified [B, channels, height, width]; x where none was found."""
        best, distance = problem.x, torch.full_like(problem.x[:, 0, 0, 0], math.inf)
        low, high = torch.zeros_like(distance), torch.full_like(distance, math.inf)
        weight = torch.full_like(distance, FIRST_WEIGHT)
        for search in range(self.searches):
            reached = torch.zeros_like(distance, dtype=torch.bool)
            for images, margin in self._descent(problem, weight, 1 + search * self.steps):
                length = lengths(images - problem.x)[:, 0, 0, 0]
                astray = margin > self.confidence
                nearer = astray & (length < distance)
                best = images.where(nearer[:, None, None, None], best)
                distance, reached = length.where(nearer, distance), reached | astray
            low, high = low.where(reached, weight), weight.where(reached, high)
            weight = torch.where(high.isinf(), 10 * weight, (low + high) / 2)
        return best

    def _descent(self, problem: Problem, weight: Tensor, draw: int):
        """The images after every step, and the margins by which they are judged."""
        w = (problem.x * 2 - 1).mul(1 - 1e-3).atanh()  # where a step still moves a black pixel
        adam = torch.optim.Adam([w], lr=self.step_size or 0.05)
        images, margin = (w.tanh() + 1) / 2, problem.margin(problem.x)
        for step in range(self.steps):
            _, gradient = problem.gradient(images, draw + step)
            push = (weight * (margin <= self.confidence))[:, None, None, None]
            slope = 2 * images * (1 - images)  # of x' in w
            w.grad = (2 * (images - problem.x) - push * gradient) * slope
            adam.step()
            images = (w.tanh() + 1) / 2
            margin = problem.margin(images)
            yield images, margin
