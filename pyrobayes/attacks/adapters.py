"""Random classifiers as the deterministic functions of an image that attack libraries take classifiers for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pyrobayes.attacks.base import per_image
from pyrobayes.attacks.least_distance import Judge
from pyrobayes.attacks.norms import NAMES
from pyrobayes.attacks.problem import Problem
from pyrobayes.errors import InputError

if TYPE_CHECKING:
    from pyrobayes.attacks.libraries import AutoAttack

STARTS = 60  # images of noise that are tried
GRIDS = (1, 2, 4, 8)  # the noise has so many squares along each side, or one a pixel where the image is smaller


class RightOrWrong(nn.Module):
    """Logits of two classes, [B, 2]: the image is classified right, or it is misclassified.

    Their difference is the judge's margin, the same at every call. Its gradient is that of the problem's loss, and sees other
    noise at every call. A library that steps along it averages over the noise.
    """

    def __init__(self, problem: Problem, judge: Judge):
        super().__init__()
        self.problem, self.judge, self.draw = problem, judge, 0

    def forward(self, images: Tensor) -> Tensor:
        seen = images.detach().to(self.problem.x.dtype)
        margin = self.judge(seen).to(images.dtype)
        if images.requires_grad:
            self.draw += 1
            with torch.enable_grad():
                margin = margin + ((images - images.detach()) * self._gradient(seen).to(images.dtype)).flatten(1).sum(1)
        return torch.stack([-margin / 2, margin / 2], 1)

    def _gradient(self, images: Tensor) -> Tensor:
        _, gradient = self.problem.gradient(images, self.draw)
        none = per_image(~gradient.flatten(1).any(1))
        # Libraries divide by its length. Any direction is as good where there is none.
        return self.problem.normals(self.draw).where(none, gradient) if none.any() else gradient


class LogPosteriors(nn.Module):
    """Logits of all classes, centred for every image, [B, C] nats, with other noise at every call."""

    def __init__(self, problem: Problem):
        super().__init__()
        self.problem, self.draw = problem, 0

    def forward(self, images: Tensor) -> Tensor:
        self.draw += 1
        log_posterior = self.problem.log_posterior(images.to(self.problem.x.dtype), self.draw)
        return log_posterior - log_posterior.mean(1, keepdim=True)


def misclassified_image(problem: Problem, judge: Judge) -> Tensor | None:
    """An image [1, channels, height, width] of noise that is misclassified; None if there is none among those tried."""
    height, width = problem.x.shape[-2:]
    for draw in range(STARTS):
        rows, columns = (min(GRIDS[draw % len(GRIDS)], length) for length in (height, width))
        noise = problem.uniforms(draw)
        images = interpolate(noise[..., :rows, :columns], (height, width)) if draw % (len(GRIDS) + 1) else noise
        if judge(images) > 0:
            return images
    return None


@contextlib.contextmanager
def random_state(problem: Problem, seeded: bool) -> Iterator[int]:
    """Torch's random numbers are as before afterwards. Where `seeded`, they follow from the attack's seed and the first image.

    Yields that seed of torch's.
    """
    with torch.random.fork_rng([problem.x.device] if problem.x.device.type == "cuda" else []):
        seed = int(problem.uniforms(STARTS).flatten()[0].item() * 2**24) if seeded else 0
        if seeded:
            torch.manual_seed(seed)
        yield seed


def auto_attack(module: ModuleType, attack: AutoAttack, problem: Problem, eps: float) -> Tensor:
    """AutoAttack on one image, [1, channels, height, width]."""
    seen = LogPosteriors(problem)
    problem.gradient(problem.x)  # tells whether there is one
    with torch.no_grad():
        classes = seen(problem.x).shape[1]
    if classes < 4:
        raise InputError(f"autoattack needs at least four classes for its DLR loss, got {classes}")
    with random_state(problem, True) as seed, errors_alone(logging.getLogger("auto-attack")):
        norm, device = NAMES[attack.norm], problem.x.device
        by = module.AutoAttack(seen, norm=norm, eps=eps, seed=seed, version=attack.variant, device=device)
        for climb in (by.apgd, by.apgd_targeted):
            steps = {"n_iter": 1, "n_iter_orig": 1, "n_iter_2": 0.22, "n_iter_min": 0.06, "size_decr": 0.03}
            vars(climb).update({name: max(int(share * attack.steps), 1) for name, share in steps.items()})
        by.fab.n_iter, by.square.n_queries = attack.steps, attack.queries
        by.apgd_targeted.n_target_classes = by.fab.n_target_classes = min(attack.targets, classes - 1)
        return by.run_standard_evaluation(problem.x, problem.y, batch_size=1)[0].to(problem.x.dtype)


@contextlib.contextmanager
def errors_alone(logger: logging.Logger) -> Iterator[None]:
    """A logger's warnings are left out: it warns of random classifiers, for one image at a time."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
