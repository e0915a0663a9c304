"""Attacks on classifiers: the contract, the registry, and the attacks themselves."""

from pyrobayes.attacks.apgd import APGD
from pyrobayes.attacks.base import Attack, Problem, get, names, options, register
from pyrobayes.attacks.cw import CW
from pyrobayes.attacks.fgsm import FGSM
from pyrobayes.attacks.losses import LOSSES, MATCHING, log_odds_against
from pyrobayes.attacks.noise import Gaussian, Uniform
from pyrobayes.attacks.patch import Patch
from pyrobayes.attacks.pgd import MIM, PGD
from pyrobayes.attacks.square import Square
from pyrobayes.attacks.transfer import Transfer

#: The fast gradient sign method: `fgsm(classifier, x, y, eps=[0.05, 0.1])`, see :class:`FGSM`.
fgsm = FGSM()

__all__ = [
    "APGD",
    "CW",
    "FGSM",
    "LOSSES",
    "MATCHING",
    "MIM",
    "PGD",
    "Attack",
    "Gaussian",
    "Patch",
    "Problem",
    "Square",
    "Transfer",
    "Uniform",
    "fgsm",
    "get",
    "log_odds_against",
    "names",
    "options",
    "register",
]
