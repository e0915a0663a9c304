"""Factorizations of p(x, z, y): the contract, the registry, the seven of Li et al. (2019), and comparators."""

from pyrobayes.factorizations import comparators, deep_bayes  # noqa: F401  (they register theirs)
from pyrobayes.factorizations.base import DeepBayes, build, get, names, register
from pyrobayes.factorizations.structure import Structure

__all__ = ["DeepBayes", "Structure", "build", "get", "names", "register"]
