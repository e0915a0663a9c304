"""Attacks on classifiers: one attack, one file; what they share is in `base`, and the batch they solve in `problem`."""

# Help texts and messages list the attacks in the order of these imports.
# isort: off
from pyrobayes.attacks.base import Attack, get, names, options, register
from pyrobayes.attacks.losses import LOSSES, MATCHING, log_odds_against
from pyrobayes.attacks.fgsm import FGSM
from pyrobayes.attacks.pgd import MIM, PGD
from pyrobayes.attacks.stopping import StoppingPGD
from pyrobayes.attacks.eot_mim import EOTMIM
from pyrobayes.attacks.apgd import APGD
from pyrobayes.attacks.cw import CW
from pyrobayes.attacks.square import Square
from pyrobayes.attacks.simba import SimBA
from pyrobayes.attacks.transfer import Transfer
from pyrobayes.attacks.patch import Patch
from pyrobayes.attacks.libraries import DDN, FAB, FMN, AutoAttack, Boundary, HopSkipJump
from pyrobayes.attacks.noise import Gaussian, Uniform
# isort: on

#: The fast gradient sign method: `fgsm(classifier, x, y, eps=[0.05, 0.1])`, see :class:`FGSM`.
fgsm = FGSM()

__all__ = ["APGD", "AutoAttack", "Boundary", "CW", "DDN", "EOTMIM", "FAB", "FGSM", "FMN", "HopSkipJump", "LOSSES"]
__all__ += ["MATCHING", "MIM", "PGD", "Attack", "Gaussian", "Patch", "Problem", "SimBA", "Square", "StoppingPGD"]
__all__ += ["Transfer", "Uniform"]
__all__ += ["fgsm", "get", "log_odds_against", "names", "options", "register"]


def __getattr__(name: str):
    if name != "Problem":
        raise AttributeError(f"module 'pyrobayes.attacks' has no attribute '{name}'")
    from pyrobayes.attacks.problem import Problem  # imports torch

    return Problem
