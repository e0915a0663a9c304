"""The losses that attacks increase, each higher the nearer a classifier is to a mistake.

A function in LOSSES takes log joints [B, C] in nats, or logits, the true classes [B], and target classes [B] or None; it
gives [B]. The caller checks the classes. A function in MATCHING takes a classifier and images, and gives the features that
an attack makes equal to those of an image of another class.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pyrobayes.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

SOFTNESS = 3.0  # nats


def log_odds_against(log_joint: Tensor, y: Tensor) -> Tensor:
    """log p(not y|x) - log p(y|x), [B] nats, from log p(x, y) [B, C].

    It is logsumexp over c != y of log p(x, c), minus log p(x, y). The gradient of the cross-entropy
    -log p(y|x) is (1 - p(y|x)) times the gradient of this: the same direction, but where the posterior is
    saturated that factor underflows to zero in float32, and a zero gradient looks like robustness.
    """
    check_classes(y, log_joint.shape[1])
    return _log_odds(log_joint, y)


def check_classes(y: Tensor, classes: int) -> None:
    """Refuse classes [B] that are not among so many. A GPU is waited for: look once, not in a loop."""
    if not 0 <= y.min() <= y.max() < classes:
        raise InputError(f"y must hold classes from 0 to {classes - 1}, got {y.min()} to {y.max()}")


def _log_odds(log_joint: Tensor, y: Tensor) -> Tensor:
    truth, others = _split(log_joint, y)
    return others.logsumexp(1) - truth


def _split(log_joint: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, y) of each image's own class y, [B], and log p(x, c), [B, C], but minus infinity for c = y."""
    return log_joint.gather(1, y[:, None])[:, 0], log_joint.scatter(1, y[:, None], -math.inf)


def cross_entropy(log_joint: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """The cross-entropy with the true class, or minus that with the target, as :func:`log_odds_against`."""
    return _log_odds(log_joint, y) if target is None else -_log_odds(log_joint, target)


def margin(log_joint: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """The best log p(x, c) of another class minus log p(x, y), in nats (Carlini and Wagner 2017, f_6).

    With a target, log p(x, target) minus the best of another class.
    """
    if target is not None:
        return -margin(log_joint, target)
    truth, others = _split(log_joint, y)
    return others.amax(1) - truth


def difference_of_logits_ratio(log_joint: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """The margin over the spread of the best classes: the DLR loss of Croce and Hein (2020), equations 6 and 7.

    Shifted or scaled log joints have the same loss. With a target it is log p(x, target) - log p(x, y) over the spread,
    as in their paper. The spread is taken over the best three classes (four with a target), or all where there are fewer.
    """
    best = log_joint.topk(min(log_joint.shape[1], 3 if target is None else 4), dim=1).values
    if target is None:
        return margin(log_joint, y) / (best[:, 0] - best[:, -1]).clamp_min(1e-12)
    spread = (best[:, 0] - best[:, -2:].mean(1)).clamp_min(1e-12)
    return (_split(log_joint, target)[0] - _split(log_joint, y)[0]) / spread


def soft_margin(log_joint: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """log sigmoid(margin / 3), [B]: about the margin where it is far below 0, and flat where the mistake is sure.

    Its mean over particles (`snapshot`) is led by those that still classify well, and not by those that are lost already.
    """
    from torch.nn.functional import logsigmoid

    return logsigmoid(margin(log_joint, y, target) / SOFTNESS)


def logits(classifier: nn.Module, x: Tensor) -> Tensor:
    """All log p(x, y), or logits, [B, C]; an image that matches them also passes tests of them (Tramer et al. 2020)."""
    return classifier(x)


def latent_means(classifier: nn.Module, x: Tensor) -> Tensor:
    """The means of q(z|x, y) for all y, [B, C latent], from which the other image decodes (Sabour et al. 2016)."""
    if not hasattr(classifier, "latent_means"):
        raise InputError(f"latent-matching needs a BayesClassifier, got {classifier.name}")
    return classifier.latent_means(x).flatten(1)


LOSSES = {
    "cross-entropy": cross_entropy,
    "margin": margin,
    "dlr": difference_of_logits_ratio,
    "soft-margin": soft_margin,
}
MATCHING = {"logit-matching": logits, "latent-matching": latent_means}
