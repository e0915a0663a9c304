"""How large a change of an image is in each norm, and changes that are shortened to a length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pyrobayes.attacks.base import per_image

if TYPE_CHECKING:
    from torch import Tensor

ORDERS = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1", "l0": "L0"}  # as libraries spell them


def size(change: Tensor, norm: str) -> Tensor:
    """The length of changes [B, channels, height, width] in a norm, [B]; in L0 the number of pixel values that change."""
    return change.flatten(1).norm(p=ORDERS[norm], dim=1)


def farthest(pixel_values: int, norm: str) -> float:
    """No image in [0, 1] of so many pixel values is further from another."""
    return pixel_values ** (1 / ORDERS[norm]) if ORDERS[norm] else float(pixel_values)


def shortened(change: Tensor, norm: str, eps: float) -> Tensor:
    """The changes where they are no longer than eps, and scaled down to that length elsewhere.

    In L0 the largest changes stay, as many as eps allows, and the others become zero.
    """
    if norm == "l0":
        kept = min(math.floor(eps), change[0].numel())
        flat = change.flatten(1)
        largest = flat.abs().topk(kept, dim=1).indices
        return flat.new_zeros(flat.shape).scatter(1, largest, flat.gather(1, largest)).reshape_as(change)
    length = per_image(size(change, norm))
    return change * (eps / length.clamp_min(eps)).where(length > eps, 1)
