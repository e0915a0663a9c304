"""Files of tensors: safetensors with a checksum in the metadata, replaced in one step. No pickle is ever read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pyrobayes.errors import InputError
from pyrobayes.files import write_atomically


class Unreadable(InputError):
    """A file that can't be read; its content may be good."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as safetensors, in one step, with a checksum of tensors and metadata."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # tied ones too
    write_atomically(path, safetensors.torch.save(tensors, metadata | {"sha256": digest(tensors, metadata)}))


def read_tensors(path: Path, remedy: str = "delete it") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata; :class:`Unreadable`, or an :class:`InputError` with the `remedy` if missing or damaged."""
    if not path.is_file():
        raise InputError(f"missing file {path}; {remedy}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except OSError as error:
        raise Unreadable(f"can't read {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise InputError(f"damaged file {path}: {error}; {remedy}") from error
    if metadata.pop("sha256", None) != digest(tensors, metadata):
        raise InputError(f"damaged file {path}: its checksum is wrong; {remedy}")
    return tensors, metadata


def digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 of tensors and metadata, in hexadecimal digits."""
    sha256 = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        sha256.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse, by a ValueError, tensors other than expected. Finite floats may have another precision."""
    for name, value in expected.items():
        if name not in tensors:
            raise ValueError(f"the tensor {name} is missing")
        given = tensors[name]
        floats = given.is_floating_point() and value.is_floating_point()
        if given.shape != value.shape or given.dtype != value.dtype and not floats:
            raise ValueError(f"the tensor {name} is {_kind(given)}, expected {_kind(value)}")
        if floats and not given.isfinite().all():
            raise ValueError(f"the tensor {name} holds numbers that aren't finite")
    for name in tensors.keys() - expected.keys():
        raise ValueError(f"the tensor {name} belongs to nothing")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
