"""Any module that gives logits, as a classifier that attacks and evaluations take."""

import contextlib
import dataclasses
import random as python_random
import sys
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyrobayes.errors import LARGEST_SEED, InputError, in_one_line
from pyrobayes.factorizations import DeepBayes, Structure
from pyrobayes.inference.classifier import Logits
from pyrobayes.inference.importance import ImportanceEstimate
from pyrobayes.inference.interface import BY_CALLS, Classifier
from pyrobayes.options import ClassifierOptions
from pyrobayes.randomness import seeded
from pyrobayes.tensor_files import digest

TRIED = 16  # images that show what kind of classifier a module is
IDLE = ("prune", "memory")  # options that change nothing where there are no particles
ANY_BATCH = 2**31
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class ModuleClassifier(Classifier):
    """Any module, or function, from images to logits [B, C], as :func:`pyrobayes.attack` and the others take it.

    They make one of a module by themselves. Make it yourself to say more.

    A module is evaluated in eval mode, and every layer is put back as it was. A layer in train mode within a module in eval
    mode stays so, such as Dropout that is kept on; only layers that normalise by the batch don't.

    If two calls on the same images differ, the module is random. A draw is then a call, under a random state (torch's,
    numpy's and Python's) that follows from the seed, the draw and the images of the batch; the global state is left alone.
    The noise can't be bound to an image.

    Args:
        module: from images [B, channels, height, width] in [0, 1] to logits [B, C]. Probabilities are recognised, and their
            log is taken.
        name: in results; the class's where left out.
        noise: `fresh`, or `fixed` for the same random state at every call.
        seed: of the noise.
        random: whether the module draws anything. Where None, the first images tell.
    """

    has_particles = False

    def __init__(
        self,
        module: Callable[[Tensor], Tensor],
        *,
        name: str | None = None,
        noise: str = ClassifierOptions.noise,
        seed: int = ClassifierOptions.seed,
        random: bool | None = None,
    ):
        super().__init__(ClassifierOptions(1, noise, seed))
        if not callable(module) or isinstance(module, type):
            raise InputError(f"a classifier must be {EXPECTED}, got {described(module)}")
        if isinstance(module, DeepBayes):
            raise InputError(f"a classifier must be {EXPECTED}: make one by pyrobayes.BayesClassifier({module.name})")
        if isinstance(module, Classifier):
            raise InputError(f"{type(module).__name__} is a classifier already: hand it over as it is")
        self.module, self._name, self._random = module, name, random
        self._image_shape: tuple[int, int, int] | None = None  # of the images that were tried
        self._num_classes, self._gives_probabilities = 0, False

    @property
    def name(self) -> str:
        """As given, or that of the module's class."""
        module = self.module.module if isinstance(self.module, WRAPPERS) else self.module
        return self._name or getattr(module, "__name__", type(module).__name__)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that were tried."""
        return self._image_shape

    @property
    def num_classes(self) -> int:
        """C, as the images that were tried have it."""
        return self._num_classes

    @property
    def structure(self) -> Structure:
        """The structure of p_D(x) p(y|x)."""
        return Structure({"x": (), "y": ("x",)})

    @property
    def random(self) -> bool:
        """True where another draw may give other logits."""
        return self.options.noise == "fresh" and self._random is not False

    @property
    def addressable(self) -> bool:
        """True for a module that draws nothing."""
        return not self._random

    @property
    def images_at_once(self) -> int:
        """No limit: the batch size is the user's."""
        return ANY_BATCH

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors of the module's state."""
        state = self.module.state_dict() if isinstance(self.module, nn.Module) else {}
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}

    @property
    def identity(self) -> str:
        """A digest of the weights, the layers and, where they are known, the files that they come from."""
        return digest(self.weights, {"layers": repr(self.module), "source": str(self.source)})

    def replaced(self, **options) -> "ModuleClassifier":
        """This classifier with other noise or another seed; :class:`InputError` for options of particles."""
        other = self._changed(_asked=dataclasses.replace(self._asked, **options))
        given = {name for name in options if getattr(other.options, name) != getattr(self.options, name)}
        if without := sorted(given - {"noise", "seed", *IDLE}):
            raise InputError(f"{self.name} gives logits alone, and has no {', '.join(without)}: leave that out")
        return other

    def exact(self) -> "ModuleClassifier":
        """This classifier: nothing of it is approximated."""
        return self

    def unbounded(self) -> "ModuleClassifier":
        """This classifier, which takes pixels outside [0, 1] too."""
        return self

    def estimate(self, x: Tensor) -> ImportanceEstimate:
        """The logits as the log weights of a single particle, [1, C, B]."""
        return ImportanceEstimate(self(x).T[None])

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images [B, channels, height, width], [B, C], in float32 at least."""
        return self._logits(x).to(x.device)

    def _logits(self, x: Tensor) -> Tensor:
        """The module's output, checked; [B, C]. The logarithm where it is known to give probabilities."""
        softmax = Softmax() if self._gives_probabilities else None
        with self._drawing(len(x)), evaluating(self.module), self.precisely(), softmax or contextlib.nullcontext():
            output = self.module(x.to(next((each for each in self._tensors() if each.is_floating_point()), x)))
        check_logits(output, len(x))
        output = softmax.logarithm(output) if softmax else output
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        wrong = (output.isnan() | (output == torch.inf)).any(1)
        if wrong.any():
            raise InputError(
                f"{self.name} gives NaN or infinite logits for {int(wrong.sum())} of {len(x)} images: an attack would leave "
                "these as they are, and they would look robust"
            )
        return output

    @contextlib.contextmanager
    def _drawing(self, images: int) -> Iterator[None]:
        """A random state for one call, which follows from the seed, the draw and the images of the batch."""
        if self._random is False:
            yield
            return
        keys = self._keys(1 if self.options.noise == "fixed" else images, torch.device("cpu"))
        seed = int(keys.sum()) & (LARGEST_SEED >> 1)
        states, inner = (python_random.getstate(), np.random.get_state()), self._inner()
        calls = [each._calls for each in inner]
        try:
            python_random.seed(seed)
            np.random.seed(seed % 2**32)
            for each in inner:
                each._calls = seed
            with seeded(seed, self.device):
                yield
        finally:
            python_random.setstate(states[0])
            np.random.set_state(states[1])
            for each, count in zip(inner, calls):
                each._calls = count

    def _inner(self) -> list[Classifier]:
        """Classifiers of ours inside of the module, whose noise the module's call decides."""
        modules = self.module.modules() if isinstance(self.module, nn.Module) else ()
        return [each for each in modules if isinstance(each, Classifier)]

    @torch.no_grad()
    def tried_on(self, x: Tensor) -> "ModuleClassifier":
        """This classifier with all that its answers to the first images show. What would spoil an evaluation is warned of."""
        few, tried = x[:TRIED].to(self.device), self._changed(_indices=None, _image_shape=tuple(x.shape[1:]))
        asked = torch.arange(len(few))
        try:
            first = tried.for_images(asked)._logits(few)
        except (RuntimeError, TypeError, IndexError) as error:
            raise InputError(f"{self.name} doesn't run on images {list(few.shape)}: {in_one_line(error)}") from error
        if tried._random is None:
            others = tried.for_images(asked).resampled(1)._logits(few)
            tried._random = not torch.allclose(first, others, rtol=1e-4, atol=1e-5 * first.abs().max().item())
        repeated = not tried._random or torch.allclose(
            first, tried.for_images(asked)._logits(few), rtol=1e-4, atol=1e-4
        )
        tried._num_classes = first.shape[1]
        tried._gives_probabilities = bool((first >= 0).all() and (first.sum(1) - 1).abs().max() < 1e-3)
        constant = not tried._random and bool((few != few[:1]).any() and (first == first[:1]).all())
        spoilers = {
            "it was in train mode, and is evaluated in eval mode; to keep Dropout on, call eval() on the module and then "
            "train() on its Dropout layers": depends_on_mode(self.module),
            "it gives probabilities, and their log is taken: rounding may spoil it and its gradient, so hand over the logits": (
                tried._gives_probabilities
            ),
            f"it gives the same logits for {len(few)} different images: they don't depend on the image": constant,
            "its noise follows neither torch's, numpy's nor Python's random state: results can't be repeated": not repeated,
            f"it wraps a {', '.join({type(each).__name__ for each in self._inner()})}, whose noise is then not the image's "
            "own: hand that over without the wrapper": any(each.random for each in self._inner()),
        }
        told = [sentence for sentence, holds in spoilers.items() if holds]
        for sentence in told:
            warn(f"{self.name}: {sentence}")
        return tried._changed(caveats=(*told, NO_PARTICLES, *([BY_CALLS] if tried._random else [])))


