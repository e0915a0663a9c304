"""Importance sampling of log p(x, y) with the guide as the proposal.

The guide is traced and the model replayed against it once for all particles, classes and images, each a
plate: particles at dimension -3, classes at -2, images at -1. The sums of the sites' log-probabilities are
the log importance weights [K, C, B] of Li et al. (2019), section 2.2.
"""

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyrobayes.errors import InputError
from pyrobayes.factorizations import DeepBayes, Structure, get, names
from pyrobayes.inference.noise import BaseNoise

# True lets Pyro check shapes, supports and plates in every trace. It costs time; the tests turn it on.
VALIDATE = False
# Pyro keeps the plates and handlers of all threads in one place: they take turns.
ONE_THREAD = threading.RLock()


@dataclass(frozen=True)
class ImportanceEstimate:
    """The importance-sampled joint density of a batch of images with every class.

    Attributes:
        log_weights: [N, C, B] nats, log p(x, z, c) less the log-density of the proposal of z. N particles serve a class:
            K, or C K where the classes share them. Minus infinity marks a particle that was not drawn.
        drawn: [C, B] how many were drawn; N where None.
    """

    log_weights: Tensor
    drawn: Tensor | None = None

    @cached_property
    def log_joint(self) -> Tensor:
        """log p(x, c), [B, C] nats: the logsumexp of the log weights over the particles, minus log N."""
        log_drawn = math.log(len(self.log_weights)) if self.drawn is None else self.drawn.log()
        return (self.log_weights.logsumexp(0) - log_drawn).T

    @cached_property
    def effective_sample_size(self) -> Tensor:
        """[B, C] from 1 to N: (sum of weights)^2 / (sum of squared weights), Kong (1992)."""
        return (2 * self.log_weights.logsumexp(0) - (2 * self.log_weights).logsumexp(0)).exp().T

    @cached_property
    def pareto_k(self) -> Tensor:
        """[B, C] the shape of the weights' upper tail, see :func:`pareto_shape`; NaN where not all were drawn."""
        shape = pareto_shape(self.log_weights)
        return shape.where(self.log_weights.isfinite().all(0), torch.nan).T


def pareto_shape(log_weights: Tensor) -> Tensor:
    """Pareto k, the shape of a generalized Pareto distribution fitted to the largest of N weights [N, ...], [...].

    About 1 / k moments of the weights are finite. Above min(1 - 1 / log10 N, 0.7), trust neither the estimate nor its
    effective sample size (Vehtari et al. 2024; the size of the tail and the prior on k are theirs). The fit is that of
    Zhang and Stephens (2009): b = -k / scale is its posterior mean on a grid, in float64. The prior pulls k towards 0.5
    with the weight of ten observations.

    Fewer than 21 weights have too short a tail: NaN. A tail of equal weights: minus infinity.
    """
    tail = math.ceil(min(len(log_weights) / 5, 3 * math.sqrt(len(log_weights))))
    if tail < 5:
        return torch.full_like(log_weights[0], torch.nan)
    largest = log_weights.double().topk(tail + 1, dim=0).values
    weights = (largest - largest[0]).exp()  # descending, [tail + 1, ...]
    least = torch.finfo(weights.dtype).tiny
    excess = (weights[:-1] - weights[-1]).clamp_min(least)
    grid = torch.arange(1, 31 + math.isqrt(tail), device=excess.device, dtype=excess.dtype) - 0.5
    grid = (1 - (len(grid) / grid).sqrt()).reshape(-1, *[1] * (excess.dim() - 1))
    b = 1 / excess[0] + grid / (3 * excess[-math.floor(tail / 4 + 0.5)])  # [grid, ...]
    k = torch.log1p(-b[:, None] * excess).mean(1)
    likelihood = tail * ((-b / k).log() - k - 1)
    b = (b * likelihood.softmax(0)).sum(0)
    k = (tail * torch.log1p(-b * excess).mean(0) + 10 * 0.5) / (tail + 10)
    return k.where(excess[0] > least, -torch.inf).to(log_weights.dtype)


