"""Attacks on classifiers: the contract, the registry, and the attacks themselves."""

from pyrobayes.attacks.apgd import APGD
from pyrobayes.attacks.base import Attack, Problem, get, names, options, register
from pyrobayes.attacks.fgsm import FGSM
from pyrobayes.attacks.losses import LOSSES, log_odds_against
from pyrobayes.attacks.noise import Gaussian, Uniform
from pyrobayes.attacks.pgd import MIM, PGD

#: The fast gradient sign method: `fgsm(classifier, x, y, eps=[0.05, 0.1])`, see :class:`FGSM`.
fgsm = FGSM()

__all__ = [
    "APGD",
    "FGSM",
    "LOSSES",
    "MIM",
    "PGD",
    "Attack",
    "Gaussian",
    "Problem",
    "Uniform",
    "fgsm",
    "get",
    "log_odds_against",
    "names",
    "options",
    "register",
]
