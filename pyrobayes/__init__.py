"""Deep Bayes classifiers in Pyro: specified, trained, classified with, and attacked.

>>> import pyrobayes
>>> factorization = pyrobayes.build("gbz", networks="small")
>>> classifier = pyrobayes.BayesClassifier(factorization, particles=10, noise="fresh", seed=0)
"""

import importlib

from pyrobayes.errors import InputError
from pyrobayes.options import (
    ClassifierOptions,
    EvaluationOptions,
    Networks,
    RobustnessOptions,
    TrainingOptions,
)
from pyrobayes.version import __version__

# Loaded when first asked for, so that a command line can be parsed without waiting for torch.
_PLACES = {
    "attacks": None,
    "commands": None,
    "data": None,
    "distributed": None,
    "evaluation": None,
    "factorizations": None,
    "inference": None,
    "results": None,
    "training": None,
    "build": "factorizations",
    "BayesClassifier": "inference.classifier",
    "load": "training.checkpoint",
    "pretrained": "training.checkpoint",
    "load_data": "data",
    "fetch": "data",
    "Images": "data",
    "fit": "training.fit",
    "Epoch": "training.metrics",
    "NonFiniteELBO": "training.fit",
    "TrainingInterrupted": "training.fit",
    "evaluate": "evaluation",
    "attack": "evaluation",
    "AttackOptions": "attacks.attack_options",
    "fit_detector": "evaluation.detection",
    "detect": "evaluation.detection",
    "DetectionOptions": "attacks.attack_options",
    "assess": "evaluation.robustness.verdict",
    "generate": "inference.generation",
    "reconstruct": "inference.generation",
    "Progress": "progress",
}

__all__ = [
    "ClassifierOptions",
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
