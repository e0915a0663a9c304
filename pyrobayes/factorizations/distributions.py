"""Distributions that are cheap under plates: they compute once whatever all particles or classes share."""

import copy
import math
from collections.abc import Callable
from functools import cache

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn import functional as F

from pyrobayes.errors import InputError


class DataDistribution(dist.ImproperUniform):
    """An improper uniform that says why it can't be sampled."""

    def expand(self, batch_shape, _instance=None):
        return DataDistribution(self.support, torch.Size(batch_shape), self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return value.new_zeros(()).expand(super().log_prob(value).shape)

    def sample(self, sample_shape=torch.Size()):
        raise InputError("p_D(x) can't be sampled: this model takes its images from the data; give it x")


class DiagonalNormal(dist.Independent):
    """Normal(loc, diag(exp(log_scale)^2)), of loc and log_scale [..., latent], with four passes instead of eight."""

    def __init__(self, loc: Tensor, log_scale: Tensor):
        self.loc, self.log_scale = loc, log_scale
        super().__init__(dist.Normal(loc, log_scale.exp()), 1, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, copy.copy(self))

    def log_prob(self, value: Tensor) -> Tensor:
        squares = ((value - self.loc) * (-self.log_scale).exp()).square().sum(-1)
        log_prob = -0.5 * (squares + self.event_shape[0] * math.log(2 * math.pi)) - self.log_scale.sum(-1)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))


def is_normal(distribution: dist.Distribution) -> bool:
    """True for independent normal numbers."""
    return isinstance(_base(distribution), dist.Normal)


def _base(distribution: dist.Distribution) -> dist.Distribution:
    while isinstance(distribution, dist.Independent):
        distribution = distribution.base_dist
    return distribution


def as_normal(site: str, distribution: dist.Distribution) -> dist.Normal:
    """The normal distribution of a latent site, event dimensions taken off; :class:`InputError` if it isn't normal."""
    distribution = _base(distribution)
    if not isinstance(distribution, dist.Normal):
        raise InputError(
            f"the guide's site '{site}' must be normal, got {type(distribution).__name__}: classification draws it "
            "as loc + scale * noise"
        )
    return distribution


class Image(dist.TorchDistribution):
    """An image whose pixels are independent, each with a distribution of its own, as one event.

    The log-density is computed before it is expanded over plates, so that classes share one computation.

    Args:
        pixel: gives the distributions of the pixels, [..., channels, height, width]. It is called when they are first
            needed, so that the density of another site alone decodes nothing.
        variance: of every pixel where all are normal; the log-density then takes three passes over them instead of seven.
    """

    arg_constraints = {}

    def __init__(self, pixel: Callable[[], dist.Distribution], batch_shape, event_shape, variance: float | None = None):
        self._pixel, self._variance = cache(pixel), variance
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    @property
    def pixel(self) -> dist.Distribution:
        """The distributions of the pixels."""
        return self._pixel()

    def expand(self, batch_shape, _instance=None):
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        return new

    @property
    def support(self):
        return constraints.independent(self.pixel.support, 3)

    @property
    def mean(self) -> Tensor:
        return self.pixel.mean.expand(self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._variance is None:
            log_prob = self.pixel.log_prob(value).sum((-3, -2, -1))
        else:
            squares = (value - self.pixel.loc).square().sum((-3, -2, -1))
            constant = self.event_shape.numel() * math.log(2 * math.pi * self._variance)
            log_prob = -0.5 * (squares / self._variance + constant)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def sample(self, sample_shape=torch.Size()):
        return self.pixel.expand(self.batch_shape + self.event_shape).sample(sample_shape)


def pixels(likelihood: str, logits: Tensor, variance: float | Tensor) -> dist.Distribution:
    """Independent pixels around sigmoid(logits); `likelihood` is one of :data:`pyrobayes.options.LIKELIHOODS`.

    The mean is sigmoid(logits) and the variance `variance`, but for the Bernoulli, whose variance follows from its mean.
    The discretized logistic has them before the mass beyond 0 and 1 goes to the first and the last grey value.
    """
    if likelihood == "bernoulli":
        # Read at intensities too, where it is not normalized (Loaiza-Ganem and Cunningham 2019).
        return dist.Bernoulli(logits=logits, validate_args=False)
    learned = isinstance(variance, Tensor)
    root = torch.sqrt if learned else math.sqrt
    distribution, scale = {
        "gaussian": (dist.Normal, root(variance)),
        "laplace": (dist.Laplace, root(variance / 2)),
        "discretized-logistic": (DiscretizedLogistic, root(3 * variance) / math.pi),
    }[likelihood]
    # A number is put on the device there, since a copy from the host would wait for it.
    return distribution(torch.sigmoid(logits), scale if learned else logits.new_full((), scale))


class DiscretizedLogistic(dist.TorchDistribution):
    """Probability of one of 256 equally spaced grey values in [0, 1] under a logistic distribution.

    Kingma et al. (2016), section 5.1: the mass of the logistic in the bin of width 1/255 around the value;
    the first and the last bin reach to infinity. `loc` [...] and `scale` [...] are the logistic's.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval
    levels = 256

    def __init__(self, loc: Tensor, scale: Tensor, validate_args=None):
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return DiscretizedLogistic(self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        half = 0.5 / (self.levels - 1)
        upper, lower = (value + half - self.loc) / self.scale, (value - half - self.loc) / self.scale
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), where a - b = 2 half / scale.
        below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
        inside = below + above + torch.log(-torch.expm1(-2 * half / self.scale))
        return torch.where(value < half, below, torch.where(value > 1 - half, above, inside))

    def rsample(self, sample_shape=torch.Size()):
        shape = self._extended_shape(sample_shape)
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(1e-7, 1 - 1e-7)
        continuous = self.loc + self.scale * torch.logit(uniform)
        return (continuous.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)

    sample = rsample
