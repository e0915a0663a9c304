"""Deep Bayes classifiers in Pyro: specified, trained, classified with, and attacked.

>>> import pyrobayes
>>> factorization = pyrobayes.build("gbz", networks="small")
>>> classifier = pyrobayes.BayesClassifier(factorization, particles=10, noise="fresh", seed=0)
"""

import importlib

from pyrobayes.errors import InputError
from pyrobayes.options import (
    CertificationOptions,
    ClassifierOptions,
    EvaluationOptions,
    Networks,
    RobustnessOptions,
    TrainingOptions,
)
from pyrobayes.version import __version__

# Loaded when first asked for, so that a command line can be parsed without waiting for torch.
_NAMES = {
    "attacks.attack_options": "AttackOptions DetectionOptions",
    "data": "Images fetch load_data",
    "evaluation": "attack evaluate",
    "evaluation.certification": "certify",
    "evaluation.detection": "detect fit_detector",
    "evaluation.robustness.verdict": "assess",
    "factorizations": "build",
    "inference.classifier": "BayesClassifier",
    "inference.generation": "generate reconstruct",
    "inference.modules": "ModuleClassifier",
    "inference.pyro_pair": "from_pyro",
    "progress": "Progress",
    "training.checkpoint": "load pretrained",
    "training.distillation": "distill",
    "training.fit": "NonFiniteELBO TrainingInterrupted fit",
    "training.metrics": "Epoch",
}
_MODULES = "attacks commands data distributed evaluation factorizations inference results training".split()
_PLACES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = [
    "CertificationOptions",
    "ClassifierOptions",
    "EvaluationOptions",
    "InputError",
    "Networks",
    "RobustnessOptions",
]
__all__ += ["TrainingOptions", "__version__", *_MODULES, *_PLACES]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"pyrobayes.{name}")
    if name in _PLACES:
        return getattr(importlib.import_module(f"pyrobayes.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'pyrobayes' has no attribute '{name}'")


def __dir__():
    return sorted({*globals(), *__all__})
