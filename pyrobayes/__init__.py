"""Deep Bayes classifiers in Pyro: specified, trained, classified with, and attacked.

>>> import pyrobayes
>>> factorization = pyrobayes.build("gbz", networks="small")
>>> classifier = pyrobayes.BayesClassifier(factorization, particles=10, noise="fresh", seed=0)
"""

import importlib

from pyrobayes.options import (
    AttackOptions,
    ClassifierOptions,
    DetectionOptions,
    EvaluationOptions,
    InputError,
    Networks,
    RobustnessOptions,
    TrainingOptions,
)
from pyrobayes.version import __version__

# Loaded when first asked for, so that a command line can be parsed without waiting for torch.
_PLACES = {
    "attacks": None,
    "checkpoint": None,
    "checks": None,
    "classifier": None,
    "conditionals": None,
    "data": None,
    "detection": None,
    "distributed": None,
    "distributions": None,
    "evaluation": None,
    "factorizations": None,
    "figures": None,
    "generation": None,
    "importance": None,
    "networks": None,
    "report": None,
    "reproduction": None,
    "results": None,
    "robustness": None,
    "runs": None,
    "training": None,
    "build": "factorizations",
    "BayesClassifier": "classifier",
    "load": "checkpoint",
    "pretrained": "checkpoint",
    "load_data": "data",
    "fetch": "data",
    "Images": "data",
    "fit": "training",
    "Epoch": "training",
    "NonFiniteELBO": "training",
    "TrainingInterrupted": "training",
    "evaluate": "evaluation",
    "attack": "evaluation",
    "fit_detector": "detection",
    "detect": "detection",
    "assess": "robustness",
    "generate": "generation",
    "reconstruct": "generation",
    "Progress": "progress",
}

__all__ = [
    "AttackOptions",
    "ClassifierOptions",
    "DetectionOptions",
    "EvaluationOptions",
    "InputError",
    "Networks",
    "RobustnessOptions",
    "TrainingOptions",
    "__version__",
    *_PLACES,
]


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module 'pyrobayes' has no attribute '{name}'")
    place = _PLACES[name]
    module = importlib.import_module(f"pyrobayes.{place or name}")
    return getattr(module, name) if place else module


def __dir__():
    return sorted({*globals(), *_PLACES})
