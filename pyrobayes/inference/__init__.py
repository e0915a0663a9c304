"""Estimating log p(x, y) by importance sampling, and classifying by Bayes' rule."""
