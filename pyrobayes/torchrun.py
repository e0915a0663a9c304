"""The place of this process among those that `torchrun` started, read without importing torch."""

import os

from pyrobayes.errors import InputError


def started() -> bool:
    """True if `torchrun` started this process beside others."""
    return _number("WORLD_SIZE", 1) > 1 and "RANK" in os.environ


def rank() -> int:
    """The number of this process among all, from 0; the one that writes and speaks is 0."""
    return _number("RANK", 0) if started() else 0


def local_rank() -> int:
    """The number of this process among those of its machine, from 0; also that of its CUDA device."""
    return _number("LOCAL_RANK", 0) if started() else 0


def check_variables() -> None:
    """Refuse environment variables that can't come from `torchrun`, such as a RANK that a shell has left behind."""
    advice = "start the processes with torchrun, or unset RANK and WORLD_SIZE"
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise InputError(f"RANK and WORLD_SIZE are set but {' and '.join(missing)} not: {advice}")
    if not 0 < _number("MASTER_PORT", 0) < 2**16:
        raise InputError(f"MASTER_PORT must be a port, from 1 to 65535, got '{os.environ['MASTER_PORT']}': {advice}")
    if rank() >= (processes := _number("WORLD_SIZE", 1)):
        raise InputError(f"RANK must be below WORLD_SIZE, {processes}, got {rank()}: {advice}")


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(f"the environment variable {name} must be a whole number, as torchrun sets it, got '{text}'")
    return int(text)
