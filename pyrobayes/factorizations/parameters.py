"""The weights of a factorization in Pyro's parameter store, for Pyro's own inference."""

import itertools
import weakref

import pyro
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn

_COUNT = itertools.count(1)
_NUMBERS: "weakref.WeakKeyDictionary[nn.Module, int]" = weakref.WeakKeyDictionary()


def offer_parameters(factorization: nn.Module) -> None:
    """Put the weights into Pyro's parameter store if an inference algorithm is collecting parameters, as `SVI` does.

    The training of this package steps the weights itself, collects nothing, and leaves the store empty. Names in the
    store are unique to the object: under a shared name, two models would share their weights or lose them.
    """
    if not any(isinstance(handler, TraceMessenger) and handler.param_only for handler in _PYRO_STACK):
        return
    if factorization not in _NUMBERS:
        _NUMBERS[factorization] = next(_COUNT)
        for (
            parameter
        ) in factorization.parameters():  # the store copies a parameter that isn't, and would train the copy
            parameter.data = parameter.data.contiguous()
    pyro.module(f"{type(factorization).__name__}-{_NUMBERS[factorization]}", factorization)
