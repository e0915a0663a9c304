"""Momentum steps through the noise of a random classifier, and a second stage for the images that stand."""

import dataclasses
from dataclasses import dataclass

from pyrobayes.attacks.base import per_image, register
from pyrobayes.attacks.pgd import MIM
from pyrobayes.errors import check_count, check_count_from_zero, check_positive, check_step_size
from pyrobayes.options import option

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

    Args:
        first_step, last_step: the sizes of the first and of the last step, in eps; `step_size` makes all equal.
        second_first_step: the same of the second stage's first.
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

    def gradients(self, particles):
        return self.steps * min(self.step_particles, particles) + self.second_steps * particles

    def perturb(self, problem, eps):
        images = self.climb(problem.by(self, self.step_particles), eps, problem.x, draw=0)
        if not self.second_steps or self.matching or self.evade is not None:
            return images
        first = self.steps + self.second_steps
        selection = range(first, first + (self.selection if problem.random else 1))
        share, margin = problem.share_of_draws(images, selection)
        standing = share < BROKEN
        if not standing.any():
            return images
        rest, share, margin = problem.of(standing), share[standing], margin[standing]
        second = self.second_stage(problem)
        ends = second.climb(rest.by(second), eps, images[standing], self.steps)
        new_share, new_margin = rest.share_of_draws(ends, selection)
        better = (new_share > share) | (new_share == share) & (new_margin > margin)
        return images.masked_scatter(per_image(standing), ends.where(per_image(better), images[standing]))

    def second_stage(self, problem):
        """The attack on the images that stand. A classifier without particles of its own is seen one draw at a time."""
        steps = {"steps": self.second_steps, "first_step": self.second_first_step}
        return dataclasses.replace(self, loss="soft-margin", snapshot=problem.has_particles, **steps)

    def size(self, eps, step):
        if self.step_size is not None:
            return self.step_size
        return eps * self.first_step * (self.last_step / self.first_step) ** (step / max(1, self.steps - 1))