NO_PARTICLES = "it gives logits alone: what needs terms, particles or log p(x) is left out"
EXPECTED = "an nn.Module or a function of images that gives log p(x, y), or logits, [B, C]"


def as_classifier(classifier: nn.Module | Callable, x: Tensor, name: str | None = None) -> Classifier:
    """The classifier as attacks and evaluations take it, tried on the first of images x [B, channels, height, width].

    Wrappers that change nothing, such as `nn.DataParallel`, are looked through where they hold a classifier of ours.
    """
    inner = _unwrapped(classifier)
    classifier = inner if isinstance(inner, Classifier) else ModuleClassifier(classifier, name=name)
    if name is not None:
        classifier = classifier._changed(_name=name)
    untried = isinstance(classifier, ModuleClassifier) and classifier.image_shape != tuple(x.shape[1:])
    return classifier.tried_on(x) if untried else classifier


class Softmax(TorchFunctionMode):
    """Within, softmax is remembered, so that the logarithm of its output can be its input, which no rounding spoils."""

    def __init__(self):
        super().__init__()
        self._calls: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        if function in (nn.functional.softmax, torch.softmax, Tensor.softmax):
            self._calls.append((args[0] if args else kwargs["input"], output))
        return output

    def logarithm(self, probabilities: Tensor) -> Tensor:
        """The logarithm of probabilities [B, C], up to a constant for each image."""
        for logits, output in self._calls:
            if output is probabilities:
                return logits
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _unwrapped(module: Callable) -> Callable:
    """The module inside of wrappers that change nothing."""
    if isinstance(module, Logits):
        return _unwrapped(module.classifier)
    if isinstance(module, WRAPPERS):
        return _unwrapped(module.module)
    return _unwrapped(module[0]) if type(module) is nn.Sequential and len(module) == 1 else module


