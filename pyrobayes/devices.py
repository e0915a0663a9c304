"""The device to compute on, and what follows from it: precision, memory, the size of a batch."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator

import torch

from pyrobayes.device_options import BATCH_SIZE, MEMORY, device_name
from pyrobayes.errors import InputError
from pyrobayes.options import ClassifierOptions
from pyrobayes.torchrun import local_rank, started

MiB, GiB = 2**20, 2**30
# A GPU's share of the memory that is free: half of it beyond what libraries take for themselves. 8 GiB hold 1,000 images with
# the largest networks and ten particles; on an H100 more was not faster (docs/performance.md).
LIBRARIES, LEAST_MEMORY, MOST_MEMORY = GiB, 128, 8192
LARGEST_BATCH_SIZE, MEMORY_OF_AN_IMAGE = 1000, 8  # MiB; a batch that doesn't fit is computed in parts anyway
LEAST_TILE, LARGEST_TILE = 64 * MiB, GiB  # of the decoder; fewer launches against memory. Not compared on a GPU yet.


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` takes CUDA, else MPS, else the CPU, and `cuda:1` the second GPU.

    Under `torchrun` each process takes the GPU of its own number. :class:`InputError` if the device is absent.
    """
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    kind, index = device_name(name)
    if kind == "auto":
        kind = next(device for device, available in there.items() if available())
    if not there[kind]():
        raise InputError(f"device {name} was asked for, but this torch ({torch.__version__}) finds none; take cpu")
    if kind != "cuda":
        return torch.device(kind)
    if index is not None and started():
        raise InputError(f"under torchrun each process takes the GPU of its own number: take device cuda, not {name}")
    chosen, gpus = local_rank() if index is None else index, torch.cuda.device_count()
    if chosen < gpus:
        return torch.device("cuda", chosen)
    if index is None:
        told = f"process {chosen} of this machine has no GPU of its own, there are {gpus}"
        raise InputError(f"{told}: start torchrun with as many processes as GPUs (--nproc-per-node)")
    raise InputError(f"device {name} was asked for, but the GPUs here are cuda:0 to cuda:{gpus - 1}")


def settled(options: ClassifierOptions, device: torch.device) -> ClassifierOptions:
    """The options with all that they leave to the device; :class:`InputError` for a precision that it hasn't."""
    if device.type != "cuda" and options.precision == "tf32":
        raise InputError(f"precision tf32 is that of CUDA devices, and the device is {device.type}: take fp32, or auto")
    return options.settled(device.type, *_limits(device)) if options.is_open else options


def _limits(device: torch.device) -> tuple[int, int]:
    """MiB of memory and images at a time, where they are not given."""
    free = free_bytes(device)
    return (MEMORY, BATCH_SIZE) if free is None else ((memory := memory_of(free)), batch_size_of(memory))


def batch_size_on(device: torch.device) -> int:
    """Images at a time, where that is not given."""
    return _limits(device)[1]


@functools.cache  # so that it stays the same while a process runs
def free_bytes(device: torch.device) -> int | None:
    """The memory of a GPU that this process may still take; None of other devices."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def memory_of(free: int) -> int:
    """MiB that the networks' values may take on a GPU with so many bytes free."""
    return max(LEAST_MEMORY, min(MOST_MEMORY, (free - LIBRARIES) // 2 // MiB))


def batch_size_of(memory: int) -> int:
    """Images at a time on a GPU, for MiB of memory."""
    return max(BATCH_SIZE, min(LARGEST_BATCH_SIZE, memory // MEMORY_OF_AN_IMAGE))


def tile_of(memory: int) -> int:
    """Bytes of the decoder's largest values that a GPU computes at a time, for MiB of memory."""
    return max(LEAST_TILE, min(LARGEST_TILE, memory * MiB // 8))


def tile_bytes(device: torch.device) -> int:
    """Bytes of the decoder's largest values that a device other than a CPU computes at a time."""
    free = free_bytes(device)
    return LEAST_TILE if free is None else tile_of(memory_of(free))


@contextlib.contextmanager
def tf32(allowed: bool, device: torch.device) -> Iterator[None]:
    """Within, matrix products and convolutions in float32 on a CUDA device may use TF32, or not; the user's settings come back.

    PyTorch by itself lets convolutions use it. It rounds factors to 10 bits of mantissa, and adds in float32.
    """
    if device.type != "cuda":
        yield
        return
    before = [(name, value) for name, read, _ in _SETTINGS if (value := _tried(read)) is not None]
    ours = {"products": "high" if allowed else "highest", "convolutions": allowed}
    ours |= dict.fromkeys(("products now", "convolutions now"), "tf32" if allowed else "ieee")
    _set({name: ours[name] for name, _ in before if name in ours})
    try:
        yield
    finally:
        _set(dict(before))


# Newer versions of torch have other names for the settings, and refuse to read the old ones where the two disagree. Setting
# the old ones sets the new ones too; these are put back last. The last entry follows the first, and is only put back.
_SETTINGS: list[tuple[str, Callable, Callable]] = [
    ("products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (
        "convolutions",
        lambda: torch.backends.cudnn.allow_tf32,
        lambda value: setattr(torch.backends.cudnn, "allow_tf32", value),
    ),
    *(
        (name, lambda of=of: of().fp32_precision, lambda value, of=of: setattr(of(), "fp32_precision", value))
        for name, of in (
            ("products now", lambda: torch.backends.cuda.matmul),
            ("convolutions now", lambda: torch.backends.cudnn.conv),
            ("products of the CPU", lambda: torch.backends.mkldnn.matmul),
        )
    ),
]


def _tried(read: Callable):
    try:
        return read()
    except (AttributeError, RuntimeError):  # an older torch, or a user of the new names
        return None


def _set(values: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of torch tell once that the old names will go
        for name, _, write in _SETTINGS:
            if name in values:
                write(values[name])
