"""What every factorization is: the contract, the registry, and what can be read off a running model."""

import inspect
import re
import textwrap

import pyro
import torch
from pyro.infer.inspect import get_model_relations
from torch import Tensor, nn

from pyrobayes.errors import InputError, check_integer, choice
from pyrobayes.factorizations.conditionals import Conditionals
from pyrobayes.options import NETWORKS, Networks
from pyrobayes.randomness import seeded

_REGISTRY: dict[str, type["DeepBayes"]] = {}


class DeepBayes(nn.Module):
    """A joint density p(x, z, y) of an image, a latent vector and a class, with a guide q(z|x, y).

    A subclass says in the first line of its docstring which density it is, makes one conditional for each
    factor, and writes `model` with one `pyro.sample` for each factor, in the order of the formula.

    Args:
        conditionals: makes the conditionals, see :class:`pyrobayes.factorizations.conditionals.Conditionals`.

    Attributes:
        comparator: whether it is there to hold the deep Bayes classifiers against, and `all` leaves it out.
        adversarial_eps: L-infinity bound of the attack that it is trained under, where the training says nothing else.
    """

    comparator = False
    adversarial_eps = 0.0

    def __init__(self, conditionals: Conditionals):
        super().__init__()
        self.networks = conditionals.networks
        self.image_shape = tuple(conditionals.image_shape)
        self.num_classes = conditionals.num_classes
        self.q_z = conditionals.z("x", "y")

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """p(x, z, y): images x [..., B, channels, height, width] and classes y [..., B], drawn where left out."""
        raise TypeError(f"{type(self).__name__} must define model(x, y)")

    def guide(self, x: Tensor, y: Tensor) -> Tensor:
        """q(z|x, y), the same for all: the approximate posterior of z."""
        with self.images(x, y):
            return pyro.sample("z", self.q_z(x, y))

    def images(self, x: Tensor | None, y: Tensor | None) -> pyro.plate:
        """The plate of images, at dimension -1."""
        size = 1 if y is None else y.shape[-1]
        return pyro.plate("images", size if x is None else x.shape[-4], dim=-1)

    @property
    def latent(self) -> int:
        """Dimensions of z."""
        return self.networks.latent

    @classmethod
    def formula(cls) -> str:
        """The joint density as the class states it, such as `p(x, z, y) = p(z) p(y|z) p(x|z)`."""
        return (cls.__doc__ or "").strip().split("\n", 1)[0]

    def source(self) -> dict[str, str]:
        """The source code of `model` and `guide` as they run."""
        return {name: textwrap.dedent(inspect.getsource(getattr(self, name))) for name in ("model", "guide")}

    def parents(self) -> dict[str, list[str]]:
        """The parents of every site in order, read from the running model: `{"z": [], "y": ["z"], "x": ["z"]}`."""
        device = next(self.parameters()).device
        x = torch.zeros(1, *self.image_shape, device=device)
        y = torch.zeros(1, dtype=torch.long, device=device)
        return get_model_relations(self.model, (x, y))["sample_sample"]

    @property
    def generative(self) -> bool:
        """Whether nothing depends on x (G...); in a discriminative model (D...) z or y does."""
        return not any("x" in parents for parents in self.parents().values())

    @property
    def models_images(self) -> bool:
        """Whether the model has a p(x|...), and not only the data's own p_D(x)."""
        return self.parents()["x"] != []


def parse_formula(formula: str) -> dict[str, list[str]]:
    """The parents of every variable in a formula: `p(z) p(y|z)` gives `{"z": [], "y": ["z"]}`."""
    factors = re.findall(r"p(?:_D)?\((\w)(?:\|([\w, ]+))?\)", formula.split("=", 1)[-1])
    return {child: re.findall(r"\w", given) for child, given in factors}


def register(name: str):
    """Class decorator: make a factorization known under `name`, lower case."""

    def add(cls: type[DeepBayes]) -> type[DeepBayes]:
        _REGISTRY[name] = cls
        cls.name = name
        return cls

    return add


def names(comparators: bool = False) -> list[str]:
    """The names of all registered factorizations, and comparators if asked for, in the order they were registered."""
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
) -> DeepBayes:
    """A factorization with fresh weights.

    Args:
        name: such as `gbz`, in any case.
        networks: `paper`, `small`, or a :class:`pyrobayes.Networks` of your own.
        image_shape: (channels, height, width).
        num_classes: the number of classes C.
        seed: of the initial weights; the global random state is left as it was.
    """
    if isinstance(networks, str):
        networks = NETWORKS[choice("networks", networks, NETWORKS)]
    if not isinstance(networks, Networks):
        raise InputError(f"networks must be one of {', '.join(NETWORKS)}, or a Networks, got {networks!r}")
    if not isinstance(image_shape, (tuple, list, torch.Size)) or len(image_shape) != 3:
        raise InputError(f"image_shape must be (channels, height, width), got {image_shape!r}")
    for size in image_shape:
        check_integer("every size in image_shape", size, least=1)
    check_integer("num_classes", num_classes, least=2)
    cls = get(name)
    with seeded(seed):
        return cls(Conditionals(networks, tuple(image_shape), num_classes)).float()
