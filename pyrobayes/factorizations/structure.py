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
FORMULA = re.compile(rf"p\([\w, ]+\) = (?:{_FACTOR}\s*)+")


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
            sites = random_sites(poutine.trace(factorization.model).get_trace(x, y))
            above = {name: get_provenance(site["fn"].log_prob(site["value"])) for name, site in sites.items()}
        return cls({child: tuple(name for name in sites if name in above[child] - {child}) for child in sites})

    @property
    def latent(self) -> tuple[str, ...]:
        """The variables besides the image and its class."""
        return tuple(variable for variable in self.parents if variable not in ("x", "y"))

    @property
    def generative(self) -> bool:
        """True if nothing depends on x (G...); in a discriminative model (D...) z or y does."""
        return not any("x" in parents for parents in self.parents.values())

    @property
    def models_images(self) -> bool:
        """True if there is a p(x|...), and not only the data's own p_D(x)."""
        return bool(self.parents.get("x"))

    @property
    def latent_depends_on_images(self) -> bool:
        """True if x is a parent of a latent variable (D.X)."""
        return any("x" in self.parents[variable] for variable in self.latent)

    def variables(self, term: str) -> tuple[str, ...]:
        """The variables that a term names: all latent ones for `z`, otherwise the one of that name, if there is one."""
        term = str(term).lower()
        return self.latent if term == "z" else tuple(name for name in self.parents if name.lower() == term)

    def __str__(self) -> str:
        factors = ((variable, ", ".join(parents)) for variable, parents in self.parents.items())
        return " ".join(f"p({variable}|{given})" if given else f"p({variable})" for variable, given in factors)


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


def latent_size(factorization: nn.Module, latent: tuple[str, ...]) -> int:
    """How many numbers the running guide draws for the latent variables; :class:`InputError` if it draws others."""
    with _one_image(factorization, "guide") as (x, y):
        sites = random_sites(poutine.trace(factorization.guide).get_trace(x, y))
    if set(sites) != set(latent):
        raise InputError(
            f"the guide of {type(factorization).__name__} must draw the latent variables "
            f"({', '.join(latent) or 'none'}), but it draws {', '.join(sites) or 'none'}"
        )
    for name, site in sites.items():
        as_normal(name, site["fn"])
    return sum(site["fn"].event_shape.numel() for site in sites.values())


def random_sites(trace: poutine.Trace) -> dict[str, dict]:
    """The sample sites of a trace by name, observed ones too."""

    def random(site: dict) -> bool:
        return site["type"] == "sample" and not (site_is_subsample(site) or site["infer"].get("_deterministic"))

    return {name: site for name, site in trace.nodes.items() if random(site)}


@contextlib.contextmanager
def _one_image(factorization: nn.Module, function: str) -> Iterator[tuple[Tensor, Tensor]]:
    """One black image and its class, to run `function` on; random state and the modules' modes stay as they were."""
    x = torch.zeros(1, *factorization.image_shape, **factorization.placement)
    y = torch.zeros(1, dtype=torch.long, device=x.device)
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
