"""The Bayes classifier of a factorization: images in, log p(x, y) out."""

import copy
import dataclasses
import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrobayes.errors import LARGEST_SEED, InputError, check_integer, choice
from pyrobayes.factorizations import DeepBayes, parse_formula
from pyrobayes.factorizations.networks import for_classification
from pyrobayes.inference import importance
from pyrobayes.inference.importance import ImportanceEstimate
from pyrobayes.inference.noise import Purpose, key_of, splitmix, standard_normals
from pyrobayes.options import TERMS, ClassifierOptions

MEBIBYTE = 2**20
TOGETHER = 64  # what is left over is filled up to about a multiple: libraries make code for every new number
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


class BayesClassifier(nn.Module):
    """Classify by Bayes' rule with importance-sampled joint densities.

    `classifier(x)` gives log p(x, y), [B, C] nats, differentiable in x; its softmax over C is the posterior
    p(y|x). The estimate is random, and `noise` says how:

    * `fixed`: one table of base noise [K, latent] from the seed, shared by all images and classes, makes
      the classifier a deterministic function of the image;
    * `fresh`: new noise at every call, [K, latent] for each image. :meth:`for_images` gives each image of a
      data set noise of its own, which does not depend on the batch it comes in.

    Like Pyro itself, it serves one thread at a time.

    Args:
        factorization: see :func:`pyrobayes.build`.
        particles: K, the number of z drawn for each image and class.
        noise: `fresh` or `fixed`.
        seed: of the noise; the global random state is neither read nor changed.
        estimator: `per-class`, :func:`pyrobayes.inference.importance.per_class`, or `mixture`,
            :func:`pyrobayes.inference.importance.mixture`.
        precision: `fp32`, the networks as they are, or `bf16`, a copy of them in bfloat16; log-probabilities are
            in float32 at least.
        prune: spend a fifth of the particles on all classes, and the others only on those whose log p(x, y) is then
            not more than so many nats below the best; None spends all on all.
        compile: have torch.compile generate code for the decoder, which takes half a minute once and a C++ compiler, or
            Triton on a GPU. The weights are taken for constants.
        negligible: the gradient in the images leaves out the particles of a class whose share in it is below this part
            of the image's largest, among those computed at once, which then need no backward pass: where p(x|...) is a
            network and nothing else depends on x. Not with `compile`, nor where weights ask for a gradient, as those of
            `build` do and those of `load` don't. 0 leaves out none.
        memory: MiB that the values in the networks may take. What takes more is computed in parts, images first, then
            particles, and in parts again where its gradient is asked for; results differ by rounding only, but for
            `negligible`, which is judged within a part.
    """

    def __init__(
        self,
        factorization: DeepBayes,
        particles: int = ClassifierOptions.particles,
        noise: str = ClassifierOptions.noise,
        seed: int = ClassifierOptions.seed,
        *,
        estimator: str = ClassifierOptions.estimator,
        precision: str = ClassifierOptions.precision,
        prune: float | None = ClassifierOptions.prune,
        compile: bool = ClassifierOptions.compile,
        negligible: float = ClassifierOptions.negligible,
        memory: int = ClassifierOptions.memory,
    ):
        super().__init__()
        if not isinstance(factorization, DeepBayes):
            raise InputError(f"factorization must be a DeepBayes, such as pyrobayes.build makes, got {factorization!r}")
        self.options = ClassifierOptions(
            particles, noise, seed, estimator, precision, prune, compile, negligible, memory
        )
        self.factorization = factorization
        if self.options.estimator == "mixture":
            importance.need_shared_images(factorization)
        self._copies: dict = {}
        self._calls = 0
        self._indices: Tensor | None = None
        self._draw = self._number = 0
        self._term: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        """log p(x, y) of images [B, channels, height, width] in [0, 1] with every class, [B, C] nats, where the images are."""
        return self.estimate(x).log_joint.to(x.device)

    def estimate(self, x: Tensor) -> ImportanceEstimate:
        """The estimate behind :meth:`forward`, on the device of the weights: log weights, and effective sample sizes [B, C]."""
        x = self._placed(x)
        self._computing()  # whatever code it generates is generated outside the traces
        keys = self._keys(len(x)).to(x.device)
        y = importance.all_classes(self.factorization, x)
        particles = self.options.particles
        if self.options.prune is None:
            return ImportanceEstimate(self._in_parts(x, keys, y, 0, particles))
        first = math.ceil(particles / 5)
        log_weights = self._in_parts(x, keys, y, 0, first)
        if first == particles:
            return ImportanceEstimate(log_weights)
        log_joint = ImportanceEstimate(log_weights).log_joint.T
        y, image = torch.nonzero(log_joint >= log_joint.amax(0) - self.options.prune, as_tuple=True)
        idle = -len(y) % math.ceil(TOGETHER / (particles - first))
        more_y, more_image = (F.pad(each, (0, idle)) for each in (y, image))
        more = self._in_parts(x[more_image], keys[more_image], more_y[None], first, particles)[:, 0, : len(y)]
        others = torch.full_like(log_joint, -torch.inf).repeat(particles - first, 1, 1)
        others[:, y, image] = more
        drawn = torch.full_like(log_joint, first).index_put((y, image), log_joint.new_tensor(particles))
        return ImportanceEstimate(torch.cat([log_weights, others]), drawn)

    def _placed(self, x: Tensor) -> Tensor:
        """Images where the weights are, in their precision, but in float32 at least."""
        check_images(x, self.factorization.image_shape)
        weights = next(self.factorization.parameters())
        return x.to(weights.device, torch.promote_types(weights.dtype, torch.float32))

    def for_images(self, indices, draw: int = 0) -> "BayesClassifier":
        """The same classifier for a batch of known images.

        Under fresh noise, an image's noise then follows from (seed, its index, draw) alone: every call gives
        the same numbers, whatever else is in the batch. Under fixed noise nothing changes.

        Args:
            indices: [B] the images' places in their data set.
            draw: tells independent draws of the noise of one image apart.
        """
        check_integer("draw", draw, least=0, most=LARGEST_SEED)
        indices = torch.as_tensor(indices, dtype=torch.long)
        if (indices < 0).any():
            raise InputError(f"indices must be places in a data set, from 0, got {indices.min()}")
        _ = self.bytes_needed  # measured once, for all copies
        pinned = copy.copy(self)
        pinned._indices, pinned._draw = indices, draw
        return pinned

    @property
    def pinned(self) -> bool:
        """Whether it was made for known images."""
        return self._indices is not None

    @property
    def random(self) -> bool:
        """Whether another draw of the noise may give other log joints."""
        return self.options.noise == "fresh" and self._latent

    @cached_property
    def _latent(self) -> bool:
        return "z" in self.factorization.parents()

    def resampled(self, number: int) -> "BayesClassifier":
        """The same classifier for the same images, with the noise of another independent draw.

        Number 0 is the classifier itself. Without :meth:`for_images`, every call has new noise anyway; under fixed noise
        nothing changes.
        """
        check_integer("number", number, least=0, most=LARGEST_SEED)
        if not self.pinned:
            return self
        other = copy.copy(self)
        other._number = number
        return other

    def of_term(self, term: str | None) -> "BayesClassifier":
        """The same, of one term of the log weights alone, for attacks on it.

        `x` or `y` is log p(x|...) or log p(y|...), `z` is log p(z|...) - log q(z|x, y), and None is all of them.
        """
        other = copy.copy(self)
        other._term = None if term is None else choice("term", term, TERMS)
        self._need(other._term)
        return other

    def latent_means(self, x: Tensor) -> Tensor:
        """The means of q(z|x, y) of images [B, channels, height, width] for every class, [B, C, latent]."""
        self._need("z")
        return importance.latent_means(self._computing(), self._placed(x)).to(x.device)

    def _need(self, variable: str | None) -> None:
        formula = self.factorization.formula()
        if variable and variable not in parse_formula(formula):
            raise InputError(f"{self.factorization.name} has no {variable}: it is {formula}")

    def as_logits(self) -> nn.Module:
        """The classifier as attack libraries expect one: logits [B, C] whose mean over the classes is 0.

        Log joints are large negative numbers, which attacks that mix them with zeros fail on; the posterior is the same.
        Under fresh noise every call is another draw.
        """
        return Logits(self)

    def replaced(self, **options) -> "BayesClassifier":
        """The same classifier, of the same images and with the same noise, but for some of its options."""
        other = copy.copy(self)
        other.options = dataclasses.replace(self.options, **options)
        if other.options.estimator == "mixture":
            importance.need_shared_images(self.factorization)
        other.__dict__.pop("bytes_needed", None)
        return other

    def exact(self) -> "BayesClassifier":
        """The same classifier with the same noise, in full precision and with nothing left out."""
        return self.replaced(precision="fp32", prune=None, compile=False, negligible=0.0)

    @property
    def images_at_once(self) -> int:
        """How many images fit into the memory with all their classes and particles; at least 1."""
        return self._at_once(self.factorization.num_classes, self.options.particles)[1]

    @cached_property
    def bytes_needed(self) -> tuple[int, int]:
        """Bytes that the gradient needs for an image, and besides for every particle of a class of it, measured."""
        one, two = (self._bytes_kept(particles) for particles in (1, 2))
        each = max(1, (two - one) // self.factorization.num_classes)
        return max(0, one - each * self.factorization.num_classes), each

    def _bytes_kept(self, particles: int) -> int:
        kept, computing = {}, self._computing()

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        weights = next(self.factorization.parameters())
        dtype = torch.promote_types(weights.dtype, torch.float32)
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.zeros(1, *self.factorization.image_shape, device=weights.device, dtype=dtype, requires_grad=True)
            key = torch.zeros(1, dtype=torch.long, device=x.device)
            y = importance.all_classes(self.factorization, x)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                self._log_weights(x, key, y, 0, particles)
        parameters = {parameter.untyped_storage().data_ptr() for parameter in computing.parameters()}
        return sum(size for pointer, size in kept.items() if pointer not in parameters)

    def _at_once(self, classes: int, particles: int) -> tuple[int, int]:
        """How many particles, and then how many images, fit into the memory; at least one of each."""
        memory, (image, each) = self.options.memory * MEBIBYTE, self.bytes_needed
        particles = min(particles, max(1, (memory - image) // (classes * each)))
        return particles, max(1, memory // (image + classes * particles * each))

    def _computing(self) -> DeepBayes:
        """The factorization, or its copy for the options, which is made anew when the weights have changed."""
        dtype, compiled = PRECISIONS[self.options.precision], self.options.compile
        if not (dtype or compiled):
            return self.factorization
        state = [(value.data_ptr(), value._version) for value in self.factorization.state_dict().values()]
        if self._copies.get((dtype, compiled), (None,))[0] != state:
            self._copies[dtype, compiled] = state, for_classification(self.factorization, dtype, compiled)
        return self._copies[dtype, compiled][1]

    def _in_parts(self, x: Tensor, keys: Tensor, y: Tensor, first: int, last: int) -> Tensor:
        """Log weights of particles `first` to `last`, [last - first, C, B], in parts that fit into the memory."""
        particles, images = self._at_once(len(y), last - first)
        y = y.expand(-1, len(x))
        if torch.is_grad_enabled() and self._leaves_out:  # which keeps nothing either
            rows = zip(x.split(images), keys.split(images), y.split(images, dim=1))
            starts = range(first, last, particles)
            parts = [[self._weighed(*row, start, min(start + particles, last)) for start in starts] for row in rows]
            return torch.cat([torch.cat(row) for row in parts], dim=2)
        if particles == last - first and images >= len(x):
            return self._log_weights(x, keys, y, first, last)

        each = self.factorization.num_classes if self.options.estimator == "mixture" else 1  # log weights a particle

        def part(image: int, start: int) -> tuple[slice, slice, Callable[[Tensor], Tensor]]:
            """Which images and which of the log weights it is, and these as a function of the images."""
            which, end = slice(image, image + images), min(start + particles, last)
            served = slice((start - first) * each, (end - first) * each)
            return which, served, lambda x: self._log_weights(x, keys[which], y[:, which], start, end)

        parts = [part(image, start) for image in range(0, len(x), images) for start in range(first, last, particles)]
        shape = ((last - first) * each, *y.shape)
        return _InParts.apply(parts, shape, x, *self._computing().parameters())

    @property
    def _leaves_out(self) -> bool:
        """Whether the gradient in the images does: where p(x|...) takes the time, and nothing else has a gradient."""
        parents = parse_formula(self.factorization.formula())
        asked = self.options.negligible > 0 and self._term is None and not self.options.compile
        possible = parents["x"] and not any("x" in given for given in parents.values())
        return asked and possible and not any(weight.requires_grad for weight in self.factorization.parameters())

    def _weighed(self, x: Tensor, keys: Tensor, y: Tensor, first: int, last: int) -> Tensor:
        """The same as :meth:`_log_weights`, with a gradient that leaves out what is negligible."""
        mixed = self.options.estimator == "mixture"

        def log_weights(x: Tensor, only: Tensor | None = None) -> Tensor:
            return self._log_weights(x, keys, y, first, last, only)

        return _LeavingOut.apply(x, log_weights, self.options.negligible, mixed)

    def _log_weights(
        self, x: Tensor, keys: Tensor, y: Tensor, first: int, last: int, only: Tensor | None = None
    ) -> Tensor:
        """Log weights of particles `first` to `last`, [last - first, C, B].

        Args:
            x: images [B, channels, height, width].
            keys: [B] of their noise.
            y: classes [C, B].
            first, last: particles, the last not included.
            only: as the estimators have it.
        """
        noise = self._base_noise(keys, first, last).to(x.dtype)
        factorization = self._computing()
        if self.options.estimator == "mixture":
            return importance.mixture(factorization, x, noise, self._term, only)
        return importance.per_class(factorization, x, noise, y, self._term, only)

    def _keys(self, images: int) -> Tensor:
        """[B] a key for the noise of each image."""
        if self.options.noise == "fixed":
            return key_of(self.options.seed, Purpose.FIXED_NOISE, 0).expand(images)
        if self._indices is None:
            self._calls += 1
            return splitmix(key_of(self.options.seed, Purpose.NOISE_OF_A_CALL, self._calls), torch.arange(images))
        if len(self._indices) != images:
            raise InputError(f"the classifier was made for {len(self._indices)} images, got {images}")
        key = key_of(self.options.seed, Purpose.NOISE_OF_AN_IMAGE, self._draw)
        return splitmix(splitmix(key, -self._number) if self._number else key, self._indices)

    def _base_noise(self, keys: Tensor, first: int, last: int) -> Tensor:
        """Standard normal [last - first, 1 or C, B, latent]; B is 1 where the noise is fixed.

        All classes share an image's draws: with common random numbers (Kahn and Marshall 1953) log joints
        differ less by chance. Only the guides of a mixture, whose particles serve all, draw their own, under fresh noise.
        """
        guides = self.factorization.num_classes if self.options.estimator == "mixture" else 1
        if self.options.noise == "fixed":
            keys, guides = keys[:1], 1
        latent = self.factorization.latent
        pairs = math.ceil(latent / 2)
        particle = torch.arange(first, last, device=keys.device)[:, None, None, None]
        guide = torch.arange(guides, device=keys.device)[:, None, None]
        n = (particle * guides + guide) * pairs + torch.arange(pairs, device=keys.device)
        return standard_normals(keys[:, None], n).flatten(-2)[..., :latent]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in vars(self.options).items())


class _InParts(torch.autograd.Function):
    """Log weights [N, C, B] of which only the result is kept: each part is computed again for its gradient.

    As `torch.utils.checkpoint` does, but what that keeps of every part, however small, lies between the large values of the
    next ones, until the allocator finds no room for them and takes more: the memory grew with the number of parts.
    """

    @staticmethod
    def forward(ctx, parts, shape, x, *weights):
        ctx.save_for_backward(x, *weights)
        ctx.parts = parts
        log_weights = x.new_empty(shape)
        for images, served, compute in parts:
            log_weights[served, :, images] = compute(x[images])
        return log_weights

    @staticmethod
    def backward(ctx, gradient):
        given, again = ctx.saved_tensors, torch.is_grad_enabled()  # again: the gradient is to have one of its own
        total = [torch.zeros_like(each) if needs else None for each, needs in zip(given, ctx.needs_input_grad[2:])]
        needed = [i for i, each in enumerate(total) if each is not None]
        with torch.enable_grad():
            for images, served, compute in ctx.parts:
                x = given[0][images] if again else given[0][images].detach().requires_grad_()
                inputs = [given[i] if i else x for i in needed]
                part = gradient[served, :, images]
                found = torch.autograd.grad(compute(x), inputs, part, create_graph=again, allow_unused=True)
                for i, each in zip(needed, found):
                    if each is not None:
                        (total[i] if i else total[i][images]).add_(each)
        return None, None, *total


class _LeavingOut(torch.autograd.Function):
    """Log weights [N, C, B] whose gradient in the images is computed of those only that have a share in it.

    What has none is known once the gradient in the log weights is, so these are computed again, and the rest has neither
    been kept in memory nor is gone back through. What remains is scaled so that what draws towards the classes and what
    draws away from them weighs as much as before: else what all log weights have in common would no longer cancel.
    """

    @staticmethod
    def forward(ctx, x, log_weights, negligible, mixed):
        ctx.save_for_backward(x)
        ctx.given = log_weights, negligible, mixed
        return log_weights(x)

    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():
            raise InputError("second derivatives need all particles: leave negligible out")
        (x,), (log_weights, negligible, mixed) = ctx.saved_tensors, ctx.given
        gradient = gradient.transpose(1, 2)  # [N, B, C]
        kept = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
        for side in (gradient.clamp_min(0), gradient.clamp_max(0)):
            share = side.abs().sum(2, keepdim=True) if mixed else side.abs()  # one decoding serves all classes
            part = side * (share > negligible * share.amax((0, 2), keepdim=True))
            whole = part.sum((0, 2), keepdim=True)
            kept += part * (side.sum((0, 2), keepdim=True) / whole).where(whole != 0, 0)
        only = kept.any(2) if mixed else kept != 0
        if not only.any():
            return torch.zeros_like(x), None, None, None
        idle = (~only).flatten().nonzero()[: -int(only.sum()) % TOGETHER]
        only.view(-1)[idle] = True  # with nothing to add
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(log_weights(x, only), x, kept[only])[0], None, None, None


class Logits(nn.Module):
    """log p(x, y) of a classifier, centred for every image, [B, C] nats."""

    def __init__(self, classifier: BayesClassifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        log_joint = self.classifier(x)
        return log_joint - log_joint.mean(1, keepdim=True)


def check_images(x: Tensor, image_shape: tuple[int, int, int]) -> None:
    """Refuse what is not a batch of images [B, *image_shape] of finite floats in [0, 1]."""
    expected = f"expected floats in [0, 1] of shape [B, {', '.join(map(str, image_shape))}]"
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputError(f"images: {expected}, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}")
    if x.dim() != 4 or tuple(x.shape[1:]) != tuple(image_shape):
        raise InputError(f"images: {expected}, got shape {list(x.shape)}")
    if x.numel() == 0:
        raise InputError(f"images: {expected}, got no image")
    check_range(x, expected)


def check_range(x: Tensor, expected: str = "expected floats in [0, 1]") -> None:
    """Refuse images with values outside [0, 1], but for rounding."""
    if not x.numel():
        return
    low, high = x.detach().aminmax()
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # false for NaN
        raise InputError(f"images: {expected}, got values from {low.item():g} to {high.item():g}")
