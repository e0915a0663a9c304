"""The conditional distributions that a factorization is made of.

Each is a module whose call takes the values of its parents and returns a Pyro distribution: images
[..., channels, height, width] in [0, 1], integer classes [...], latent vectors [..., latent]. Leading dimensions broadcast
against each other. Features of x are therefore computed once per image, for all classes and particles.
"""

import copy
import math
from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn import functional as F

from pyrobayes.factorizations.distributions import DataDistribution, DiagonalNormal, Image, pixels
from pyrobayes.factorizations.networks import (
    Decoder,
    Dropped,
    ImageFeatures,
    Latent,
    OneHot,
    Perceptron,
    start_as_original,
    to_float32,
)
from pyrobayes.factorizations.own_networks import OwnNetwork
from pyrobayes.options import Networks

HIDDEN_LAYERS_OF_ORIGINAL = {"gfz": 1}  # of p(y|...), by model, where the authors' program has other than two
ROUNDING = 1 / (12 * 255**2)  # variance of the error of rounding to 256 grey values


class Conditionals:
    """Makes the conditionals of one model, all of the same sizes.

    `z("y")` makes p(z|y), `y("z", "x")` makes p(y|z, x), and so on. Call them with the parents' values in that order. Any
    name but x and y stands for a latent vector. `data_x()` and `data_y()` make p_D(x) and p_D(y). A user's `encoder` or
    `decoder`, see :class:`~pyrobayes.factorizations.own_networks.OwnNetwork`, is copied into each that needs it.
    """

    def __init__(
        self,
        networks: Networks,
        image_shape: tuple[int, int, int],
        num_classes: int,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        model: str = "",
    ):
        self.networks, self.image_shape, self.num_classes, self.model = networks, image_shape, num_classes, model
        self._own_encoder = None if encoder is None else OwnNetwork("encoder", encoder, image_shape)
        own = None if decoder is None else OwnNetwork("decoder", decoder, (networks.hidden,), image_shape)
        self._own_decoder = own

    def _encoder(self, name: str) -> nn.Module:
        if name == "x" and self._own_encoder:
            return copy.deepcopy(self._own_encoder)
        if name == "x":
            return self._started(ImageFeatures(self.image_shape, self.networks.convolutions, self.networks.hidden))
        return OneHot(self.num_classes) if name == "y" else Latent(self.networks.latent)

    def _perceptron(self, given: tuple[str, ...], hidden_layers: int, out: int) -> Perceptron:
        made = Perceptron([self._encoder(name) for name in given], [self.networks.hidden] * hidden_layers, out)
        self._started(made.layers)
        return made

    def _started(self, network: nn.Module) -> nn.Module:
        """A network of the package, initialised as in the original if that is asked for."""
        if self.networks.original:
            start_as_original(network)
        return network

    def z(self, *given: str, hidden_layers: int = 1) -> nn.Module:
        """p(z), a standard normal, or p(z|given), a normal with diagonal covariance."""
        if not given:
            return StandardNormal(self.networks.latent)
        network = self._perceptron(given, hidden_layers, 2 * self.networks.latent)
        if not {"x", "y"} >= set(given):  # Scales multiply along a chain of latent variables: start them near 1.
            network.layers[-1].weight.data.mul_(0.1)
        return Given(network, normal)

    def y(self, *given: str, hidden_layers: int = 2) -> nn.Module:
        """p(y|given), a categorical distribution over the classes."""
        if self.networks.original:
            hidden_layers = HIDDEN_LAYERS_OF_ORIGINAL.get(self.model, hidden_layers)
        return Given(self._perceptron(given, hidden_layers, self.num_classes), categorical)

    def dropout(self) -> nn.Module:
        """p(z), a standard normal with one number for each hidden unit; the sign says which units are dropped."""
        return StandardNormal(self.networks.hidden)

    def y_under_dropout(self, *given: str) -> nn.Module:
        """p(y|z, given), a categorical distribution by a network whose hidden units z drops."""
        return Given(Dropped(self._perceptron(given, 0, self.num_classes)), categorical)

    def x(self, *given: str) -> nn.Module:
        """p(x|given), independent pixels around the mean that a decoder gives."""
        net = self.networks
        own = copy.deepcopy(self._own_decoder)
        decoder = own or self._started(Decoder(self.image_shape, net.convolutions, net.hidden))
        hidden = self._perceptron(given, 0, net.hidden)
        return ImagesGiven(hidden, decoder, net.likelihood, net.variance, net.learned_variance)

    def data_x(self) -> nn.Module:
        """p_D(x), the distribution that the images come from, as a constant."""
        return DataImages(self.image_shape)

    def data_y(self) -> nn.Module:
        """p_D(y), the class frequencies of the training images."""
        return DataClasses(self.num_classes)


