"""The estimators of :mod:`pyrobayes.inference.importance` on a subset of the particles.

A gradient that leaves out negligible particles decodes no others; see :mod:`pyrobayes.inference.sparse_gradient`.
"""

from pyro import poutine
from torch import Tensor

from pyrobayes.factorizations import DeepBayes
from pyrobayes.inference.importance import (
    all_classes,
    draw_from_mixture,
    drawn,
    log_prob,
    plates,
    seen_by_guide,
    trace_guide,
)

MULTIPLE = 64  # kernels are specialised per size: pad subsets to multiples of it


def per_class_subset(
    factorization: DeepBayes, x: Tensor, noise: Tensor, y: Tensor, subset: Tensor, gradient: str = "path"
) -> Tensor:
    """The log weights of T particles, [T] nats, which `subset` [K, B, C] chooses; the others' z are drawn too."""
    particle, image, class_ = subset.nonzero(as_tuple=True)
    guide_trace = trace_guide(factorization, seen_by_guide(x, gradient), noise, y)
    values = {name: value[particle, class_, image] for name, value in drawn(guide_trace).items()}  # [T, latent]
    model = poutine.condition(factorization.model, values)
    model_trace = poutine.trace(model).get_trace(x[image], y.expand(-1, len(x))[class_, image])
    return log_prob(model_trace) - log_prob(guide_trace)[particle, class_, image]


def mixture_subset(
    factorization: DeepBayes, x: Tensor, noise: Tensor, subset: Tensor, gradient: str = "path"
) -> Tensor:
    """The log weights of T particles for every class, [T, C] nats, which `subset` [K C, B] chooses."""
    particle, image = subset.nonzero(as_tuple=True)
    y = all_classes(factorization, x)
    values, log_proposal = draw_from_mixture(factorization, seen_by_guide(x, gradient), noise)
    values = {name: value.flatten(0, 1)[particle, 0, image] for name, value in values.items()}  # [T, latent]
    with plates(classes=len(y)):
        model_trace = poutine.trace(poutine.condition(factorization.model, values)).get_trace(x[image], y)
    return (log_prob(model_trace) - log_proposal[particle, image]).T
