"""The conditional distributions that a factorization is made of.

Each is a module whose call takes the values of its parents and returns a Pyro distribution: images
[..., channels, height, width] in [0, 1], integer classes [...], latent vectors [..., latent]. Leading dimensions broadcast
against each other. Features of x are therefore computed once per image, for all classes and particles.
"""

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn import functional as F

from pyrobayes.factorizations.distributions import DataDistribution, DiagonalNormal, GaussianImage, Image, pixels
from pyrobayes.factorizations.networks import Decoder, Dropped, ImageFeatures, Latent, OneHot, Perceptron, to_float32
from pyrobayes.options import Networks


class Conditionals:
    """Makes the conditionals of one model, all of the same sizes.

    `z("y")` makes p(z|y), `y("z", "x")` makes p(y|z, x), and so on. Call them with the parents' values in that order. Any
    name but x and y stands for a latent vector. `data_x()` and `data_y()` make p_D(x) and p_D(y).
    """

    def __init__(self, networks: Networks, image_shape: tuple[int, int, int], num_classes: int):
        self.networks, self.image_shape, self.num_classes = networks, image_shape, num_classes

    def _perceptron(self, given, hidden_layers: int, out: int) -> "Perceptron":
        net = self.networks
        encoders = {
            "x": lambda: ImageFeatures(self.image_shape, net.channels, net.hidden),
            "y": lambda: OneHot(self.num_classes),
        }
        inputs = [encoders.get(name, lambda: Latent(net.latent))() for name in given]
        return Perceptron(inputs, [net.hidden] * hidden_layers, out)

    def z(self, *given: str, hidden_layers: int = 1) -> nn.Module:
        """p(z), a standard normal, or p(z|given), a normal with diagonal covariance."""
        latent = self.networks.latent
        if not given:
            return StandardNormal(latent)
        network = self._perceptron(given, hidden_layers, 2 * latent)
        if not {"x", "y"} >= set(given):  # Scales multiply along a chain of latent variables: start them near 1.
            network.layers[-1].weight.data.mul_(0.1)
        return NormalGiven(network)

    def y(self, *given: str, hidden_layers: int = 2) -> nn.Module:
        """p(y|given), a categorical distribution over the classes."""
        return CategoricalGiven(self._perceptron(given, hidden_layers, self.num_classes))

    def dropout(self) -> nn.Module:
        """p(z), a standard normal with one number for each hidden unit; the sign says which units are dropped."""
        return StandardNormal(self.networks.hidden)

    def y_under_dropout(self, *given: str) -> nn.Module:
        """p(y|z, given), a categorical distribution by a network whose hidden units z drops."""
        features = self._perceptron(given, 0, self.num_classes)
        return CategoricalGiven(Dropped(features))

    def x(self, *given: str) -> nn.Module:
        """p(x|given), independent pixels around the mean that a decoder gives."""
        net = self.networks
        decoder = Decoder(self.image_shape, net.channels, net.hidden)
        return ImagesGiven(self._perceptron(given, 0, net.hidden), decoder, net.likelihood, net.variance)

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


class NormalGiven(nn.Module):
    """p(z|...) = Normal(loc, diag(scale^2)), loc and scale from one network; also the guide q(z|x, y)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *given: Tensor) -> dist.Distribution:
        loc, log_scale = to_float32(self.network(*given)).chunk(2, dim=-1)
        return DiagonalNormal(loc, log_scale)


class CategoricalGiven(nn.Module):
    """p(y|...), a categorical distribution whose logits a network gives."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *given: Tensor) -> dist.Distribution:
        return dist.Categorical(logits=to_float32(self.network(*given)))


class ImagesGiven(nn.Module):
    """p(x|...), independent pixels around mean = sigmoid(decoder(hidden)), with a fixed variance.

    `gaussian` with variance 1/2 is the squared error of the original: log p = -(x - mean)^2 - log(pi)/2.
    """

    def __init__(self, network: nn.Module, decoder: nn.Module, likelihood: str, variance: float):
        super().__init__()
        self.network, self.decoder = network, decoder
        self.likelihood, self.variance = likelihood, variance

    def forward(self, *given: Tensor) -> dist.Distribution:
        hidden = F.relu(self.network(*given), inplace=True)

        def pixel() -> dist.Distribution:
            return pixels(self.likelihood, to_float32(self.decoder(hidden)), self.variance)

        shapes = hidden.shape[:-1], self.decoder.image_shape
        return GaussianImage(pixel, *shapes, self.variance) if self.likelihood == "gaussian" else Image(pixel, *shapes)

    def extra_repr(self) -> str:
        return f"likelihood={self.likelihood}, variance={self.variance:g}"


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
