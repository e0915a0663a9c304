"""Torch's own random state: seeded for a while, saved, and given back as it was."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from pyrobayes.errors import LARGEST_SEED, check_integer


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Torch's generators of the CPU and of `device` are seeded within, and afterwards as they were before."""
    check_integer("seed", seed, least=0, most=LARGEST_SEED)
    device = torch.device(device)
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        before = random_state(device)
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device.type).manual_seed(seed)
        try:
            yield
        finally:
            set_random_state(before)


def random_state(device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The states of torch's generators of the CPU and of `device`, by the type of their device."""
    states = {"cpu": torch.get_rng_state()}
    if (kind := torch.device(device).type) != "cpu":
        states[kind] = torch.get_device_module(kind).get_rng_state()
    return states


def set_random_state(states: dict[str, Tensor]) -> None:
    """Take back what :func:`random_state` gave; states of devices that aren't there are left out."""
    for kind, state in states.items():
        if kind == "cpu":
            torch.set_rng_state(state)
        elif torch.get_device_module(kind).is_available():
            torch.get_device_module(kind).set_rng_state(state)
