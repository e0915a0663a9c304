"""Figures for papers, as PDF and PNG.

All share one style, and a model has the same colour in each. Every function returns a matplotlib figure and leaves
matplotlib's own settings as they were.
"""

from pyrobayes.results.figures.confusion import confusion_matrix
from pyrobayes.results.figures.detections import detection
from pyrobayes.results.figures.graph import graphical_model
from pyrobayes.results.figures.images import adversarial_examples, image_grid, reconstructions
from pyrobayes.results.figures.particle_counts import particles
from pyrobayes.results.figures.published import reproduction
from pyrobayes.results.figures.rates import success_rates
from pyrobayes.results.figures.style import COLOURS, data_name, remove, save
from pyrobayes.results.figures.verdicts import ATTACKS, robustness, worst_cases

__all__ = [
    "ATTACKS",
    "COLOURS",
    "adversarial_examples",
    "confusion_matrix",
    "data_name",
    "detection",
    "graphical_model",
    "image_grid",
    "particles",
    "reconstructions",
    "remove",
    "reproduction",
    "robustness",
    "save",
    "success_rates",
    "worst_cases",
]
