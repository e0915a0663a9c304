"""The structure of a factorization: its variables in order, each with its parents.

A formula states it; the running model must agree.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import get_provenance
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyrobayes.errors import InputError
from pyrobayes.factorizations.distributions import as_normal
from pyrobayes.randomness import seeded

_FACTOR = r"p(?:_D)?\((\w+)\s*(?:\|\s*([\w, ]+))?\)"
_FORMULA = re.compile(rf"p\([\w, ]+\) = (?:{_FACTOR}\s*)+")


@dataclass(frozen=True)
class Structure:
    """The variables of a factorization in order, each with its parents: `{"z": (), "y": ("z",), "x": ("z",)}`."""

    parents: Mapping[str, tuple[str, ...]]

    @classmethod
    def of_formula(cls, formula: str) -> "Structure":
        """The structure that a formula such as `p(x, z, y) = p(z) p(y|z) p(x|z)` states."""
        factors = re.findall(_FACTOR, formula.partition("=")[2])
        return cls({variable: tuple(re.findall(r"\w+", given)) for variable, given in factors})

    @classmethod
    def of_model(cls, factorization: nn.Module) -> "Structure":
        """The structure of the code that runs: parents are found by following the values from site to site."""
        with _one_image(factorization, "model") as (x, y), TrackProvenance():
            trace = poutine.trace(factorization.model).get_trace(x, y)
            sites = {name: trace.nodes[name] for name in _variables(trace)}
            above = {name: get_provenance(site["fn"].log_prob(site["value"])) for name, site in sites.items()}
        return cls({child: tuple(name for name in sites if name in above[child] - {child}) for child in sites})

    @property
    def latent(self) -> tuple[str, ...]:
        """The variables besides the image and its class."""
        return tuple(variable for variable in self.parents if variable not in ("x", "y"))

    @property
    def generative(self) -> bool:
        """Whether nothing depends on x (G...); in a discriminative model (D...) z or y does."""
        return not any("x" in parents for parents in self.parents.values())

    @property
    def models_images(self) -> bool:
        """Whether there is a p(x|...), and not only the data's own p_D(x)."""
        return bool(self.parents.get("x"))

    @property
    def latent_depends_on_images(self) -> bool:
        """Whether x is a parent of a latent variable (D.X)."""
        return any("x" in self.parents[variable] for variable in self.latent)

    def variables(self, term: str) -> tuple[str, ...]:
        """The variables that a term names: all latent ones for `z`, otherwise the one of that name, if there is one."""
        term = str(term)
        return self.latent if term.lower() == "z" else tuple(v for v in self.parents if v.lower() == term.lower())

    def __str__(self) -> str:
        factors = ((variable, ", ".join(parents)) for variable, parents in self.parents.items())
        return " ".join(f"p({variable}|{given})" if given else f"p({variable})" for variable, given in factors)


def stated_formula(cls: type) -> str:
    """The first line of a class's docstring if it is a formula, otherwise that of the nearest base class; or nothing."""
    lines = ((vars(base).get("__doc__") or "").strip().partition("\n")[0] for base in cls.__mro__)
    return next((line for line in lines if _FORMULA.fullmatch(line)), "")


def check_model(factorization: nn.Module, stated: Structure) -> None:
    """Refuse a factorization whose running model isn't the one that its formula states."""
    name = type(factorization).__name__
    if not {"x", "y"} <= set(stated.parents):
        raise InputError(
            f"{name} states no formula with x and y: begin its docstring with one such as "
            "p(x, z, y) = p(z) p(y|z) p(x|z)"
        )
    running = Structure.of_model(factorization)
    graphs = [{child: set(parents) for child, parents in each.parents.items()} for each in (stated, running)]
    if graphs[0] != graphs[1]:
        raise InputError(
            f"the model of {name} contradicts its formula: the formula says {stated}, but what runs is {running}; "
            "change the model or the first line of the docstring"
        )


def latent_sizes(factorization: nn.Module, latent: tuple[str, ...]) -> dict[str, int]:
    """How many numbers the running guide draws for each latent variable, in the order that it draws them.

    Raises:
        InputError: it draws other variables, or one that isn't normal.
    """
    with _one_image(factorization, "guide") as (x, y):
        trace = poutine.trace(factorization.guide).get_trace(x, y)
    sites = {name: trace.nodes[name]["fn"] for name in _variables(trace)}
    if set(sites) != set(latent):
        raise InputError(
            f"the guide of {type(factorization).__name__} must draw the latent variables "
            f"({', '.join(latent) or 'none'}), but it draws {', '.join(sites) or 'none'}"
        )
    for name, distribution in sites.items():
        as_normal(name, distribution)
    return {name: distribution.event_shape.numel() for name, distribution in sites.items()}


def _variables(trace: poutine.Trace) -> list[str]:
    sites = ((name, trace.nodes[name]) for name in (*trace.stochastic_nodes, *trace.observation_nodes))
    random = {name for name, site in sites if not site_is_subsample(site) and not site["infer"].get("_deterministic")}
    return [name for name in trace.nodes if name in random]


@contextlib.contextmanager
def _one_image(factorization: nn.Module, function: str) -> Iterator[tuple[Tensor, Tensor]]:
    """One black image and its class, to run `function` on; random state and the modules' modes stay as they were."""
    weights = next(factorization.parameters())
    dtype = torch.promote_types(weights.dtype, torch.float32)
    x = torch.zeros(1, *factorization.image_shape, device=weights.device, dtype=dtype)
    y = torch.zeros(1, dtype=torch.long, device=weights.device)
    training = [module for module in factorization.modules() if module.training]
    try:
        factorization.eval()
        with seeded(0, x.device), torch.no_grad(), pyro.validation_enabled(False):
            yield x, y
    except Exception as error:  # an AttributeError would read as if the factorization had no structure
        raise InputError(f"the {function} of {type(factorization).__name__} doesn't run: {error}") from error
    finally:
        for module in training:
            module.training = True
