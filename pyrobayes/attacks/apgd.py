"""Auto-PGD."""

import math
from dataclasses import dataclass

from pyrobayes.attacks.base import per_image, register
from pyrobayes.attacks.pgd import Iterative

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

    def climb(self, problem, eps, start, draw):
        before = images = best = start
        loss, gradient = problem.gradient(images, draw)
        best_gradient, highest = gradient, loss
        size = per_image(loss.new_full(loss.shape, 2 * eps))
        rises, improved, halved = 0, False, True  # since the last checkpoint, and at it; for each image from then on
        checks, last = checkpoints(self.steps), 0
        for step in range(1, self.steps + 1):
            ahead = problem.project(images + size * problem.ascend(gradient), eps)
            alpha = MOMENTUM if step > 1 else 1.0
            ahead = problem.project(images + alpha * (ahead - images) + (1 - alpha) * (images - before), eps)
            before, images, previous = images, ahead, loss
            loss, gradient = problem.gradient(images, draw + step)
            if problem.random:
                previous, highest = (problem.loss(each, draw + step) for each in (before, best))
            better = loss > highest
            rises, improved = rises + (loss > previous), better | improved
            where, highest = per_image(better), loss.where(better, highest)
            best, best_gradient = images.where(where, best), gradient.where(where, best_gradient)
            if step in checks:
                halved = (rises < RISING * (step - last)) | ~(improved | halved)
                where, loss = per_image(halved), highest.where(halved, loss)
                size = (size / 2).where(where, size)
                images, gradient = best.where(where, images), best_gradient.where(where, gradient)
                rises, improved, last = 0, False, step
        return best


def checkpoints(steps: int) -> set[int]:
    """The steps after which the step size may be halved: ceil(p_j steps), section 3.3 of the paper."""
    before, now, found = 0, 22, set()  # hundredths
    while now <= 100:
        found.add(math.ceil(now * steps / 100))
        before, now = now, now + max(now - before - 3, 6)
    return found
