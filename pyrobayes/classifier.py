"""The Bayes classifier of a factorization: images in, log p(x, y) out."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from pyrobayes import importance
from pyrobayes.factorizations import DeepBayes
from pyrobayes.importance import ImportanceEstimate
from pyrobayes.options import LARGEST_SEED, NOISES, InputError, choice, whole

# Base noise comes from counters (Philox, Salmon et al. 2011): any draw of any image can be had on its own.
FIXED, PER_CALL, PER_IMAGE = range(3)


class BayesClassifier(nn.Module):
    """Classify by Bayes' rule with importance-sampled joint densities.

    `classifier(x)` gives log p(x, y), [B, C] nats, differentiable in x; its softmax over C is the posterior
    p(y|x). The estimate is random, and `noise` says how:

    * `fixed`: one table of base noise [K, latent] from the seed, shared by all images and classes, makes
      the classifier a deterministic function of the image;
    * `fresh`: new noise at every call. :meth:`for_images` gives each image of a data set noise of its own,
      which does not depend on the batch it comes in.

    Like Pyro itself, it serves one thread at a time.

    Args:
        factorization: see :func:`pyrobayes.build`.
        particles: K, the number of z drawn for each image and class; memory grows with it.
        noise: `fresh` or `fixed`.
        seed: of the noise; the global random state is neither read nor changed.
    """

    def __init__(self, factorization: DeepBayes, particles: int = 10, noise: str = "fresh", seed: int = 0):
        super().__init__()
        if not isinstance(factorization, DeepBayes):
            raise InputError(f"factorization must be a DeepBayes, such as pyrobayes.build makes, got {factorization!r}")
        whole("particles", particles, least=1)
        whole("seed", seed, least=0, most=LARGEST_SEED)
        self.factorization = factorization
        self.particles = particles
        self.noise = choice("noise", noise, NOISES)
        self.seed = seed
        self._calls = 0
        self._indices: np.ndarray | None = None
        self._draw = 0

    def forward(self, x: Tensor) -> Tensor:
        """log p(x, y) of images [B, channels, height, width] in [0, 1] with every class, [B, C] nats."""
        return self.estimate(x).log_joint

    def estimate(self, x: Tensor) -> ImportanceEstimate:
        """The estimate behind :meth:`forward`: log weights [K, C, B], and effective sample sizes [B, C]."""
        check_images(x, self.factorization.image_shape)
        x = x.to(next(self.factorization.parameters()).dtype)
        return importance.estimate(self.factorization, x, self._base_noise(len(x)).to(x))

    def for_images(self, indices, draw: int = 0) -> "BayesClassifier":
        """The same classifier for a batch of known images.

        Under fresh noise, an image's noise then follows from (seed, its index, draw) alone: every call gives
        the same numbers, whatever else is in the batch. Under fixed noise nothing changes.

        Args:
            indices: [B] the images' places in their data set.
            draw: tells independent draws of the noise of one image apart.
        """
        whole("draw", draw, least=0)
        if min(indices, default=0) < 0:
            raise InputError(f"indices must be places in a data set, from 0, got {min(indices)}")
        pinned = copy.copy(self)
        pinned._indices, pinned._draw = np.asarray(indices, dtype=np.uint64), draw
        return pinned

    def _base_noise(self, images: int) -> Tensor:
        """[K, C, B, latent], or [K, 1, 1, latent] where the noise is fixed; float32 on the CPU."""
        latent = self.factorization.networks.latent
        if self.noise == "fixed":
            return self._normals(FIXED, 0, 0, (self.particles, 1, 1, latent))
        indices, stream, draw = self._indices, PER_IMAGE, self._draw
        if indices is None:
            indices, stream, draw = np.arange(images), PER_CALL, self._calls
            self._calls += 1
        if len(indices) != images:
            raise InputError(f"the classifier was made for {len(indices)} images, got {images}")
        shape = (self.particles, self.factorization.num_classes, latent)
        return torch.stack([self._normals(stream, draw, index, shape) for index in indices], dim=2)

    def _normals(self, stream: int, draw: int, index: int, shape: tuple[int, ...]) -> Tensor:
        key, counter = np.array([self.seed, stream], np.uint64), np.array([0, 0, draw, index], np.uint64)
        bits = np.random.Philox(key=key, counter=counter)
        return torch.from_numpy(np.random.Generator(bits).standard_normal(shape, dtype=np.float32))

    def extra_repr(self) -> str:
        return f"particles={self.particles}, noise={self.noise}, seed={self.seed}"


def check_images(x: Tensor, image_shape: tuple[int, int, int]) -> None:
    """Refuse what is not a batch of images [B, *image_shape] of finite floats in [0, 1]."""
    expected = f"expected floats in [0, 1] of shape [B, {', '.join(map(str, image_shape))}]"
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputError(f"images: {expected}, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}")
    if x.dim() != 4 or tuple(x.shape[1:]) != tuple(image_shape):
        raise InputError(f"images: {expected}, got shape {list(x.shape)}")
    if x.numel() == 0:
        raise InputError(f"images: {expected}, got no image")
    low, high = x.detach().aminmax()
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # false for NaN
        raise InputError(f"images: {expected}, got values from {low.item():g} to {high.item():g}")
