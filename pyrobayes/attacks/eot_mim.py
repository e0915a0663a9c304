"""Momentum steps through the noise of a random classifier, and a second stage for the images that stand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyrobayes.attacks.base import register
from pyrobayes.attacks.pgd import MIM
from pyrobayes.errors import check_count, check_count_from_zero, check_positive, check_step_size
from pyrobayes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pyrobayes.attacks.problem import Problem

RIVALS = 3  # classes beside the image's own that steps see: those that come nearest at the last look
BROKEN = 0.9  # an image is left alone once so large a share of the selection draws misclassifies it


@register("eot-mim")
@dataclass(frozen=True)
class EOTMIM(MIM):
    """MIM with another draw of the classifier's noise at every step, and ever smaller steps; then a second stage.

    One particle a step finds as much as ten, since many steps average over the noise: expectation over transformation
    (Athalye et al. 2018) with one sample a step. The sizes of the steps fall geometrically, and the last image counts.

    The first stage climbs `starts` times from the image, each time with other draws, and then towards the class that comes
    nearest. The second stage climbs on from the best image so far, in smaller steps, on the margin of several particles. Draws
    that no step saw tell which image is the best and which images stand: every climb is for those alone. Against a test to
    evade, or towards another image, there is one climb.

    A climb looks at its images now and then, with a part of these draws, and goes on with those alone that stand. Its steps
    see the classes alone that came near at the last look.

    Args:
        starts: how often the first stage climbs without a target.
        second_particles: particles of every class that a step of the second stage sees.
        first_step, last_step: the sizes of the first and of the last step, in eps; `step_size` makes all equal.
        second_first_step: the same of the second stage's first.
        looks: how often a climb looks which images stand; never where 0.
    """

    steps: int = 200
    decay: float = 0.9
    step_size: float | None = option(
        None, "size of a step", none_means="from 0.5 eps down to 0.02 eps", check=check_step_size
    )
    step_particles: int = option(1, "particles of every class that a step of the first stage sees", check=check_count)
    second_steps: int = option(200, "steps of the second stage; there is none where 0", check=check_count_from_zero)
    selection: int = option(10, "draws of the noise that tell which images stand", check=check_count)
    starts: int = option(2, check=check_count)
    second_particles: int = option(4, check=check_count)
    first_step: float = option(0.5, check=check_positive)
    last_step: float = option(0.02, check=check_positive)
    second_first_step: float = option(0.2, check=check_positive)
    looks: int = option(4, check=check_count_from_zero)

    def gradients(self, particles):
        first = self.steps * min(self.step_particles, particles)
        if self.single:
            return first
        return first * self.first_climbs + self.second_steps * min(self.second_particles, particles)

    @property
    def single(self) -> bool:
        """True where there is one climb alone."""
        return self.matching or self.evade is not None or not self.looks

    @property
    def first_climbs(self) -> int:
        """How often the first stage climbs; the last time towards the nearest class, where there is a second and no target."""
        return self.starts + (self.second_steps > 0 and self.target is None)

    def second_stage(self):
        """The climb of the second stage as an attack."""
        changes = {
            "steps": self.second_steps,
            "step_particles": self.second_particles,
            "first_step": self.second_first_step,
        }
        return dataclasses.replace(self, loss="margin", **changes)

    def perturb(self, problem, eps):
        if self.single:
            return self.climb(problem.by(self, self.step_particles), eps, problem.x, draw=0)
        length, first = max(self.steps, self.second_steps), self.first_climbs
        end = length * (first + (self.second_steps > 0))
        best = Best(problem, range(end, end + (self.selection if problem.random else 1)))
        clean = best.log_posterior.clone()
        for number in range(first):
            target = nearest(clean, problem.y)[1] if number == self.starts else None
            best.improve(self, eps, problem.x, clean, length * number, target)
        if self.second_steps:
            best.improve(self.second_stage(), eps, best.images, best.log_posterior, length * first)
        return best.images

    def ascent(self, problem, eps, start, log_posterior, selection, draw):
        """The images after all steps, or as they were when a look found them broken.

        Args:
            log_posterior: [B, C] of the images at the start.
            selection: the draws of which every look takes a part.
        """
        images, along, left = start.clone(), start.new_zeros(start.shape), start.new_ones(len(start)).nonzero()[:, 0]
        for look, steps in enumerate(parts(self.steps, self.looks)):
            rest = problem.of(left)
            if look:
                draws = -(-len(selection) // self.looks)
                ours = selection[look * draws % len(selection) :][:draws]
                share, _, log_posterior = rest.over_draws(images[left], ours)
                stands = share < BROKEN
                left, rest, log_posterior = left[stands], rest.of(stands), log_posterior[stands]
            if not len(left):
                break
            classes = nearest(log_posterior, rest.y if rest.target is None else rest.target)
            seen = rest.by(self, self.step_particles, classes)
            images[left], along[left] = self.walk(seen, eps, images[left], along[left], steps, draw)
        return images

    def size(self, eps, step):
        if self.step_size is not None:
            return self.step_size
        return eps * self.first_step * (self.last_step / self.first_step) ** (step / max(1, self.steps - 1))


def parts(steps: int, looks: int) -> Iterator[range]:
    """The numbers of the steps, in as many parts as there are looks."""
    looks = max(1, min(looks, steps))
    return (range(steps * part // looks, steps * (part + 1) // looks) for part in range(looks))


def nearest(log_posterior: Tensor, first: Tensor) -> Tensor:
    """The class that comes first [B] and its likeliest rivals, [M, B]."""
    rivals = min(RIVALS, log_posterior.shape[1] - 1)
    return log_posterior.scatter(1, first[:, None], math.inf).topk(1 + rivals, dim=1).indices.T


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

    def improve(self, climb: EOTMIM, eps: float, start: Tensor, log_posterior: Tensor, draw: int, target=None) -> None:
        """Take what a climb finds for the images that stand, where it is better.

        Args:
            start: like the images.
            log_posterior: [B, C], of them.
            draw: the first number of its draws.
            target: [B] a class for each image to climb towards, if any.
        """
        places = (self.share < BROKEN).nonzero()[:, 0]
        if not len(places):
            return
        rest = self.problem.of(places)
        towards = rest if target is None else rest.towards(target[places])
        ends = climb.ascent(towards, eps, start[places], log_posterior[places], self.selection, draw)
        share, margin, log_posterior = rest.over_draws(ends, self.selection)
        better = (share > self.share[places]) | (share == self.share[places]) & (margin > self.margin[places])
        kept = places[better]
        self.images[kept], self.share[kept] = ends[better], share[better]
        self.margin[kept], self.log_posterior[kept] = margin[better], log_posterior[better]
