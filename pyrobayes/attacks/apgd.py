"""Auto-PGD."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pyrobayes.attacks.base import per_image, register
from pyrobayes.attacks.pgd import Iterative

if TYPE_CHECKING:
    from torch import Tensor

MOMENTUM = 0.75  # alpha of Croce and Hein (2020), equation 2
RISING = 0.75  # rho of their condition 1


class Ascent(NamedTuple):
    """Where the steps have come to.

    Attributes:
        before, images, best: [B, ...], the images before the last step, after it, and where the loss was highest.
        loss, highest: [B], the losses of `images` and `best`.
        gradient, best_gradient: [B, ...], their gradients.
        rises: [B], how often the loss rose since the last checkpoint.
        improved: [B], whether `best` changed since then.
    """

    before: Tensor
    images: Tensor
    best: Tensor
    loss: Tensor
    highest: Tensor
    gradient: Tensor
    best_gradient: Tensor
    rises: Tensor
    improved: Tensor


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
        loss, gradient = problem.gradient(start, draw)
        rises, improved = loss.new_zeros(loss.shape), loss.isnan().fill_(False)
        now = Ascent(start, start, start, loss, loss, gradient, gradient, rises, improved)
        size = per_image(loss.new_full(loss.shape, 2 * eps))
        checks, last, halved = checkpoints(self.steps), 0, ~improved
        for step in range(1, self.steps + 1):
            alpha = MOMENTUM if step > 1 else 1.0
            now = Ascent(*problem.step(self.moved, *now, size, eps, alpha, draw + step))
            if step in checks:
                halved = (now.rises < RISING * (step - last)) | ~(now.improved | halved)
                where, last = per_image(halved), step
                size = (size / 2).where(where, size)
                now = now._replace(
                    images=now.best.where(where, now.images),
                    loss=now.highest.where(halved, now.loss),
                    gradient=now.best_gradient.where(where, now.gradient),
                    rises=rises,
                    improved=improved,
                )
        return now.best

    def moved(self, problem, *given):
        """The ascent one step further; given are that before, the size of the step [B, 1, 1, 1], eps, alpha and the draw."""
        *before, size, eps, alpha, draw = given
        now = Ascent(*before)
        ahead = problem.project(now.images + size * problem.ascend(now.gradient), eps)
        ahead = now.images + alpha * (ahead - now.images) + (1 - alpha) * (now.images - now.before)
        ahead = problem.project(ahead, eps)
        loss, gradient = problem.gradient(ahead, draw)
        previous, highest = now.loss, now.highest
        if problem.random:
            previous, highest = problem.loss(now.images, draw), problem.loss(now.best, draw)
        better = loss > highest
        where = per_image(better)
        return Ascent(
            before=now.images,
            images=ahead,
            best=ahead.where(where, now.best),
            loss=loss,
            highest=loss.where(better, highest),
            gradient=gradient,
            best_gradient=gradient.where(where, now.best_gradient),
            rises=now.rises + (loss > previous),
            improved=better | now.improved,
        )


def checkpoints(steps: int) -> set[int]:
    """The steps after which the step size may be halved: ceil(p_j steps), section 3.3 of the paper."""
    before, now, found = 0, 22, set()  # hundredths
    while now <= 100:
        found.add(math.ceil(now * steps / 100))
        before, now = now, now + max(now - before - 3, 6)
    return found
