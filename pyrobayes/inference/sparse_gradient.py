"""A gradient in the images that leaves out the particles whose share in it is negligible."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyrobayes.errors import InputError
from pyrobayes.inference.subsets import MULTIPLE


class SparseGradient(torch.autograd.Function):
    """Log weights [N, C, B] whose gradient in the images is computed of some of the particles.

    The incoming gradient shows which log weights matter; only those are recomputed and differentiated, so that the forward
    pass keeps nothing. What remains is scaled: the classes that are drawn near and those that are driven away each keep
    their total weight. Otherwise what all log weights have in common would no longer cancel.

    Called with the threshold (a part of the image's largest share), whether one decoding serves all classes,
    `log_weights(x, subset)`, and the images.
    """

    @staticmethod
    def forward(ctx, negligible: float, shared: bool, log_weights: Callable, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.given = negligible, shared, log_weights
        return log_weights(x, None)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        if torch.is_grad_enabled():
            raise InputError("second derivatives need all particles: leave negligible out")
        (x,), (negligible, shared, log_weights) = ctx.saved_tensors, ctx.given
        weights = weights_that_matter(gradient.transpose(1, 2), negligible, shared)
        subset = weights.any(2) if shared else weights != 0
        if not subset.any():
            return None, None, None, torch.zeros_like(x)
        idle = (~subset).flatten().nonzero()[: -int(subset.sum()) % MULTIPLE]
        subset.view(-1)[idle] = True  # their weight is 0
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return None, None, None, *torch.autograd.grad(log_weights(x, subset), x, weights[subset])


def weights_that_matter(gradient: Tensor, negligible: float, shared: bool) -> Tensor:
    """The gradient in the log weights, [N, B, C], with 0 where it is negligible, and its two signs scaled to their former sums."""
    kept = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
    for side in (gradient.clamp_min(0), gradient.clamp_max(0)):
        share = side.abs().sum(2, keepdim=True) if shared else side.abs()
        part = side * (share > negligible * share.amax((0, 2), keepdim=True))
        whole = part.sum((0, 2), keepdim=True)
        kept += part * (side.sum((0, 2), keepdim=True) / whole).where(whole != 0, 0)
    return kept
