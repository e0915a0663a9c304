"""Factorizations of p(x, z, y): the contract, the registry, and the seven of Li et al. (2019)."""

from pyrobayes.factorizations import deep_bayes  # noqa: F401  (registers the seven)
from pyrobayes.factorizations.base import DeepBayes, build, get, names, parents_in, register

__all__ = ["DeepBayes", "build", "get", "names", "parents_in", "register"]
