"""Modules of the user's from the command line: a function that makes one, and a file of weights."""

import hashlib
import importlib
import inspect
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin

from pyrobayes.errors import InputError, in_one_line
from pyrobayes.tensor_files import digest

UNKNOWN_TRAINING = "no file tells what it was trained on: if test images were among it, its results say nothing"
NESTED = "state_dict"  # the key under which many checkpoints hold the weights


@dataclass(frozen=True)
class ModuleSource:
    """Where a module comes from.

    Attributes:
        function: `package.module:function`.
        code: SHA-256 of the Python file that defines the function; None where there is no file.
        weights: the path of the weights; None where the function loads its own.
        sha256: of the file of weights, as `sha256sum` shows it, or else of the module's tensors.
    """

    function: str
    code: str | None
    weights: str | None
    sha256: str

    @property
    def name(self) -> str:
        """The function's name in results and in the names of figures."""
        return self.function.replace(".", "-").replace(":", "-")

    @property
    def arguments(self) -> list[str]:
        """The module as a command line takes it."""
        weights = ["--weights", self.weights] if self.weights else []
        trusted = ["--trust-weights"] if self.weights and not _is_safe(Path(self.weights)) else []
        return ["--model", self.function, *weights, *trusted]


def load_module(
    function: str, weights: str | os.PathLike | None, *, trust_weights: bool = False
) -> tuple[nn.Module, ModuleSource]:
    """The module that a function makes, with weights from a file, and where it comes from.

    Args:
        function: `package.module:function`, found from the current folder too; called without arguments.
        weights: a state dict, as safetensors. Other files are pickles, which can run whatever code they hold.
        trust_weights: read such a file by `torch.load(weights_only=True)`, which lets through tensors alone. That has had
            holes (CVE-2025-32434 before torch 2.6): give it only for files that you would also run.
    """
    make = _imported(function)
    module = make if isinstance(make, nn.Module) else _made(make, function)
    if not isinstance(module, nn.Module):
        raise InputError(f"{function} must give an nn.Module, got {type(module).__name__}")
    if any(isinstance(each, UninitializedTensorMixin) for each in (*module.parameters(), *module.buffers())):
        raise InputError(f"{function} gives a module with lazy layers: run it on an image within the function")
    if weights is None:
        sha256 = digest({name: each for name, each in module.state_dict().items() if isinstance(each, Tensor)}, {})
    else:
        path = Path(weights)
        if not path.is_file():
            raise InputError(f"no file of weights at {path}")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        _fill(module, _read(path, trust_weights), path)
    return module, ModuleSource(function, _code(make), None if weights is None else str(weights), sha256)


def _made(make: Callable, function: str):
    """Call the function; an error in it is told in one line."""
    try:
        return make()
    except InputError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"model {function} can't be made: {in_one_line(error)} ({frame.filename}, line {frame.lineno})"
        ) from error


def _imported(function: str) -> Callable:
    place, _, name = str(function).partition(":")
    if not place or not name:
        raise InputError(f"model must be of the form package.module:function, got {function!r}")
    if place.endswith(".py"):
        raise InputError(
            f"model {function}: a module is named without .py, as Python imports it: {_as_module(place)}:{name}"
        )
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = importlib.import_module(place)
    except ImportError as error:
        raise InputError(f"model {function}: {place} can't be imported from here ({error})") from error
    finally:
        sys.path.remove(here)
    if not callable(made := getattr(found, name, None)):
        raise InputError(f"model {function}: {place} has no function {name}")
    return made


def _as_module(file: str) -> str:
    return ".".join(Path(file).with_suffix("").parts)


def _code(make: Callable) -> str | None:
    try:
        file = inspect.getsourcefile(make if inspect.isroutine(make) or isinstance(make, type) else type(make))
    except TypeError:
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else None


def _is_safe(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _read(path: Path, trusted: bool) -> Mapping[str, Tensor]:
    """The tensors of a file by name."""
    if not _is_safe(path) and not trusted:
        raise InputError(
            f"{path} is no .safetensors file: other files of weights are pickles, which can run whatever code they hold when "
            "they are read; save the weights by safetensors.torch.save_file(model.state_dict(), ...), or, if you would run a "
            "program from where the file comes from, give trust_weights=True"
        )
    try:
        if _is_safe(path):
            return safetensors.torch.load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"can't read the weights in {path}: {str(error).splitlines()[0]}") from error
    except Exception as error:  # pickle.UnpicklingError and others, where more than tensors is in the file
        raise InputError(
            f"{path} holds more than tensors, which is never run: save model.state_dict() alone"
        ) from error
    held = held.get(NESTED, held) if isinstance(held, Mapping) else held
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        names = f"entries {', '.join(map(str, list(held)[:5]))}" if isinstance(held, Mapping) else type(held).__name__
        raise InputError(f"{path} must hold a state dict, tensors by name, got {names}: save model.state_dict() alone")
    return held


def _fill(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load the weights; `module.`, which nn.DataParallel puts before every name, is taken off."""
    if weights and all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        told = " ".join(str(error).split())
        wrapped = "; where the module wraps the one whose weights these are, load them within the function, and leave weights out"
        raise InputError(
            f"the weights in {path} don't fit the module: {textwrap.shorten(told, 300)}{wrapped}"
        ) from error
