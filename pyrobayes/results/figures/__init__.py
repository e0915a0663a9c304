"""Figures for papers, as PDF and PNG.

All share one style, and a model has the same colour in each. Every function returns a matplotlib figure and leaves
matplotlib's own settings as they were.
"""

# ruff: noqa: F401  (the names that others take from here)
from pyrobayes.results.figures.certificates import certificates
from pyrobayes.results.figures.detections import detection, selective_accuracy
from pyrobayes.results.figures.distances import distances
from pyrobayes.results.figures.graph import graphical_model
from pyrobayes.results.figures.images import adversarial_examples, confusion_matrix, image_grid, reconstructions
from pyrobayes.results.figures.particle_counts import particles
from pyrobayes.results.figures.rates import ATTACKS, budget, reproduction, robustness, success_rates, worst_cases
from pyrobayes.results.figures.style import COLOURS, SUFFIXES, remove, save
