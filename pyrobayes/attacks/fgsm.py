"""The fast gradient sign method."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrobayes.attacks.base import Attack, Problem, register


@register("fgsm")
@dataclass(frozen=True)
class FGSM(Attack):
    """x + eps sign(gradient in x of -log p(y|x)), Goodfellow, Shlens and Szegedy (2015), equation 4.

    In L2, x + eps times the gradient over its length (Miyato et al. 2017, the fast gradient method), cut to [0, 1], which
    leaves less than eps where pixels are black or white: iterative attacks make use of the rest. The gradient goes
    through the whole importance-sampled estimate: guide, samples, decoder, logsumexp. Its direction doesn't depend on
    eps, so one gradient serves all.
    """

    def perturb_all(self, problem: Problem, eps: Sequence[float]) -> Tensor:
        _, gradient = problem.gradient(problem.x)
        step = problem.ascend(gradient)
        return torch.stack([problem.x + value * step for value in eps])
