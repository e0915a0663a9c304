"""Torch's own random state: seeded for a while, saved, and given back as it was."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pyrobayes.errors import LARGEST_SEED, check_integer


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within, torch's generators of the CPU and of `device` are seeded; afterwards they are as they were before."""
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
    """Set the states that :func:`random_state` gave, except for devices that aren't there."""
    for kind, state in states.items():
        if kind == "cpu":
            torch.set_rng_state(state)
        elif torch.get_device_module(kind).is_available():
            torch.get_device_module(kind).set_rng_state(state)


def check_random_state(states: Mapping[str, Tensor]) -> None:
    """Refuse, by a ValueError, random states that torch can't take."""
    if "cpu" not in states or states.keys() - {"cpu", "cuda", "mps"}:
        raise ValueError(f"it has random states of {', '.join(sorted(states)) or 'nothing'}, expected cpu")
    try:
        torch.Generator().set_state(states["cpu"])
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"its random state can't be used: {str(error).splitlines()[0]}") from None
    for kind, state in states.items():
        if state.dtype != torch.uint8 or state.dim() != 1:
            raise ValueError(f"its random state of {kind} must be uint8 [N], got {state.dtype} {list(state.shape)}")
