"""What every attack is: the loss it climbs, the ball it stays in, and the registry."""

import numbers
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrobayes.options import InputError, checked_eps, choice

_REGISTRY: dict[str, "Attack"] = {}


def log_odds_against(log_joint: Tensor, y: Tensor) -> Tensor:
    """log p(not y|x) - log p(y|x), [B] nats, from log p(x, y) [B, C].

    It is logsumexp over c != y of log p(x, c), minus log p(x, y). The gradient of the cross-entropy
    -log p(y|x) is (1 - p(y|x)) times the gradient of this: the same direction, but where the posterior is
    saturated that factor underflows to zero in float32, and a zero gradient looks like robustness.
    """
    if not 0 <= y.min() <= y.max() < log_joint.shape[1]:
        raise InputError(f"y must hold classes from 0 to {log_joint.shape[1] - 1}, got {y.min()} to {y.max()}")
    truth = log_joint.gather(1, y[:, None])[:, 0]
    return log_joint.scatter(1, y[:, None], -torch.inf).logsumexp(1) - truth


class Attack:
    """An attack bounded by eps in L-infinity: a subclass gives the perturbations, the base keeps them in bounds."""

    name: str

    def perturb(self, classifier: nn.Module, x: Tensor, y: Tensor, eps: Sequence[float]) -> Tensor:
        """Adversarial images [E, B, channels, height, width], one for each eps, not yet kept in bounds."""
        raise TypeError(f"{type(self).__name__} must define perturb(classifier, x, y, eps)")

    def __call__(self, classifier: nn.Module, x: Tensor, y: Tensor, eps: float | Sequence[float]) -> Tensor:
        """Attack a classifier.

        Args:
            classifier: gives log p(x, y), or logits, [B, C], differentiably in x.
            x: images [B, channels, height, width] in [0, 1].
            y: their true classes [B].
            eps: bounds of the perturbation in L-infinity, each in [0, 1].

        Returns:
            Adversarial images in [0, 1], no pixel further than eps from its original:
            [E, B, channels, height, width] for E values of eps, without the first dimension for a single number.
        """
        single = isinstance(eps, numbers.Real)
        eps = [float(eps)] if single else [float(value) for value in eps]
        checked_eps(eps)
        if not isinstance(x, Tensor) or x.dim() != 4 or not x.is_floating_point():
            raise InputError(f"x must be images [B, channels, height, width], floats in [0, 1], got {_described(x)}")
        if not isinstance(y, Tensor) or y.shape != x.shape[:1] or y.dtype != torch.long:
            raise InputError(f"y must hold one class, a torch.long, for each of {len(x)} images, got {_described(y)}")
        bounds = torch.tensor(eps, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1, 1)
        adversarial = self.perturb(classifier, x, y, eps)
        adversarial = adversarial.clamp((x - bounds).clamp(0, 1), (x + bounds).clamp(0, 1)).detach()
        return adversarial[0] if single else adversarial


def _described(value) -> str:
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def register(name: str):
    """Class decorator: make an attack known under `name`, lower case."""

    def add(cls: type[Attack]) -> type[Attack]:
        cls.name = name
        _REGISTRY[name] = cls()
        return cls

    return add


def names() -> list[str]:
    """The names of all registered attacks."""
    return list(_REGISTRY)


def get(name: str) -> Attack:
    """The attack registered under `name`; :class:`InputError` with the nearest name otherwise."""
    return _REGISTRY[choice("attack", name, _REGISTRY)]
