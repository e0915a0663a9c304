"""The contract of every factorization, and the registry."""

import dataclasses
import inspect
import itertools
import textwrap
from functools import cached_property

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyrobayes.errors import InputError, check_integer, choice
from pyrobayes.factorizations.conditionals import Conditionals
from pyrobayes.factorizations.own_networks import names_of
from pyrobayes.factorizations.structure import FORMULA, Structure, check_model, latent_size
from pyrobayes.options import NETWORKS, Networks
from pyrobayes.randomness import seeded

_REGISTRY: dict[str, type["DeepBayes"]] = {}
# The results of the checks of models that were built before, by all that they follow from. A check takes 15 ms.
_CHECKED: dict[tuple, dict] = {}
_STORED = itertools.count(1)  # objects whose weights went into Pyro's parameter store


class DeepBayes(nn.Module):
    """A joint density p(x, z, y) of an image, a latent vector and a class, with a guide q(z|x, y).

    A subclass states its density in the first line of its docstring, makes one conditional for each factor, and
    writes `model` with one `pyro.sample` for each factor, in the order of the formula. A subclass that states no
    formula inherits one. There may be several latent variables, under any names but x and y; `guide` draws them all.

    Attributes:
        comparator: the model is compared with the deep Bayes classifiers, and `all` leaves it out.
        adversarial_eps: L-infinity bound of the attack in training, unless the training's options give one.
        in_rows: the code doesn't broadcast over plates: each particle and class of an image is a row of a larger batch.
        draws_by_calls: a latent variable isn't normal, so that Pyro draws it and not the base noise.
    """

    comparator = False
    in_rows = False
    draws_by_calls = False
    adversarial_eps = 0.0

    def __init__(self, conditionals: Conditionals):
        super().__init__()
        self.networks = conditionals.networks
        self.image_shape = tuple(conditionals.image_shape)
        self.num_classes = conditionals.num_classes
        self.q_z = conditionals.z("x", "y")

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """p(x, z, y): images x [..., B, channels, height, width] and classes y [..., B]; draws those left out."""
        raise TypeError(f"{type(self).__name__} must define model(x, y)")

    @property
    def capturable(self) -> bool:
        """True where a GPU may replay a call as a graph. Networks of the user's own may depend on more than their input."""
        return not names_of(self)

    def guide(self, x: Tensor, y: Tensor) -> Tensor:
        """q(z|x, y): the approximate posterior of z, [..., B, latent]."""
        with self.images(x, y):
            return pyro.sample("z", self.q_z(x, y))

    def images(self, x: Tensor | None, y: Tensor | None) -> pyro.plate:
        """The plate of images, at dimension -1; `model` and `guide` open it first.

        It also gives the weights to an inference algorithm that collects parameters, such as Pyro's `SVI`. The training
        of this package steps the weights itself, and leaves Pyro's store empty.
        """
        if any(isinstance(handler, TraceMessenger) and handler.param_only for handler in _PYRO_STACK):
            pyro.module(self._name_in_store, self)
        size = 1 if y is None else y.shape[-1]
        return pyro.plate("images", size if x is None else x.shape[-4], dim=-1)

    @cached_property
    def _name_in_store(self) -> str:
        """A name that no other object has: under a shared one, two models would share their weights or lose them."""
        for parameter in self.parameters():  # the store would train a copy of one that isn't contiguous
            parameter.data = parameter.data.contiguous()
        return f"{type(self).__name__}-{next(_STORED)}"

    def __getstate__(self) -> dict:
        """Everything but the name in Pyro's store, and what the store attaches to parameters, which can't be pickled."""
        for parameter in self.parameters():
            vars(parameter).pop("unconstrained", None)
        return {name: value for name, value in vars(self).items() if name != "_name_in_store"}

    @classmethod
    def formula(cls) -> str:
        """The joint density as the class, or the nearest base class, states it: `p(x, z, y) = p(z) p(y|z) p(x|z)`."""
        lines = ((vars(base).get("__doc__") or "").strip().partition("\n")[0] for base in cls.__mro__)
        return next(filter(FORMULA.fullmatch, lines), "")

    @cached_property
    def structure(self) -> Structure:
        """The variables and their parents as the formula states them; :class:`InputError` if the model contradicts it."""
        stated = Structure.of_formula(self.formula())
        check_model(self, stated)
        return stated

    @cached_property
    def latent(self) -> int:
        """How many latent numbers the guide draws for an image, those of all latent variables together."""
        return latent_size(self, self.structure.latent)

    def check(self) -> None:
        """Refuse, with an :class:`InputError`, a model or guide that contradicts the formula; done once per object."""
        _ = self.structure, self.latent

    def parents(self) -> dict[str, list[str]]:
        """The parents of every site in order, read from the running model: `{"z": [], "y": ["z"], "x": ["z"]}`."""
        return {child: list(parents) for child, parents in Structure.of_model(self).parents.items()}

    def source(self) -> dict[str, str]:
        """The source code of `model` and `guide` as they run."""
        return {name: textwrap.dedent(inspect.getsource(getattr(self, name))) for name in ("model", "guide")}

    @property
    def placement(self) -> dict:
        """The device of the weights, and the precision of images: that of the weights, but float32 at least."""
        weights = next(self.parameters())
        return {"device": weights.device, "dtype": torch.promote_types(weights.dtype, torch.float32)}


