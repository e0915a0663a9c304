"""Spending most particles on the classes that are still possible."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrobayes.inference.importance import ImportanceEstimate
from pyrobayes.inference.subsets import MULTIPLE

FIRST_SHARE = 5  # a fifth of the particles goes to all classes


def pruned_estimate(
    log_weights: Callable[..., Tensor], x: Tensor, keys: Tensor, y: Tensor, particles: int, prune: float
) -> ImportanceEstimate:
    """An estimate whose first particles serve all classes, and the others the classes within `prune` nats of the best.

    Args:
        log_weights: see :class:`pyrobayes.inference.log_weights.LogWeights`.
        x, keys: images [B, channels, height, width] and the keys of their noise [B].
        y: every class, [C, 1].
        particles: K.
    """
    first = math.ceil(particles / FIRST_SHARE)
    initial = log_weights(x, keys, y, 0, first)
    if first == particles:
        return ImportanceEstimate(initial)
    log_joint = ImportanceEstimate(initial).log_joint.T
    class_, image = torch.nonzero(log_joint >= log_joint.amax(0) - prune, as_tuple=True)
    idle = -len(class_) % math.ceil(MULTIPLE / (particles - first))
    padded_class, padded_image = (F.pad(indices, (0, idle)) for indices in (class_, image))
    more = log_weights(x[padded_image], keys[padded_image], padded_class[None], first, particles)[:, 0, : len(class_)]
    others = torch.full_like(log_joint, -torch.inf).repeat(particles - first, 1, 1)
    others[:, class_, image] = more
    drawn = torch.full_like(log_joint, first).index_put((class_, image), log_joint.new_tensor(particles))
    return ImportanceEstimate(torch.cat([initial, others]), drawn)
