"""Log weights in parts that fit the memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Part:
    """One part of a batch.

    Attributes:
        images: which of them.
        served: which of the first dimension of the log weights.
        compute: these log weights as a function of the images.
    """

    images: slice
    served: slice
    compute: Callable[[Tensor], Tensor]


def sizes_of_parts(memory: int, needed: tuple[int, int], classes: int, particles: int) -> tuple[int, int]:
    """How many particles, and then how many images, fit into `memory` MiB; at least one of each.

    Args:
        needed: bytes for an image, and besides for every particle of a class of it.
        classes, particles: of an image.
    """
    available, (image, each) = memory * MEBIBYTE, needed
    particles = min(particles, max(1, (available - image) // (classes * each)))
    return particles, max(1, available // (image + classes * particles * each))


def bytes_kept(compute: Callable[[], Tensor], network: nn.Module) -> int:
    """Bytes that autograd keeps for the gradient of what is computed, the weights of the network not counted."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.inference_mode(False), torch.enable_grad():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            compute()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    return sum(size for pointer, size in kept.items() if pointer not in parameters)


class InParts(torch.autograd.Function):
    """Log weights [N, C, B] of which only the result is kept: each part is computed again for its gradient.

    `torch.utils.checkpoint` keeps something of every part, however small, which lies between the large values of the next
    ones, until the allocator finds no room for them and takes more: the memory grew with the number of parts.

    Called with the parts, the shape of the result, the images, and the weights that may ask for a gradient.
    """

    @staticmethod
    def forward(ctx, parts: list[Part], shape: tuple[int, ...], x: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        ctx.parts = parts
        log_weights = x.new_empty(shape)
        for part in parts:
            log_weights[part.served, :, part.images] = part.compute(x[part.images])
        return log_weights

    @staticmethod
    def backward(ctx, gradient: Tensor):
        given, twice = ctx.saved_tensors, torch.is_grad_enabled()  # twice: the gradient is to have one of its own
        total = [torch.zeros_like(each) if needs else None for each, needs in zip(given, ctx.needs_input_grad[2:])]
        needed = [i for i, each in enumerate(total) if each is not None]
        with torch.enable_grad():
            for part in ctx.parts:
                x = given[0][part.images] if twice else given[0][part.images].detach().requires_grad_()
                inputs = [given[i] if i else x for i in needed]
                incoming = gradient[part.served, :, part.images]
                found = torch.autograd.grad(part.compute(x), inputs, incoming, create_graph=twice, allow_unused=True)
                for i, each in zip(needed, found):
                    if each is not None:
                        (total[i] if i else total[i][part.images]).add_(each)
        return None, None, *total