class StandardNormal(nn.Module):
    """p(z) = Normal(0, I)."""

    def __init__(self, latent: int):
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent), persistent=False)

    def forward(self) -> dist.Distribution:
        return DiagonalNormal(self.loc, self.loc)


class Given(nn.Module):
    """p(z|...) or p(y|...): the `distribution` whose parameters a network gives; also the guide q(z|x, y)."""

    def __init__(self, network: nn.Module, distribution: Callable[[Tensor], dist.Distribution]):
        super().__init__()
        self.network, self.distribution = network, distribution

    def forward(self, *given: Tensor) -> dist.Distribution:
        return self.distribution(to_float32(self.network(*given)))


def normal(parameters: Tensor) -> dist.Distribution:
    """Normal(loc, diag(scale^2)) of loc and log scale, [..., 2 latent]."""
    return DiagonalNormal(*parameters.chunk(2, dim=-1))


def categorical(logits: Tensor) -> dist.Distribution:
    """The distribution over classes of logits [..., C]."""
    return dist.Categorical(logits=logits)


class ImagesGiven(nn.Module):
    """p(x|...), independent pixels around mean = sigmoid(decoder(hidden)), with a fixed variance or a learned one.

    `gaussian` with variance 1/2 is the squared error of the original: log p = -(x - mean)^2 - log(pi)/2. A learned variance is
    `one` for all pixels or one for `each`. It stays above that of rounding: pixels that never change would have none.
    """

    def __init__(
        self, network: nn.Module, decoder: nn.Module, likelihood: str, variance: float, learned: str | None = None
    ):
        super().__init__()
        self.network, self.decoder = network, decoder
        self.likelihood, self._fixed = likelihood, variance
        shape = decoder.image_shape if learned == "each" else ()
        start = torch.full(shape, math.log(max(variance - ROUNDING, ROUNDING / 100)))
        self.log_variance = nn.Parameter(start) if learned else None

    @property
    def variance(self) -> float | Tensor:
        """The variance of the pixels: a number, or a tensor [] or [channels, height, width] that is learned."""
        return self._fixed if self.log_variance is None else ROUNDING + self.log_variance.exp()

    def forward(self, *given: Tensor) -> dist.Distribution:
        hidden = F.relu(self.network(*given), inplace=True)

        def pixel() -> dist.Distribution:
            return pixels(self.likelihood, to_float32(self.decoder(hidden)), self.variance)

        variance = self._fixed if self.likelihood == "gaussian" and self.log_variance is None else None
        return Image(pixel, hidden.shape[:-1], self.decoder.image_shape, variance)


class DataImages(nn.Module):
    """p_D(x): zero log-density everywhere, and nothing to draw from."""

    def __init__(self, image_shape: tuple[int, int, int]):
        super().__init__()
        self.image_shape = image_shape

    def forward(self) -> dist.Distribution:
        return DataDistribution(constraints.independent(constraints.real, 3), (), self.image_shape)


class DataClasses(nn.Module):
    """p_D(y): a categorical distribution with the class frequencies of the training images."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.register_buffer("frequencies", torch.full((num_classes,), 1 / num_classes))

    def forward(self) -> dist.Distribution:
        return dist.Categorical(probs=self.frequencies)