def seen_by_guide(x: Tensor, gradient: str) -> Tensor:
    """The images x as the guide sees them, which decides what the gradient of log p(x, y) in x is.

    `path` is the gradient of the estimate itself, through the guide and its samples too. `fisher` holds the guide and z
    fixed. With the normalized weights w it is the sum of w grad log p(x, z, y), which estimates Fisher's identity (Cappe,
    Moulines and Ryden 2005, section 10.1):

        grad log p(x, y) = E over p(z|x, y) of [grad log p(x, z, y)]

    `both` is the mean of the two as they are: one backward pass gives it, and it is a gradient of log p(x, y) too.
    """
    if gradient == "path":
        return x
    held = x.detach()
    return held if gradient == "fisher" else held + 0.5 * (x - held)


def per_class(
    factorization: DeepBayes,
    x: Tensor,
    noise: Tensor,
    y: Tensor | None = None,
    term: tuple[str, ...] | None = None,
    gradient: str = "path",
) -> Tensor:
    """log p(x, z, y) - log q(z|x, y) at z ~ q(z|x, y), [K, C, B] nats, differentiable in x.

    Args:
        x: images [B, channels, height, width] in [0, 1].
        noise: base noise of z, standard normal, [K, C or 1, B or 1, latent]: z = loc + scale * noise. Several latent
            variables share the numbers out, in the order that the guide draws them.
        y: classes [C, 1] or [C, B], one a row or one for every row and image; every class where left out.
        term: the sites whose log-probabilities are summed; all where None.
        gradient: `path`, `fisher` or `both`, see :func:`seen_by_guide`.
    """
    y = all_classes(factorization, x) if y is None else y
    if factorization.in_rows:
        return per_row(factorization, x, noise, y, term, gradient)
    guide_trace = trace_guide(factorization, seen_by_guide(x, gradient), noise, y)
    with plates(particles=len(noise), classes=len(y)):
        model_trace = poutine.trace(poutine.replay(factorization.model, trace=guide_trace)).get_trace(x, y)
    return log_prob(model_trace, term) - log_prob(guide_trace, term)


def per_row(
    factorization: DeepBayes, x: Tensor, noise: Tensor, y: Tensor, term: tuple[str, ...] | None, gradient: str
) -> Tensor:
    """The log weights of :func:`per_class` without plates: a batch has a row for each particle, class and image."""
    shape = len(noise), len(y), len(x)
    rows, y = x.expand(*shape[:2], *x.shape).flatten(0, 2), y.expand(shape).flatten()
    noise = noise.expand(*shape, noise.shape[-1]).flatten(0, 2)
    with BaseNoise(noise, factorization.draws_by_calls):
        guide_trace = poutine.trace(factorization.guide).get_trace(seen_by_guide(rows, gradient), y)
    model_trace = poutine.trace(poutine.replay(factorization.model, trace=guide_trace)).get_trace(rows, y)
    return (log_prob(model_trace, term) - log_prob(guide_trace, term)).expand(len(rows)).unflatten(0, shape)


def trace_guide(factorization: DeepBayes, x: Tensor, noise: Tensor, y: Tensor) -> poutine.Trace:
    """The guide's trace with K particles for every class, [K, C, B]; for the arguments see :func:`per_class`."""
    with BaseNoise(noise), plates(particles=len(noise), classes=len(y)):
        return poutine.trace(factorization.guide).get_trace(x, y)


def mixture(
    factorization: DeepBayes, x: Tensor, noise: Tensor, term: tuple[str, ...] | None = None, gradient: str = "path"
) -> Tensor:
    """log p(x, z, c) - log (1/C) sum over c' of q(z|x, c') at z from the guides of all classes, [K C, C, B] nats.

    A particle drawn for one class serves every class: the guides are one mixture proposal, weighted by the
    balance heuristic of multiple importance sampling (Veach and Guibas 1995, section 3.2). Where p(x|...) doesn't depend
    on y, it takes no more decodings than :func:`per_class`, whose arguments it has; guides are the second dimension of
    noise.
    """
    latent = set(factorization.structure.latent)
    if term and latent & set(term) and not latent <= set(term):
        raise InputError(
            f"the mixture proposes all latent variables at once, not {', '.join(term)} alone: take the term z, or the "
            "estimator per-class"
        )
    y = all_classes(factorization, x)
    values, log_proposal = draw_from_mixture(factorization, seen_by_guide(x, gradient), noise)
    with plates(particles=len(noise), guides=len(y), classes=len(y)):
        model_trace = poutine.trace(poutine.condition(factorization.model, values)).get_trace(x, y)
    log_weights = log_prob(model_trace, term).flatten(0, 1)
    return log_weights - log_proposal[:, None] if term is None or latent <= set(term) else log_weights


