"""A factorization with two latent variables of different sizes, registered like any other."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyrobayes.factorizations import DeepBayes, register
from pyrobayes.factorizations.conditionals import StandardNormal

TOP = 2  # numbers in z2


class LinearNormal(nn.Module):
    """Normal(A z + b, diag(scale^2))."""

    def __init__(self, given, size):
        super().__init__()
        self.loc = nn.Linear(given, size)
        self.log_scale = nn.Parameter(torch.zeros(size))

    def forward(self, z):
        return dist.Normal(self.loc(z), self.log_scale.exp()).to_event(1)


@register("hierarchical")
class Hierarchical(DeepBayes):
    """p(x, z1, z2, y) = p(z2) p(z1|z2) p(y|z1) p(x|z1)"""

    guides = {"z1": ("x", "y"), "z2": ("z1",)}  # for tests that write the log weights out

    def __init__(self, conditionals):
        super().__init__(conditionals)
        del self.q_z
        latent = conditionals.networks.latent
        self.q_z1 = conditionals.z("x", "y")
        self.q_z2 = LinearNormal(latent, TOP)
        self.p_z2 = StandardNormal(TOP)
        self.p_z1 = LinearNormal(TOP, latent)
        self.p_y = conditionals.y("z1")
        self.p_x = conditionals.x("z1")

    def model(self, x=None, y=None):
        with self.images(x, y):
            z2 = pyro.sample("z2", self.p_z2())
            z1 = pyro.sample("z1", self.p_z1(z2))
            y = pyro.sample("y", self.p_y(z1), obs=y)
            x = pyro.sample("x", self.p_x(z1), obs=x)
        return x, y

    def guide(self, x, y):
        with self.images(x, y):
            z1 = pyro.sample("z1", self.q_z1(x, y))
            z2 = pyro.sample("z2", self.q_z2(z1))
        return z1, z2