def check_logits(output, images: int) -> None:
    """Refuse what isn't one row of logits of at least two classes for each image."""
    if not isinstance(output, Tensor) or output.shape[:1] != (images,) or output.dim() != 2:
        hint = ": let a module of yours choose the logits from it" if isinstance(output, tuple | list | dict) else ""
        got = f"{described(output)}{hint}"
        raise InputError(f"the classifier must give log p(x, y), or logits, [{images}, C], got {got}")
    if output.shape[1] < 2:
        raise InputError(
            f"the classifier must know at least two classes, got log p(x, y) [B, {output.shape[1]}]: where one logit tells two "
            "classes apart, give both, torch.cat([-z / 2, z / 2], 1)"
        )
    if not output.is_floating_point():
        raise InputError(f"the classifier must give log p(x, y), or logits, as floats, got {output.dtype}")


def described(value) -> str:
    """The type of a value for a message, and the shape of a tensor."""
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def warn(message: str) -> None:
    """Warn of what would spoil an evaluation, at the line of the user's that called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("pyrobayes", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


@contextlib.contextmanager
def evaluating(module: Callable) -> Iterator[None]:
    """Within, a module in train mode is in eval mode, and layers that normalise are; afterwards every layer is as it was."""
    if not isinstance(module, nn.Module):
        yield
        return
    before = {each: each.training for each in module.modules()}
    try:
        if module.training:
            module.eval()
        for each in before:
            if each.training and isinstance(each, nn.modules.batchnorm._NormBase):
                each.eval()
        yield
    finally:
        for each, training in before.items():
            each.training = training


def depends_on_mode(module: Callable) -> bool:
    """True where eval mode changes what a module in train mode gives: a layer's `forward` asks for its mode."""
    if not isinstance(module, nn.Module):
        return False
    before = [each for each in module.modules() if each.training]
    with evaluating(module):
        changed = [each for each in before if not each.training]
    codes = (getattr(type(each).forward, "__code__", None) for each in changed)
    return any(code is None or "training" in code.co_names for code in codes)
