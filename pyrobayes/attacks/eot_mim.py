"""Momentum steps through the noise of a random classifier, towards one class at a time."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyrobayes.attacks.base import register
from pyrobayes.attacks.pgd import MIM
from pyrobayes.errors import (
    InputError,
    check_count,
    check_count_from_zero,
    check_negligible,
    check_positive,
    check_step_size,
)
from pyrobayes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pyrobayes.attacks.problem import Problem

RIVALS_OF_THE_BEST = 2  # classes that the second stage goes towards, in turn


@register("eot-mim")
@dataclass(frozen=True)
class EOTMIM(MIM):
    """MIM with another draw of the classifier's noise at every step, and ever smaller steps, towards one class at a time.

    One particle a step finds as much as ten, since many steps average over the noise: expectation over transformation
    (Athalye et al. 2018) with one sample a step. The sizes of the steps fall along half a cosine, and the last image counts.

    A climb goes towards one rival of the true class, and computes these two alone: the loss is then log p(x, rival) - log
    p(x, y). The first stage climbs from the image towards each of its likeliest rivals. The climbs of the second stage
    go on from the best image so far, with more particles, towards its likeliest rival and its second in turn.

    Selection draws, which no step saw, tell which image is the best. A climb leaves the images that all of them misclassify. The
    second stage also leaves images whose margin has come only a small part of the way to 0, since it rarely brings them there.

    Towards a class that is given, a climb sees all classes, and the first stage has one. Against a test to evade, or towards
    another image, there is one climb alone.

    Args:
        rivals: how many classes the first stage goes towards; where 0, the attack is one climb that sees all classes.
        second_climbs: how often the second stage climbs.
        least_progress: the part of the way from its margin to 0 that an image must have come for the second stage to climb on.
        second_particles: particles of both classes that a step of the second stage sees.
        first_step, last_step: the sizes of the first and of the last step, in eps; `step_size` makes all equal.
        second_first_step: the same of the second stage's first.
    """

    steps: int = 100
    decay: float = 0.9
    step_size: float | None = option(
        None, "size of a step", none_means="from eps down to 0.02 eps", check=check_step_size
    )
    step_particles: int = option(1, "particles of every class that a step of the first stage sees", check=check_count)
    second_steps: int = option(
        200, "steps of a climb of the second stage; there is none where 0", check=check_count_from_zero
    )
    selection: int = option(10, "draws of the noise that choose the best image", check=check_count)
    rivals: int = option(4, check=check_count_from_zero)
    second_climbs: int = option(5, check=check_count_from_zero)
    least_progress: float = option(0.4, check=check_negligible)
    second_particles: int = option(2, check=check_count)
    first_step: float = option(1.0, check=check_positive)
    last_step: float = option(0.02, check=check_positive)
    second_first_step: float = option(0.5, check=check_positive)

    def __post_init__(self):
        super().__post_init__()
        if self.loss == "dlr" and not self.single and self.target is None:
            raise InputError(
                "dlr compares three classes, and a climb of eot-mim sees two: choose another loss, or no rivals"
            )

    @property
    def single(self) -> bool:
        """True where there is one climb alone, which sees all classes."""
        return self.matching or self.evade is not None or not self.rivals

    @property
    def climbs(self) -> tuple[int, int]:
        """How often each stage climbs."""
        first = self.rivals if self.target is None and not self.single else 1
        return first, self.second_climbs if self.second_steps and not self.single else 0

    def gradients(self, particles, classes):
        first, second = self.climbs
        of_first = first * self.steps * min(self.step_particles, particles)
        of_second = second * self.second_steps * min(self.second_particles, particles)
        seen = classes if self.single or self.target is not None else min(2, classes)
        return (of_first + of_second) * self.eot * seen

    def second_stage(self):
        """A climb of the second stage as an attack."""
        return dataclasses.replace(
            self, steps=self.second_steps, step_particles=self.second_particles, first_step=self.second_first_step
        )

    def perturb(self, problem, eps):
        if self.single:
            return self.climb(problem.by(self, self.step_particles), eps, problem.x, draw=0)
        (first, second), length = self.climbs, max(self.steps, self.second_steps)
        end = length * (first + second)
        best = Best(problem, range(end, end + (self.selection if problem.random else 1)))
        clean, stage = best.log_posterior.clone(), self.second_stage() if second else None
        for number in range(min(first, clean.shape[1] - 1)):
            best.improve(self, eps, problem.x, clean, number, length * number, best.share < 1)
        for number in range(second):
            rival = number % min(RIVALS_OF_THE_BEST, clean.shape[1] - 1)
            left = (best.share < 1) & (best.progress >= self.least_progress)
            best.improve(stage, eps, best.images, best.log_posterior, rival, length * (first + number), left)
        return best.images

    def size(self, eps, step):
        if self.step_size is not None:
            return self.step_size
        left = (1 + math.cos(math.pi * step / max(1, self.steps - 1))) / 2
        return eps * (self.last_step + (self.first_step - self.last_step) * left)


def pair(log_posterior: Tensor, own: Tensor, place: int) -> Tensor:
    """The class `own` [B] of each image, and the one at a place, from 0, among its likeliest others; [2, B]."""
    return log_posterior.scatter(1, own[:, None], math.inf).topk(place + 2, dim=1).indices.T[[0, -1]]


class Best:
    """The best images that were found for a problem, and how the selection draws judge them.

    Attributes:
        images: like the problem's.
        share: [B] of the draws that misclassify the image.
        margin: [B] nats, its mean over the draws.
        log_posterior: [B, C], likewise.
    """

    def __init__(self, problem: Problem, selection: range):
        self.problem, self.selection, self.images = problem, selection, problem.x.clone()
        self.share, self.margin, self.log_posterior = problem.over_draws(self.images, selection)
        self._clean = self.margin.clone()

    @property
    def progress(self) -> Tensor:
        """The part of the way from the clean image's margin to 0 that the best image has come, [B]; 1 where there is none."""
        return ((self.margin - self._clean) / -self._clean).where(self._clean < 0, 1)

    def improve(
        self, climb: EOTMIM, eps: float, start: Tensor, log_posterior: Tensor, place: int, draw: int, left: Tensor
    ) -> None:
        """Take what a climb finds, where it is better.

        Args:
            start: like the images.
            log_posterior: [B, C], of them.
            place: that of the rival to climb towards, from 0 for the likeliest; a target that is given has precedence.
            draw: the first number of its draws.
            left: [B] the images to climb with.
        """
        places = left.nonzero()[:, 0]
        if not len(places):
            return
        rest = self.problem.of(places)
        classes = pair(log_posterior[places], rest.y, place) if rest.target is None else None
        ends = climb.climb(rest.by(climb, climb.step_particles, classes), eps, start[places], draw)
        share, margin, log_posterior = rest.over_draws(ends, self.selection)
        better = (share > self.share[places]) | (share == self.share[places]) & (margin > self.margin[places])
        kept = places[better]
        self.images[kept], self.share[kept] = ends[better], share[better]
        self.margin[kept], self.log_posterior[kept] = margin[better], log_posterior[better]
