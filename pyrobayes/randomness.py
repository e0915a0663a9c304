"""Randomness: torch's own state, borrowed and given back as it was; and draws that any counter gives on its own."""

import contextlib
import math
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


# Counters. SplitMix64 (Steele, Lea and Flood 2014, figure 17) gives the n-th output of any key at once, in plain
# integer arithmetic and so with the same bits on every device; an output serves as the key of another sequence.
GAMMA = 0x9E3779B97F4A7C15 - 2**64  # as a signed integer


def splitmix(key: Tensor | int, n: Tensor | int) -> Tensor:
    """The n-th output, from 0, of SplitMix64 seeded with `key`: 64 random bits as an int64 tensor."""
    bits = torch.as_tensor(key) + (torch.as_tensor(n) + 1) * GAMMA
    bits = (bits ^ _shifted(bits, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ _shifted(bits, 27)) * (0x94D049BB133111EB - 2**64)
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """int64 as unsigned, shifted to the right."""
    return (bits >> places) & (2 ** (64 - places) - 1)


def uniforms(key: Tensor, n: Tensor) -> Tensor:
    """A number from 0 to 1, in float32, for each n."""
    return (_shifted(splitmix(key, n), 40).float() + 0.5) / 2**24


def standard_normals(key: Tensor, n: Tensor) -> Tensor:
    """Two standard normal numbers for each n, [..., 2] float32, by the transform of Box and Muller (1958)."""
    bits = splitmix(key, n)
    high, low = ((_shifted(bits, 32).float() + 0.5) / 2**32), ((bits & 0xFFFFFFFF).float() / 2**32)
    radius, angle = (-2 * high.log()).sqrt(), 2 * math.pi * low
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
