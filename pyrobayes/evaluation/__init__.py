"""Measuring classifiers: clean, attacked, under noise."""

from pyrobayes.evaluation.attacked import AttackResult, attack
from pyrobayes.evaluation.clean import Evaluation, evaluate
from pyrobayes.evaluation.rates import Rate

__all__ = ["AttackResult", "Evaluation", "Rate", "attack", "evaluate"]
