"""The registered attacks, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pyrobayes.attacks.base import Attack
from pyrobayes.errors import InputError, choice
from pyrobayes.options import declaration

_REGISTRY: dict[str, type[Attack]] = {}


def register(name: str) -> Callable[[type[Attack]], type[Attack]]:
    """Class decorator: make an attack known under `name`, lower case."""

    def add(cls: type[Attack]) -> type[Attack]:
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return add


def offered() -> dict[str, dict[str, type[Attack]]]:
    """The options of attacks that have a help text, each with the attacks that have it, by name."""
    found: dict[str, dict[str, type[Attack]]] = {}
    for attack, cls in _REGISTRY.items():
        for field in dataclasses.fields(cls):
            if field.init and "help" in declaration(cls, field.name):
                found.setdefault(field.name, {})[attack] = cls
    return found


def names() -> list[str]:
    """The names of all registered attacks."""
    return list(_REGISTRY)


def options(name: str) -> set[str]:
    """The names of the options of an attack."""
    return {field.name for field in dataclasses.fields(_REGISTRY[choice("attack", name, _REGISTRY)]) if field.init}


def get(name: str, **given) -> Attack:
    """The attack registered under `name`, with its options.

    Raises:
        InputError: no attack has this name (the message says the nearest one), or this attack has no such option.
    """
    name = choice("attack", name, _REGISTRY)
    if unknown := sorted(set(given) - options(name)):
        raise InputError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(sorted(options(name)))}")
    return _REGISTRY[name](**given)