def draw_from_mixture(factorization: DeepBayes, x: Tensor, noise: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Latent values [K, C, 1, B, ...] by site, K from every class's guide, and their log-density under the mixture, [K C, B]."""
    y = all_classes(factorization, x)
    with BaseNoise(noise[:, :, None]), plates(particles=len(noise), guides=len(y), classes=1):
        values = drawn(poutine.trace(factorization.guide).get_trace(x, y[:, None]))
    with plates(particles=len(noise), guides=len(y), classes=len(y)):
        guide_trace = poutine.trace(poutine.condition(factorization.guide, values)).get_trace(x, y)
    return values, (log_prob(guide_trace).logsumexp(-2) - math.log(len(y))).flatten(0, 1)


def latent_means(factorization: DeepBayes, x: Tensor) -> Tensor:
    """The means of q(z|x, y) for every class, [B, C, latent]; a latent variable that depends on another takes its mean."""
    check_plates(factorization, "the mean of q(z|x, y)")
    y = all_classes(factorization, x)
    with BaseNoise(torch.zeros(factorization.latent, device=x.device)), plates(classes=len(y)):
        values = drawn(poutine.trace(factorization.guide).get_trace(x, y)).values()
    return torch.cat([value.reshape(*value.shape[:2], -1) for value in values], dim=-1).transpose(0, 1)


@contextlib.contextmanager
def plates(**sizes: int) -> Iterator[None]:
    """Plates around that of the images, which is at dimension -1: the last at -2, the one before it at -3, and so on."""
    with contextlib.ExitStack() as stack:
        for dim, (name, size) in zip(range(-len(sizes) - 1, -1), sizes.items()):
            stack.enter_context(pyro.plate(name, size, dim=dim))
        yield


def check_shared_images(factorization: DeepBayes) -> None:
    """Refuse a model without a guide to mix, or with a p(x|...) that depends on y: C times the decodings."""
    check_plates(factorization, "the mixture estimator")
    if not factorization.structure.latent:
        raise InputError(f"the mixture estimator mixes the guides of z, and {factorization.name} has no z")
    if "y" in factorization.structure.parents["x"]:
        able = [name for name in names() if "y" not in Structure.of_formula(get(name).formula()).parents["x"]]
        raise InputError(
            f"the mixture estimator needs a p(x|...) that doesn't depend on y, but {factorization.name} is "
            f"{factorization.formula()}; take the estimator per-class, or only models such as {', '.join(able)}"
        )


def check_plates(factorization: DeepBayes, what: str) -> None:
    """Refuse a factorization whose code doesn't run under plates."""
    if factorization.in_rows:
        raise InputError(
            f"{what} needs plates of particles and classes, and the code of {factorization.name} doesn't broadcast over them"
        )


def all_classes(factorization: DeepBayes, x: Tensor) -> Tensor:
    """Every class a row, [C, 1], on the device of x."""
    return torch.arange(factorization.num_classes, device=x.device)[:, None]


def drawn(trace: poutine.Trace) -> dict[str, Tensor]:
    """The values that the sites of a trace have drawn, by name."""
    trace = prune_subsample_sites(trace)
    return {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}


def log_prob(trace: poutine.Trace, term: tuple[str, ...] | None = None) -> Tensor:
    """The log-probability of a trace under plates, [K, C, B] nats: the sum over its sites, or those of a `term`; else 0."""
    trace = prune_subsample_sites(trace)
    trace.compute_log_prob(lambda name, site: term is None or name in term)
    sites = [site["log_prob"] for site in trace.nodes.values() if "log_prob" in site]
    return sum(sites) if sites else torch.zeros(())
