"""Attacks on classifiers: the contract, the registry, and the attacks themselves."""

from pyrobayes.attacks.base import Attack, get, log_odds_against, names, register
from pyrobayes.attacks.fgsm import FGSM

#: The fast gradient sign method: `fgsm(classifier, x, y, eps=[0.05, 0.1])`, see :class:`FGSM`.
fgsm = get("fgsm")

__all__ = ["FGSM", "Attack", "fgsm", "get", "log_odds_against", "names", "register"]
