"""PGD that stops: an adaptive attack has succeeded once an image is misclassified and no test rejects it."""

import dataclasses
from dataclasses import dataclass

from pyrobayes.attacks.base import register
from pyrobayes.attacks.losses import margin
from pyrobayes.attacks.pgd import PGD
from pyrobayes.errors import InputError, check_count
from pyrobayes.options import option


@register("pgd-stop")
@dataclass(frozen=True)
class StoppingPGD(PGD):
    """PGD that leaves an image alone once it is misclassified and, where a test is evaded, accepted (Tramer et al. 2020).

    After every step some draws of a random classifier's noise judge the images. An image is done if it succeeds in more than
    half of them. One that never is stays as it was when it succeeded in most draws, the last time of several.
    """

    restarts: int = dataclasses.field(default=1, init=False)
    stop_draws: int = option(5, "draws of the noise that tell which images are done", check=check_count)

    def __post_init__(self):
        super().__post_init__()
        if self.evade is not None and self.eot > 1:
            raise InputError("the mean of posteriors has no log p(x) that a test could accept: leave eot out")

    def climb(self, problem, eps, start, draw):
        best = start.clone()
        share = start.new_full(start.shape[:1], -1.0)  # of the draws in which the best image succeeds
        places = (share < 0).nonzero()[:, 0]  # of those that aren't done
        images, along = start, start.new_zeros(start.shape)
        draws = self.stop_draws if problem.random else 1
        for step in range(self.steps):
            images, along = self.step(problem, eps, images, along, step, draw)
            ahead = draw + self.steps + step * draws  # numbers that no gradient was drawn with
            now = sum(self.succeeds(problem, images, ahead + i).float() for i in range(draws)) / draws
            better = now >= share[places]
            best[places[better]], share[places[better]] = images[better], now[better]
            left = share[places] <= 0.5
            if not left.any():
                break
            problem = problem.of(left.nonzero()[:, 0])
            places, images, along = places[left], images[left], along[left]
        return best

    def succeeds(self, problem, images, draw):
        """True for the images that a draw misclassifies (gives the target) and that the evaded test accepts, [B]."""
        import torch

        with torch.no_grad():
            log_joint = problem.log_posterior(images, draw)
        found = margin(log_joint, problem.y, problem.target) > 0
        return found if self.evade is None else found & ~self.evade.rejects(log_joint)
