"""Log weights as a classifier's options ask for: in parts that fit the memory, with sparse gradients."""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyro
import torch
from torch import Tensor

from pyrobayes.errors import LARGEST_SEED
from pyrobayes.factorizations import DeepBayes
from pyrobayes.inference import importance, subsets
from pyrobayes.inference.importance import ONE_THREAD
from pyrobayes.inference.noise import base_noise, splitmix
from pyrobayes.inference.parts import InParts, bytes_kept
from pyrobayes.inference.sparse_gradient import SparseGradient
from pyrobayes.options import ClassifierOptions
from pyrobayes.randomness import seeded


@dataclass(frozen=True)
class LogWeights:
    """log p(x, z, c) less the log-density of the proposal, for some of the particles.

    Attributes:
        factorization: or the copy of it that computes.
        options: of the classifier.
        term: the sites that are taken alone; None for all.
        gradient: `path`, `fisher` or `both`, see :func:`pyrobayes.inference.importance.seen_by_guide`.
        bytes_needed: see :meth:`measure_memory`; not needed by :meth:`at_once`.
    """

    factorization: DeepBayes
    options: ClassifierOptions
    term: tuple[str, ...] | None = None
    gradient: str = "path"
    bytes_needed: tuple[int, int] = (0, 1)

    @property
    def mixed(self) -> bool:
        """True where the classes share their particles."""
        return self.options.estimator == "mixture"

    def at_once(
        self, x: Tensor, keys: Tensor, y: Tensor, first: int, last: int, subset: Tensor | None = None
    ) -> Tensor:
        """Log weights of particles `first` to `last`, [last - first, C, B] nats, whatever memory that takes.

        Args:
            x, keys: images [B, channels, height, width], and the keys [B] of their noise.
            y: classes [C, B].
            first, last: particles, the last not included.
            subset: the log weights to compute, see :mod:`pyrobayes.inference.subsets`; all where None.
        """
        given = self.factorization, x, self.noise(keys, first, last).to(x.dtype)
        with ONE_THREAD, self._by_calls(keys, first), pyro.validation_enabled(importance.VALIDATE):
            if subset is not None:
                compute = subsets.mixture_subset if self.mixed else partial(subsets.per_class_subset, y=y)
                return compute(*given, subset=subset, gradient=self.gradient)
            compute = importance.mixture if self.mixed else partial(importance.per_class, y=y)
            return compute(*given, term=self.term, gradient=self.gradient)

    def _by_calls(self, keys: Tensor, first: int) -> contextlib.AbstractContextManager:
        """A random state for latent variables that Pyro draws."""
        if not self.factorization.draws_by_calls:
            return contextlib.nullcontext()
        return seeded(int(splitmix(keys.sum(), first)) & LARGEST_SEED, keys.device)

    def noise(self, keys: Tensor, first: int, last: int) -> Tensor:
        """Base noise [last - first, 1 or C, B, latent] for the keys [B] of images; B is 1 where the noise is fixed."""
        guides = self.factorization.num_classes if self.mixed and self.options.noise == "fresh" else 1
        keys = keys[:1] if self.options.noise == "fixed" else keys
        return base_noise(keys, first, last, guides, self.factorization.latent)

    def __call__(self, x: Tensor, keys: Tensor, y: Tensor, first: int, last: int) -> Tensor:
        """As :meth:`at_once`, in parts that fit the memory."""
        particles, images = self.sizes(len(y), last - first)
        y, sparse = y.expand(-1, len(x)), torch.is_grad_enabled() and self.sparse
        if particles == last - first and images >= len(x) and not sparse:
            return self.at_once(x, keys, y, first, last)
        each = self.factorization.num_classes if self.mixed else 1  # log weights a particle

        def part(image: int, start: int) -> tuple[slice, slice, Callable]:
            batch, end = slice(image, image + images), min(start + particles, last)

            def compute(x: Tensor, subset: Tensor | None = None) -> Tensor:
                return self.at_once(x, keys[batch], y[:, batch], start, end, subset)

            return batch, slice((start - first) * each, (end - first) * each), compute

        parts = [[part(image, start) for start in range(first, last, particles)] for image in range(0, len(x), images)]
        if sparse:
            apply = partial(SparseGradient.apply, self.options.negligible, self.mixed)
            batches = zip(x.split(images), parts)
            return torch.cat([torch.cat([apply(compute, x) for *_, compute in row]) for x, row in batches], dim=2)
        shape = ((last - first) * each, *y.shape)
        return InParts.apply([*itertools.chain(*parts)], shape, x, *self.factorization.parameters())

    @property
    def sparse(self) -> bool:
        """True where the gradient in the images may leave particles out: p(x|...) takes the time, and nothing else has a gradient."""
        asked = self.options.negligible > 0 and self.term is None and not self.options.compile
        structure = self.factorization.structure
        possible = structure.models_images and structure.generative and not self.factorization.in_rows
        return asked and possible and not any(weight.requires_grad for weight in self.factorization.parameters())

    def sizes(self, classes: int, particles: int) -> tuple[int, int]:
        """How many particles, and then how many images, fit into the memory; at least one of each."""
        available, (image, each) = self.options.memory * 2**20, self.bytes_needed
        particles = min(particles, max(1, (available - image) // (classes * each)))
        return particles, max(1, available // (image + classes * particles * each))

    def measure_memory(self) -> tuple[int, int]:
        """Bytes that the gradient needs for an image, and besides for every particle of a class of it."""
        classes = self.factorization.num_classes
        with torch.inference_mode(False):
            x = torch.zeros(1, *self.factorization.image_shape, **self.factorization.placement, requires_grad=True)
            key, y = torch.zeros(1, dtype=torch.long, device=x.device), importance.all_classes(self.factorization, x)
            one, two = (bytes_kept(partial(self.at_once, x, key, y, 0, k), self.factorization) for k in (1, 2))
        each = max(1, (two - one) // classes)
        return max(0, one - each * classes), each
