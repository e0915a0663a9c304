"""Attacks that look for the nearest adversarial image, and what "adversarial" means to them where the classifier is random."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrobayes.attacks.base import EACH, Attack, per_image
from pyrobayes.errors import InputError, check_count, check_from_zero
from pyrobayes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pyrobayes.attacks.problem import Problem

AGREEMENT = 0.8  # an image counts as misclassified once so large a share of the selection draws misclassifies it
FIRST_SELECTION_DRAW = 2**32  # no gradient sees that many draws before
# Lengths that are tried along a line, in that of the attack's own change.
FACTORS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.8, 2.6, 4.2)
HALVINGS = 3  # of the interval that holds the first agreed length
EDGE = 0.1  # nats; the original is at least so far from misclassified, as the attack sees it


@dataclass(frozen=True)
class LeastDistance(Attack):
    """An attack that looks for the nearest misclassified image. A subclass defines :meth:`nearest`.

    A random classifier misclassifies an image near its boundary in half of the draws. The attack sees one draw of the
    decision, so that it has a boundary to look for. Further draws, the selection draws, then judge the line from the original
    through the found image: the result is the first image on it that four in five of them misclassify. That image lies further
    out than the found one if this was lucky, and nearer otherwise. Those who measure the distance judge by other draws again.

    Where the ball is too small for the nearest image, the result goes towards that image as far as the ball allows.
    """

    loss: str = "margin"
    confidence: float = option(0.0, "margin in nats above which an image is misclassified", check=check_from_zero)
    selection: int = option(10, "draws of the noise that choose the best image", check=check_count)

    least_distance: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        told = f"{self.name} looks for the nearest misclassified image, and "
        if self.target == EACH:
            raise InputError(told + "so for the nearest class: leave target out")
        if self.evade is not None:
            raise InputError(told + "can't evade a test: leave evade out")

    def perturb_all(self, problem, eps):
        images, judge = problem.x.clone(), Judge(problem, self.confidence, self.selection)
        places = (~judge.astray).nonzero()[:, 0]
        if len(places):
            rest = judge.of(places)
            images[places] = rest.along_the_line(self.nearest(rest.problem, rest))
        return [images] * len(eps)

    def nearest(self, problem: Problem, judge: Judge) -> Tensor:
        """The nearest images that the judge calls misclassified; anything where none was found.

        Args:
            problem: images that aren't misclassified yet.
            judge: `judge(images)` is the margin that decides, [B] nats: above 0 an image is misclassified.
        """
        raise NotImplementedError(f"{type(self).__name__} must define nearest(problem, judge)")


class Judge:
    """Tells an attack which images are misclassified: the same answer whenever it is asked.

    One draw of a random classifier's noise decides. The luck of that draw on the original image, by how much its margin exceeds
    the mean of the selection draws, is subtracted: otherwise the attack could take an image for misclassified from the start.

    Attributes:
        astray: [B] the original images that are misclassified, by four in five of the selection draws.
    """

    def __init__(self, problem: Problem, confidence: float, selection: int):
        self.problem, self.confidence = problem, confidence
        self.selection = range(FIRST_SELECTION_DRAW, FIRST_SELECTION_DRAW + selection)
        margin = self._margin(problem.x)
        self._luck, self.astray = 0 * margin, margin > confidence
        if problem.random:
            self.astray, mean = self._agreement(problem, problem.x)
            self._luck = margin - mean.clamp_max(confidence - EDGE)

    def __call__(self, images: Tensor) -> Tensor:
        """The margin of images like the problem's, [B] nats, minus the confidence: above 0 an image is misclassified."""
        return self._margin(images) - self._luck - self.confidence

    def of(self, kept: Tensor) -> Judge:
        """This judge for some of the images alone, by their places."""
        other = copy.copy(self)
        other.problem, other.astray, other._luck = self.problem.of(kept), self.astray[kept], self._luck[kept]
        return other

    def along_the_line(self, images: Tensor) -> Tensor:
        """The nearest image on each line from the original through `images` that the selection draws call misclassified.

        Where they call none so, the last image is the furthest that was tried.
        """
        import torch

        if not self.problem.random:
            return images
        x, change = self.problem.x, images - self.problem.x
        low, high = (torch.full(x.shape[:1], value, device=x.device) for value in (0.0, FACTORS[-1]))
        left = torch.arange(len(x), device=x.device)

        def agreed(places: Tensor, factor: Tensor) -> Tensor:
            return self._agreement(self.problem.of(places), on_line(x[places], change[places], factor))[0]

        for factor in FACTORS:
            stands = ~agreed(left, low.new_full(left.shape, factor))
            high[left[~stands]], low[left[stands]] = factor, factor
            left = left[stands]
            if not len(left):
                break
        within = (low < high).nonzero()[:, 0]
        for _ in range(HALVINGS if len(within) else 0):
            middle = (low[within] + high[within]) / 2
            wrong = agreed(within, middle)
            high[within], low[within] = middle.where(wrong, high[within]), low[within].where(wrong, middle)
        return on_line(x, change, high)

    def _margin(self, images: Tensor) -> Tensor:
        return self.problem.over_draws(images, range(1))[1] if self.problem.random else self.problem.margin(images)

    def _agreement(self, problem: Problem, images: Tensor) -> tuple[Tensor, Tensor]:
        """The images that four in five selection draws misclassify, [B], and their mean margin, [B] nats."""
        share, margin, _ = problem.over_draws(images, self.selection)
        sure = margin > self.confidence if self.confidence else share > 0
        return (share >= AGREEMENT) & sure, margin


def on_line(x: Tensor, change: Tensor, factor: Tensor) -> Tensor:
    """Images at a multiple of a change from the originals, with pixels cut to [0, 1]."""
    return (x + per_image(factor) * change).clamp(0, 1)
