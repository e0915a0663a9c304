"""Log weights as a classifier's options ask for: in lower precision, in parts that fit the memory, with sparse gradients."""

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from pyrobayes.factorizations import DeepBayes
from pyrobayes.inference import importance
from pyrobayes.inference.generated_code import faster_copy
from pyrobayes.inference.noise import base_noise
from pyrobayes.inference.parts import InParts, Part, bytes_kept
from pyrobayes.inference.sparse_gradient import SparseGradient
from pyrobayes.inference.subsets import mixture_subset, per_class_subset
from pyrobayes.options import ClassifierOptions

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


class Networks:
    """A factorization, and its copies that compute faster, each made anew when the weights have changed."""

    def __init__(self, factorization: DeepBayes):
        self.factorization = factorization
        self._copies: dict = {}

    def of(self, options: ClassifierOptions) -> DeepBayes:
        """The factorization, or its copy for these options."""
        dtype, compiled = PRECISIONS[options.precision], options.compile
        if not (dtype or compiled):
            return self.factorization
        state = [(value.data_ptr(), value._version) for value in self.factorization.state_dict().values()]
        if self._copies.get((dtype, compiled), (None,))[0] != state:
            self._copies[dtype, compiled] = state, faster_copy(self.factorization, dtype, compiled)
        return self._copies[dtype, compiled][1]


@dataclass(frozen=True)
class LogWeights:
    """log p(x, z, c) less the log-density of the proposal, for some of the particles.

    Attributes:
        factorization: or the copy of it that computes.
        options: of the classifier.
        term: the sites that are taken alone; None for all.
        bytes_needed: see :meth:`measure_memory`; not needed by :meth:`at_once`.
    """

    factorization: DeepBayes
    options: ClassifierOptions
    term: tuple[str, ...] | None = None
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
            x: images [B, channels, height, width].
            keys: [B] of their noise.
            y: classes [C, B].
            first, last: particles, the last not included.
            subset: the log weights to compute, see :mod:`pyrobayes.inference.subsets`; all where None.
        """
        noise = self.noise(keys, first, last).to(x.dtype)
        if self.mixed:
            if subset is None:
                return importance.mixture(self.factorization, x, noise, self.term)
            return mixture_subset(self.factorization, x, noise, subset)
        if subset is None:
            return importance.per_class(self.factorization, x, noise, y, self.term)
        return per_class_subset(self.factorization, x, noise, y, subset)

    def noise(self, keys: Tensor, first: int, last: int) -> Tensor:
        """Base noise [last - first, 1 or C, B, latent] for the keys [B] of images; B is 1 where the noise is fixed."""
        guides = self.factorization.num_classes if self.mixed and self.options.noise == "fresh" else 1
        keys = keys[:1] if self.options.noise == "fixed" else keys
        return base_noise(keys, first, last, guides, self.factorization.latent)

    def __call__(self, x: Tensor, keys: Tensor, y: Tensor, first: int, last: int) -> Tensor:
        """As :meth:`at_once`, in parts that fit the memory."""
        particles, images = self.sizes(len(y), last - first)
        y = y.expand(-1, len(x))
        if torch.is_grad_enabled() and self.sparse:
            return self._sparse(x, keys, y, range(first, last), particles, images)
        if particles == last - first and images >= len(x):
            return self.at_once(x, keys, y, first, last)
        each = self.factorization.num_classes if self.mixed else 1  # log weights a particle

        def part(image: int, start: int) -> Part:
            which, end = slice(image, image + images), min(start + particles, last)
            served = slice((start - first) * each, (end - first) * each)
            return Part(which, served, lambda x: self.at_once(x, keys[which], y[:, which], start, end))

        parts = [part(image, start) for image in range(0, len(x), images) for start in range(first, last, particles)]
        shape = ((last - first) * each, *y.shape)
        return InParts.apply(parts, shape, x, *self.factorization.parameters())

    def _sparse(self, x: Tensor, keys: Tensor, y: Tensor, chosen: range, particles: int, images: int) -> Tensor:
        """Log weights with a sparse gradient; autograd keeps nothing of the parts."""

        def part(x: Tensor, keys: Tensor, y: Tensor, start: int) -> Tensor:
            end = min(start + particles, chosen.stop)

            def log_weights(x: Tensor, subset: Tensor | None) -> Tensor:
                return self.at_once(x, keys, y, start, end, subset)

            return SparseGradient.apply(x, log_weights, self.options.negligible, self.mixed)

        rows = zip(x.split(images), keys.split(images), y.split(images, dim=1))
        starts = range(chosen.start, chosen.stop, particles)
        return torch.cat([torch.cat([part(*row, start) for start in starts]) for row in rows], dim=2)

    @cached_property
    def sparse(self) -> bool:
        """True where the gradient in the images may leave particles out: p(x|...) takes the time, and nothing else has a gradient."""
        asked = self.options.negligible > 0 and self.term is None and not self.options.compile
        structure = self.factorization.structure
        possible = structure.models_images and structure.generative
        return asked and possible and not any(weight.requires_grad for weight in self.factorization.parameters())

    def sizes(self, classes: int, particles: int) -> tuple[int, int]:
        """How many particles, and then how many images, fit into the memory; at least one of each."""
        available, (image, each) = self.options.memory * 2**20, self.bytes_needed
        particles = min(particles, max(1, (available - image) // (classes * each)))
        return particles, max(1, available // (image + classes * particles * each))

    def measure_memory(self) -> tuple[int, int]:
        """Bytes that the gradient needs for an image, and besides for every particle of a class of it."""
        weights, classes = next(self.factorization.parameters()), self.factorization.num_classes
        dtype = torch.promote_types(weights.dtype, torch.float32)
        with torch.inference_mode(False):
            x = torch.zeros(1, *self.factorization.image_shape, device=weights.device, dtype=dtype, requires_grad=True)
            key, y = torch.zeros(1, dtype=torch.long, device=x.device), importance.all_classes(self.factorization, x)
            one, two = (bytes_kept(partial(self.at_once, x, key, y, 0, k), self.factorization) for k in (1, 2))
        each = max(1, (two - one) // classes)
        return max(0, one - each * classes), each
