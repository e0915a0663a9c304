"""A factorization whose log p(x, y) is known: linear, Gaussian, registered like any other."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyrobayes import Networks
from pyrobayes.factorizations import DeepBayes, register
from pyrobayes.factorizations.conditionals import Conditionals

VARIANCE = 0.1


class LatentOfClass(nn.Module):
    """p(z|y) = Normal(mean of y, I)."""

    def __init__(self, num_classes, latent):
        super().__init__()
        self.means = nn.Parameter(torch.randn(num_classes, latent))

    def forward(self, y):
        return dist.Normal(self.means[y], 1.0).to_event(1)


class LinearImages(nn.Module):
    """p(x|z) = Normal(A z + b, VARIANCE I), the columns of A orthonormal."""

    def __init__(self, image_shape, latent):
        super().__init__()
        self.image_shape = image_shape
        self.a = nn.Parameter(torch.linalg.qr(torch.randn(math.prod(image_shape), latent)).Q)
        self.b = nn.Parameter(0.5 + 0.1 * torch.randn(math.prod(image_shape)))

    def forward(self, z):
        return dist.Normal((z @ self.a.T + self.b).unflatten(-1, self.image_shape), math.sqrt(VARIANCE)).to_event(3)


class LinearGuide(nn.Module):
    """q(z|x, y): the exact posterior, but `wider` times as wide."""

    def __init__(self, p_z, p_x, wider):
        super().__init__()
        self.p_z, self.p_x, self.wider = p_z, p_x, wider

    def forward(self, x, y):
        variance = 1 / (1 + 1 / VARIANCE)
        loc = variance * (self.p_z.means[y] + (x.flatten(-3) - self.p_x.b) @ self.p_x.a / VARIANCE)
        return dist.Normal(loc, self.wider * math.sqrt(variance)).to_event(1)


@register("linear-gaussian")
class LinearGaussian(DeepBayes):
    """p(x, z, y) = p_D(y) p(z|y) p(x|z)"""

    def __init__(self, conditionals, wider=1.3):
        super().__init__(conditionals)
        self.p_y = conditionals.data_y()
        self.p_z = LatentOfClass(conditionals.num_classes, conditionals.networks.latent)
        self.p_x = LinearImages(conditionals.image_shape, conditionals.networks.latent)
        self.q_z = LinearGuide(self.p_z, self.p_x, wider)

    def model(self, x=None, y=None):
        with self.images(x, y):
            y = pyro.sample("y", self.p_y(), obs=y)
            z = pyro.sample("z", self.p_z(y))
            x = pyro.sample("x", self.p_x(z), obs=x)
        return x, y

    def exact_log_joint(self, x):
        """log p(x, c), [B, C]: p(x|c) = Normal(A m_c + b, A A' + VARIANCE I)."""
        a, b = self.p_x.a, self.p_x.b
        covariance = a @ a.T + VARIANCE * torch.eye(len(b), dtype=a.dtype)
        columns = [
            torch.distributions.MultivariateNormal(a @ mean + b, covariance).log_prob(x.flatten(1))
            + self.p_y.frequencies[c].log()
            for c, mean in enumerate(self.p_z.means)
        ]
        return torch.stack(columns, dim=1)


def linear_gaussian(wider):
    torch.manual_seed(0)
    conditionals = Conditionals(Networks(latent=5, hidden=4, channels=2), (1, 7, 7), 10)
    factorization = LinearGaussian(conditionals, wider=wider).double()
    factorization.p_x.a.data = torch.linalg.qr(factorization.p_x.a.data).Q  # orthonormal in float64 too
    return factorization
