"""Momentum steps through the noise of a random classifier, and a second stage for the images that stand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyrobayes.attacks.base import per_image, register
from pyrobayes.attacks.pgd import MIM
from pyrobayes.errors import check_count, check_count_from_zero, check_positive, check_step_size
from pyrobayes.options import option

if TYPE_CHECKING:
    from torch import Tensor

RIVALS = 3  # classes beside the image's own that steps see: those that come nearest at the last look
BROKEN = 0.9  # an image is left alone once so large a share of the selection draws misclassifies it


@register("eot-mim")
@dataclass(frozen=True)
class EOTMIM(MIM):
    """MIM with another draw of the classifier's noise at every step, and ever smaller steps; then a second stage.

    One particle a step finds as much as ten, since many steps average over the noise: expectation over transformation
    (Athalye et al. 2018) with one sample a step. The sizes of the steps fall geometrically, and the last image counts.

    The second stage takes the images that still stand, and climbs from there with all particles on the mean of their soft
    margins (:func:`pyrobayes.attacks.losses.soft_margin`). Draws that no step saw choose between the stages. There is none
    against a test to evade, nor towards another image.

    Both stages look at their images now and then, with a part of these draws, and climb on with those alone that stand. Their
    steps see the classes alone that came near at the last look.

    Args:
        first_step, last_step: the sizes of the first and of the last step, in eps; `step_size` makes all equal.
        second_first_step: the same of the second stage's first.
        looks: how often a stage looks which images stand; 1 is before its first step alone.
    """

    steps: int = 200
    decay: float = 0.9
    step_size: float | None = option(
        None, "size of a step", none_means="from 0.5 eps down to 0.02 eps", check=check_step_size
    )
    step_particles: int = option(1, "particles of every class that a step of the first stage sees", check=check_count)
    second_steps: int = option(40, "steps of the second stage, which sees all particles", check=check_count_from_zero)
    selection: int = option(20, "draws of the noise that choose between the stages", check=check_count)
    first_step: float = option(0.5, check=check_positive)
    last_step: float = option(0.02, check=check_positive)
    second_first_step: float = option(0.2, check=check_positive)
    looks: int = option(4, check=check_count_from_zero)

    def gradients(self, particles):
        return self.steps * min(self.step_particles, particles) + self.second_steps * particles

    @property
    def chooses(self) -> bool:
        """True if draws tell which images stand: not against a test to evade, nor towards another image."""
        return not self.matching and self.evade is None

    def perturb(self, problem, eps):
        first = self.steps + self.second_steps
        selection = range(first, first + (self.selection if problem.random else 1))
        images = self.stage(problem, eps, problem.x, selection, self.step_particles)
        if not self.second_steps or not self.chooses:
            return images
        judged = problem.over_draws(images, selection)
        stands = judged[0] < BROKEN
        if not stands.any():
            return images
        rest, known = problem.of(stands), [each[stands] for each in judged]
        ends = self.second_stage(problem).stage(rest, eps, images[stands], selection, draw=self.steps, known=known)
        (share, margin, _), (new_share, new_margin, _) = known, rest.over_draws(ends, selection)
        better = (new_share > share) | (new_share == share) & (new_margin > margin)
        return images.masked_scatter(per_image(stands), ends.where(per_image(better), images[stands]))

    def stage(self, problem, eps, start, selection, particles=None, draw=0, known=None):
        """The images after all steps, or as they were when a look found them broken; `known` is the first look's finding."""
        images, along, left = (
            start.clone(),
            start.new_zeros(start.shape),
            problem.x.new_ones(len(start)).nonzero()[:, 0],
        )
        for look, steps in enumerate(parts(self.steps, self.looks)):
            rest, classes = problem.of(left), None
            if self.looks and self.chooses:
                draws = -(-len(selection) // self.looks)
                ours = selection[look * draws % len(selection) :][:draws]
                share, _, log_posterior = known or rest.over_draws(images[left], ours)
                known, stands = None, share < BROKEN
                left, rest = left[stands], rest.of(stands)
                classes = nearest(log_posterior[stands], rest.y if rest.target is None else rest.target)
            if not len(left):
                break
            seen = rest.by(self, particles, classes)
            images[left], along[left] = self.walk(seen, eps, images[left], along[left], steps, draw)
        return images

    def second_stage(self, problem):
        """The attack on the images that stand. A classifier without particles of its own is seen one draw at a time."""
        steps = {"steps": self.second_steps, "first_step": self.second_first_step}
        return dataclasses.replace(self, loss="soft-margin", snapshot=problem.has_particles, **steps)

    def size(self, eps, step):
        if self.step_size is not None:
            return self.step_size
        return eps * self.first_step * (self.last_step / self.first_step) ** (step / max(1, self.steps - 1))


def parts(steps: int, looks: int) -> Iterator[range]:
    """The numbers of the steps, in as many parts as there are looks."""
    looks = max(1, min(looks, steps))
    return (range(steps * part // looks, steps * (part + 1) // looks) for part in range(looks))


def nearest(log_posterior: Tensor, first: Tensor) -> Tensor | None:
    """The class that comes first [B] and its likeliest rivals, [M, B]; None where these are all."""
    if log_posterior.shape[1] <= 1 + RIVALS:
        return None
    return log_posterior.scatter(1, first[:, None], math.inf).topk(1 + RIVALS, dim=1).indices.T
