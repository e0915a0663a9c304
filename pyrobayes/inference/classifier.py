"""The Bayes classifier of a factorization: images in, log p(x, y) out."""

import dataclasses
import math

import pyro
import torch
from torch import Tensor, nn

from pyrobayes.errors import InputError, choice
from pyrobayes.factorizations import DeepBayes, Structure
from pyrobayes.inference import importance
from pyrobayes.inference.capture import Graphs
from pyrobayes.inference.generated_code import Networks
from pyrobayes.inference.importance import ImportanceEstimate
from pyrobayes.inference.interface import BY_CALLS, Classifier
from pyrobayes.inference.log_weights import LogWeights
from pyrobayes.inference.pruning import pruned_estimate
from pyrobayes.options import GRADIENTS, ClassifierOptions


class BayesClassifier(Classifier):
    """Classify by Bayes' rule with importance-sampled joint densities.

    `classifier(x)` gives log p(x, y), [B, C] nats, differentiable in x; its softmax over C is the posterior
    p(y|x). The estimate is random, and `noise` says how:

    * `fixed`: one table of base noise [K, latent] from the seed, shared by all images and classes, makes the classifier a
      deterministic function of the image;
    * `fresh`: new noise at every call, [K, latent] for each image, or with :meth:`for_images` for each image of a data set.

    Pyro serves one thread at a time: threads that classify wait for each other.

    Args:
        factorization: see :func:`pyrobayes.build`.
        particles: K, the number of z drawn for each image and class.
        noise: `fresh` or `fixed`.
        seed: of the noise; the global random state is neither read nor changed.
        options: the others of :class:`pyrobayes.ClassifierOptions`. `estimator` chooses between
            :func:`~pyrobayes.inference.importance.per_class` and :func:`~pyrobayes.inference.importance.mixture`. Under
            `compile` the weights become constants. `negligible` leaves particles out where p(x|...) is a network and
            nothing else depends on x, not with `compile`, and not where weights ask for a gradient (those of `build` do,
            those of `load` don't). A batch larger than the `memory` is computed in parts, and again for its gradient.
    """

    def __init__(
        self,
        factorization: DeepBayes,
        particles: int = ClassifierOptions.particles,
        noise: str = ClassifierOptions.noise,
        seed: int = ClassifierOptions.seed,
        **options,
    ):
        super().__init__(ClassifierOptions(particles, noise, seed, **options))
        if not isinstance(factorization, DeepBayes):
            raise InputError(f"factorization must be a DeepBayes, such as pyrobayes.build makes, got {factorization!r}")
        factorization.check()
        if factorization.draws_by_calls:
            self.addressable, self.caveats = False, (BY_CALLS,)
        self.factorization = factorization
        if self._asked.estimator == "mixture":
            importance.check_shared_images(factorization)
        self._networks = Networks(factorization)
        # Where a weight is, if there is one: asked at every call, and a walk through the modules takes long.
        weights = (
            (m, name) for m in factorization.modules() for name, each in m._parameters.items() if each is not None
        )
        self._one_weight = next(weights, None)
        self._bounded: bool | None = True
        self._term: tuple[str, ...] | None = None
        self._gradient = "path"
        self._classes: Tensor | None = None
        self._bytes_needed: dict[tuple[str | bool, ...], tuple[int, int]] = {}  # measured once, for all copies
        self._capturable = factorization.capturable
        self.graphs = Graphs()  # of functions of this classifier on a CUDA device, for all copies

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        if self._one_weight is None:
            return self.factorization.placement["device"]
        module, name = self._one_weight
        return module._parameters[name].device

    @property
    def name(self) -> str:
        """The name of the factorization, where no other was given."""
        return self._name or self.factorization.name

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.factorization.image_shape

    @property
    def num_classes(self) -> int:
        """C."""
        return self.factorization.num_classes

    @property
    def structure(self) -> Structure:
        """The structure of the factorization."""
        return self.factorization.structure

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the factorization by name."""
        return self.factorization.state_dict()

    def forward(self, x: Tensor) -> Tensor:
        """log p(x, y) of images [B, channels, height, width] in [0, 1] with every class, [B, C] nats, where the images are."""
        return self.estimate(x).log_joint.to(x.device)

    def estimate(self, x: Tensor) -> ImportanceEstimate:
        """The estimate behind :meth:`forward`, on the device of the weights: log weights, and effective sample sizes [B, C]."""
        x, log_weights = self._placed(x), self._log_weights()
        keys = self._keys(len(x), x.device)
        with self.precisely():
            return self._estimate(x, keys, log_weights)

    def _estimate(self, x: Tensor, keys: Tensor, log_weights: LogWeights) -> ImportanceEstimate:
        y, particles = importance.all_classes(self.factorization, x), self._asked.particles
        if self._classes is not None:
            classes = self._classes.to(x.device)
            some = log_weights(x, keys, classes, 0, particles)
            others = some.new_full((len(some), len(y), len(x)), -math.inf)
            return ImportanceEstimate(others.scatter(1, classes.expand_as(some), some))
        if self._asked.prune is None:
            return ImportanceEstimate(log_weights(x, keys, y, 0, particles))
        return pruned_estimate(log_weights, x, keys, y, particles, self._asked.prune)

    def _log_weights(self) -> LogWeights:
        options = self.options
        return LogWeights(self._networks.of(options), options, self._term, self._gradient, self.bytes_needed)

    def _placed(self, x: Tensor) -> Tensor:
        check_images(x, self.factorization.image_shape, self._bounded)
        return x.to(**self.factorization.placement)

    @property
    def random(self) -> bool:
        """True where another draw of the noise may give other log joints."""
        return self._asked.noise == "fresh" and bool(self.factorization.structure.latent)

    def unchecked(self) -> "BayesClassifier":
        """This classifier, but it doesn't look at the pixels' values, for which a GPU would be waited for."""
        return self._changed(_bounded=None)

    def on_buffers(self, indices: Tensor, classes: Tensor | None) -> "BayesClassifier":
        """This classifier for images whose places [B], and classes [M, B] if it computes some alone, are in other tensors."""
        return self._changed(_indices=indices, _classes=None if self._classes is None else classes)

    @property
    def buffers_of_images(self) -> tuple[Tensor | None, Tensor | None]:
        """The tensors that :meth:`on_buffers` replaces."""
        return self._indices, self._classes

    @property
    def graph_key(self) -> tuple | None:
        """All that log p(x, y) of known images follows from besides tensors of the images; None if it can't be captured.

        Sparse gradients and pruning look at values, and generated code has graphs of its own.
        """
        capturable = self.pinned and self._capturable
        if not capturable or self._asked.prune is not None or self._asked.compile or self._log_weights().sparse:
            return None
        weights = self._networks.of(self.options).parameters()
        there = tuple((weight.data_ptr(), weight.requires_grad) for weight in weights)
        return self.options, self._term, self._gradient, self._draw, self._bounded, self._classes is None, there

    def unbounded(self) -> "BayesClassifier":
        """This classifier, but its pixels may lie outside [0, 1], as Gaussian noise makes them; they are not clipped."""
        return self._changed(_bounded=False)

    def of_term(self, term: str | None) -> "BayesClassifier":
        """A classifier by one term of the log weights alone, for attacks on that term.

        `x` or `y` is log p(x|...) or log p(y|...), `z` is log p(z|...) - log q(z|x, y), and None is their sum. Several
        latent variables are `z` together, and each goes by its own name too.
        """
        return self._changed(_term=None if term is None else self._variables(term))

    def with_gradient(self, gradient: str) -> "BayesClassifier":
        """A classifier with the same log p(x, y), whose gradient in x is `path`, `fisher` or `both`.

        :func:`~pyrobayes.inference.importance.seen_by_guide` says what they are. Where there is no latent variable, or the
        guide doesn't see the image, all are the same.
        """
        return self._changed(_gradient=choice("gradient", gradient, GRADIENTS))

    def of_classes(self, classes: Tensor) -> "BayesClassifier":
        """A classifier that computes log p(x, y) of some classes [M, B] of each image alone, and gives -inf for the others.

        The mixture, whose classes share their particles, computes all of them.
        """
        return self if self._asked.estimator == "mixture" else self._changed(_classes=classes)

    def latent_means(self, x: Tensor) -> Tensor:
        """The means of q(z|x, y) of images [B, channels, height, width] for every class, [B, C, latent]."""
        self._variables("z")
        with importance.ONE_THREAD, pyro.validation_enabled(importance.VALIDATE), self.precisely():
            return importance.latent_means(self._networks.of(self.options), self._placed(x)).to(x.device)

    def _variables(self, term: str) -> tuple[str, ...]:
        if not (variables := self.factorization.structure.variables(term)):
            raise InputError(f"{self.factorization.name} has no {term}: it is {self.factorization.formula()}")
        return variables

    def as_logits(self) -> nn.Module:
        """The classifier as attack libraries expect one: logits [B, C] whose mean over the classes is 0.

        Attacks that mix log joints, large negative numbers, with zeros fail. Under fresh noise every call is another draw.
        """
        return Logits(self)

    def replaced(self, **options) -> "BayesClassifier":
        """This classifier with other options, for the same images and with the same noise."""
        other = self._changed(_asked=dataclasses.replace(self._asked, **options))
        if other._asked.estimator == "mixture":
            importance.check_shared_images(self.factorization)
        return other

    def exact(self) -> "BayesClassifier":
        """This classifier in full precision and with nothing left out, with the same noise."""
        return self.replaced(precision="fp32", prune=None, compile=False, negligible=0.0)

    @property
    def images_at_once(self) -> int:
        """How many images fit into the memory with all their classes and particles; at least 1."""
        return self._log_weights().sizes(self.factorization.num_classes, self._asked.particles)[1]

    @property
    def bytes_needed(self) -> tuple[int, int]:
        """Bytes that the gradient needs, measured: for an image, and for every particle of each of its classes."""
        options = self.options
        decisive = options.precision, options.compile, options.estimator, options.noise
        if decisive not in self._bytes_needed:
            self._bytes_needed[decisive] = LogWeights(self._networks.of(options), options).measure_memory()
        return self._bytes_needed[decisive]

    def base_noise(self, images: int) -> Tensor:
        """The standard normal numbers behind z for a batch of B images, [K, 1 or C, B or 1, latent]."""
        return self._log_weights().noise(self._keys(images, self.device), 0, self._asked.particles)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in vars(self._asked).items())


class Logits(nn.Module):
    """log p(x, y) of a classifier, centred for every image, [B, C] nats."""

    def __init__(self, classifier: BayesClassifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        log_joint = self.classifier(x)
        return log_joint - log_joint.mean(1, keepdim=True)


def check_images(x: Tensor, image_shape: tuple[int, int, int], bounded: bool | None = True) -> None:
    """Refuse anything but a batch of images [B, channels, height, width], finite floats, in [0, 1] where `bounded`.

    None looks at no values.
    """
    expected = f"expected {'floats in [0, 1]' if bounded else 'finite floats'} of shape [B, {', '.join(map(str, image_shape))}]"
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputError(f"images: {expected}, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}")
    if x.dim() != 4 or tuple(x.shape[1:]) != tuple(image_shape):
        raise InputError(f"images: {expected}, got shape {list(x.shape)}")
    if not len(x):
        raise InputError(f"images: {expected}, got no image")
    if bounded:
        check_range(x, expected)
    elif bounded is not None and not x.isfinite().all():
        raise InputError(f"images: {expected}, got infinite values or NaN")


def check_range(x: Tensor, expected: str = "expected floats in [0, 1]") -> None:
    """Refuse images with values outside [0, 1], but for rounding."""
    low, high = x.detach().aminmax() if x.numel() else (0, 1)
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # false for NaN
        raise InputError(f"images: {expected}, got values from {low.item():g} to {high.item():g}")
