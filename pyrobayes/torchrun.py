"""What `torchrun` tells a process about itself, without importing torch."""

import os

from pyrobayes.errors import InputError


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(f"the environment variable {name} must be a whole number, as torchrun sets it, got '{text}'")
    return int(text)


def started() -> bool:
    """Whether `torchrun` started this process beside others."""
    return _number("WORLD_SIZE", 1) > 1 and "RANK" in os.environ


def rank() -> int:
    """The number of this process among all, from 0; the one that writes and speaks is 0."""
    return _number("RANK", 0) if started() else 0


def local_rank() -> int:
    """The number of this process among those of its machine, from 0; also that of its CUDA device."""
    return _number("LOCAL_RANK", 0) if started() else 0
