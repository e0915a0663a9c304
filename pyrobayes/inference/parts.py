"""Log weights in parts that fit the memory."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def bytes_kept(compute: Callable[[], Tensor], network: nn.Module) -> int:
    """Bytes that autograd keeps for the gradient of a computation, without the weights of the network."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # with its graph it would keep itself for ever

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    return sum(size for pointer, size in kept.items() if pointer not in parameters)


class InParts(torch.autograd.Function):
    """Log weights [N, C, B] of which only the result is kept: each part is computed again for its gradient.

    With `torch.utils.checkpoint`, which keeps a little of every part, the memory grew with the number of parts.

    Called with the parts, the shape of the result, the images, and the weights that may ask for a gradient. A part is a
    slice of the images, one of the log weights, and these log weights as a function of these images.
    """

    @staticmethod
    def forward(
        ctx, parts: list[tuple[slice, slice, Callable]], shape: tuple[int, ...], x: Tensor, *weights: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, *weights)
        ctx.parts = parts
        result = x.new_empty(shape)
        for images, log_weights, compute in parts:
            result[log_weights, :, images] = compute(x[images])
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor):
        given, twice = ctx.saved_tensors, torch.is_grad_enabled()  # twice: the gradient is to have one of its own
        total = [torch.zeros_like(each) if needs else None for each, needs in zip(given, ctx.needs_input_grad[2:])]
        needed = [i for i, each in enumerate(total) if each is not None]
        with torch.enable_grad():
            for images, log_weights, compute in ctx.parts:
                x = given[0][images] if twice else given[0][images].detach().requires_grad_()
                inputs, incoming = [given[i] if i else x for i in needed], gradient[log_weights, :, images]
                found = torch.autograd.grad(compute(x), inputs, incoming, create_graph=twice, allow_unused=True)
                for i, each in zip(needed, found):
                    if each is not None:
                        (total[i] if i else total[i][images]).add_(each)
        return None, None, *total