def register(name: str):
    """Class decorator: make a factorization known under `name`, lower case."""

    def add(cls: type[DeepBayes]) -> type[DeepBayes]:
        _REGISTRY[name] = cls
        cls.name = name
        return cls

    return add


def names(comparators: bool = False) -> list[str]:
    """The names of all registered factorizations in order of registration, and of the comparators if asked for."""
    return [name for name, cls in _REGISTRY.items() if comparators or not cls.comparator]


def get(name: str) -> type[DeepBayes]:
    """The factorization registered under `name`, in any case; :class:`InputError` with the nearest name otherwise."""
    return _REGISTRY[choice("model", name, _REGISTRY)]


def build(
    name: str,
    networks: str | Networks = "paper",
    *,
    image_shape: tuple[int, int, int] = (1, 28, 28),
    num_classes: int = 10,
    seed: int = 0,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
) -> DeepBayes:
    """A factorization with fresh weights, whose model and guide agree with its formula.

    Args:
        name: such as `gbz`, in any case.
        networks: `paper`, `small`, `tiny`, `cifar`, `original`, or a :class:`pyrobayes.Networks` of your own.
        image_shape: (channels, height, width).
        num_classes: the number of classes C.
        seed: of the initial weights; the global random state is left as it was.
        encoder: a network of your own for every factor, and the guide, that sees x: images [B, channels, height, width] to
            features [B, F]. Each gets a copy, which starts with the weights that it has.
        decoder: one for p(x|...): hidden vectors [B, hidden] to logits of the mean of the pixels [B, channels, height,
            width]. Models without p(x|...) leave it out. With own networks the model comes in eval mode.

    Raises:
        InputError: a name is unknown, a size impossible, or an own network gives another shape.
    """
    if isinstance(networks, str):
        networks = NETWORKS[choice("networks", networks, NETWORKS)]
    if not isinstance(networks, Networks):
        raise InputError(f"networks must be one of {', '.join(NETWORKS)}, or a Networks, got {networks!r}")
    if not isinstance(image_shape, (tuple, list)) or len(image_shape) != 3:
        raise InputError(f"image_shape must be (channels, height, width), got {image_shape!r}")
    for size in image_shape:
        check_integer("every size in image_shape", size, least=1)
    check_integer("num_classes", num_classes, least=2)
    own, kind = {"encoder": encoder, "decoder": decoder}, (get(name), networks, tuple(image_shape), num_classes)
    for role, network in own.items():
        if network is None and (known := getattr(networks, role)):
            raise InputError(
                f"{name} has an own {role}, {known}, whose code no run holds and no command finds: in Python, "
                f"pyrobayes.load and build take it ({role}=...)"
            )
    with seeded(seed):
        factorization = kind[0](Conditionals(*kind[1:], **own, model=kind[0].name)).float()
    if own_names := names_of(factorization):
        factorization.networks = dataclasses.replace(networks, **own_names)
        factorization.eval().check()
        return factorization
    vars(factorization).update(_CHECKED.get(kind, {}))
    factorization.check()
    _CHECKED[kind] = {checked: vars(factorization)[checked] for checked in ("structure", "latent")}
    return factorization
