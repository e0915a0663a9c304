"""The fast gradient sign method."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrobayes.attacks.base import Attack, log_odds_against, register


@register("fgsm")
class FGSM(Attack):
    """x + eps sign(gradient in x of -log p(y|x)), Goodfellow, Shlens and Szegedy (2015), equation 4.

    The gradient goes through the whole importance-sampled estimate: guide, samples, decoder, logsumexp.
    Its direction doesn't depend on eps, so one gradient serves all.
    """

    def perturb(self, classifier: nn.Module, x: Tensor, y: Tensor, eps: Sequence[float]) -> Tensor:
        x = x.detach().requires_grad_(True)
        with torch.enable_grad():
            loss = log_odds_against(classifier(x), y).sum()
        direction = torch.autograd.grad(loss, x)[0].sign()
        return torch.stack([x.detach() + value * direction for value in eps])
