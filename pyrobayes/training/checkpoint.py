"""A trained model as a folder: `config.json`, `model.safetensors`, `metrics.jsonl`, `resume.safetensors`.

Every file is replaced in one step. Weights carry a checksum and the identity of their configuration. No pickle is ever read.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from pyrobayes import factorizations
from pyrobayes.codec import decode
from pyrobayes.data.images import Images
from pyrobayes.data.source import ImageSource
from pyrobayes.devices import choose_device
from pyrobayes.errors import InputError, choice
from pyrobayes.factorizations import DeepBayes
from pyrobayes.factorizations.own_networks import names_of
from pyrobayes.files import checksum, parse_json
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.options import PRETRAINED, Networks, TrainingOptions
from pyrobayes.tensor_files import check_tensors, read_tensors
from pyrobayes.version import __version__

CONFIG, MODEL, METRICS, RESUME = "config.json", "model.safetensors", "metrics.jsonl", "resume.safetensors"


def versions() -> dict[str, str]:
    """The versions of all software that a result may depend on."""
    return {
        "pyrobayes": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "pyro": pyro.__version__,
        "numpy": np.__version__,
    }


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a run: the model, its networks, the data and the options of its training."""

    model: str
    networks: Networks
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    data: str
    data_sha256: str
    training: TrainingOptions
    source: ImageSource | None = field(default=None, compare=False)  # where the images were; `data_sha256` tells them

    @classmethod
    def of(cls, model: str, networks: Networks, data: Images, training: TrainingOptions) -> "Config":
        """The configuration of a training on `data`."""
        return cls(
            model, networks, data.image_shape, tuple(data.classes), data.name, data.sha256, training, data.source
        )

    @property
    def identity(self) -> str:
        """A digest. It skips fields that are None, so that a new optional field keeps old runs valid."""
        content = dataclasses.replace(self, source=None)
        given = dataclasses.asdict(content, dict_factory=lambda pairs: {k: v for k, v in pairs if v is not None})
        return checksum(json.dumps(given, sort_keys=True))

    def build(self, **own: nn.Module | None) -> DeepBayes:
        """The factorization, with the initial weights of the run's seed, and the user's `encoder` and `decoder`."""
        return factorizations.build(
            self.model,
            self.networks,
            image_shape=self.image_shape,
            num_classes=len(self.classes),
            seed=self.training.seed,
            **own,
        )

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "Config":
        """Read `config.json` of a run; :class:`InputError` if there is none or it is damaged."""
        path = Path(folder) / CONFIG
        if not path.is_file():
            if unfinished := begun_only([Path(folder)]):
                raise InputError(unfinished)
            inside = ", ".join(sorted(str(config.parent) for config in Path(folder).glob(f"*/{CONFIG}")))
            hint = f"take one of the models in it, {inside}" if inside else "train one with 'pyrobayes train'"
            raise InputError(f"no trained model in {folder}: {CONFIG} is missing; {hint}")
        return cls.parse(path.read_bytes(), path)

    def text(self) -> str:
        """The configuration as JSON, with the versions of the software that made it."""
        return json.dumps(dataclasses.asdict(self) | {"versions": versions()}, indent=2) + "\n"

    @classmethod
    def parse(cls, text: str | bytes, path: Path) -> "Config":
        """The inverse of :meth:`text`; :class:`InputError` if the text, from the file at `path`, is damaged."""
        try:
            saved = parse_json(text)
            if not isinstance(saved, dict):
                raise ValueError("it holds no object")
            config = decode(cls, {name: value for name, value in saved.items() if name != "versions"})
            if min(config.image_shape) < 1:
                raise ValueError(f"image_shape must be three positive numbers, got {list(config.image_shape)}")
            return config
        except ValueError as error:
            raise damaged(path, f"its configuration can't be read ({error})") from error

    def differences(self, other: "Config") -> str:
        """The differences of two configurations, as in `epochs is 3, not 5`; empty if there are none."""
        ours, theirs = ({**vars(c), **vars(c.networks), **vars(c.training)} for c in (self, other))
        return ", ".join(
            f"{name.replace('_', '-')} is {value}, not {theirs[name]}"
            for name, value in ours.items()
            if name not in ("networks", "training", "classes", "source") and value != theirs[name]
        )


def begun_only(runs: Sequence[Path]) -> str:
    """An error on those runs, in one folder, whose training was stopped in its first epoch; empty if there are none."""
    begun = [run for run in runs if (run / RESUME).is_file() and not (run / MODEL).exists()]
    if not begun:
        return ""
    names, parent = [run.name for run in begun], begun[0].parent
    where = [] if parent == Path("runs") else ["--runs", str(parent)]
    command = shlex.join(["pyrobayes", "train", *names, *where, "--resume"])
    told = (
        f"no trained model in {', '.join(map(str, begun))}: the training was interrupted before its first epoch ended"
    )
    return f"{told}; go on with '{command}'"


@torch.inference_mode(False)  # else no attack could have gradients through the weights
def load(
    folder: str | os.PathLike,
    *,
    device: str = "auto",
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    **options,
) -> BayesClassifier:
    """A trained model, ready to classify.

    Args:
        folder: the run, such as `runs/gbz`.
        device: `auto`, `cpu`, `cuda`, a GPU such as `cuda:1`, or `mps`.
        encoder, decoder: the own networks that the model was built with, whose code no run holds. Their weights are read
            from the run; only the names and shapes of these can be checked.
        options: `particles`, `noise`, `seed` and the other arguments of :class:`pyrobayes.BayesClassifier`.

    Raises:
        InputError: files are missing or damaged, or the weights belong to another model or run.
    """
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"folder must be the path of a run, such as runs/gbz, got {folder!r}")
    chosen = choose_device(device)
    config, weights, _ = read_model(folder)
    factorization = config.build(encoder=encoder, decoder=decoder)
    own = names_of(factorization)
    if surplus := [role for role in own if not getattr(config.networks, role)]:
        raise InputError(f"{folder} was trained without an own {surplus[0]}: leave {surplus[0]} out")
    try:
        check_tensors(weights, factorization.state_dict())
    except ValueError as error:
        if own:
            told = f"{Path(folder) / MODEL} doesn't fit the {' or '.join(own)} that was given: {error}"
            raise InputError(f"{told}; give the networks that it was trained with") from error
        raise damaged(Path(folder) / MODEL, error) from error
    factorization.load_state_dict(weights)
    factorization.eval().requires_grad_(False)
    return BayesClassifier(factorization, **options).to(chosen)


def pretrained(model: str, *, device: str = "auto", **options) -> BayesClassifier:
    """One of the seven, as it comes with the package: small networks, trained on all of Fashion-MNIST; see docs/pretrained.md.

    The other arguments are those of :func:`load`.
    """
    there = [folder.name for folder in sorted(PRETRAINED.iterdir()) if (folder / MODEL).is_file()]
    return load(PRETRAINED / choice("pretrained model", model, there), device=device, **options)


def read_model(folder: str | os.PathLike) -> tuple[Config, dict[str, Tensor], int]:
    """The configuration, weights and number of epochs of the model in a folder, or the errors of :func:`load`."""
    config, path = Config.read(folder), Path(folder) / MODEL
    weights, metadata = read_run_file(path)
    if metadata.get("model") != config.model:
        raise InputError(f"{path} holds weights of '{metadata.get('model')}', expected '{config.model}'")
    if metadata.get("config") != config.identity:
        raise InputError(
            f"{path} belongs to another configuration than the {CONFIG} beside it; train it with resume=True, or train the "
            "model again"
        )
    if not metadata.get("epoch", "").isdecimal():
        raise damaged(path, "it doesn't say how many epochs it was trained")
    return config, weights, int(metadata["epoch"])


def read_run_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read `model.safetensors` or `resume.safetensors` of a run: tensors and metadata."""
    return read_tensors(path, _remedy(path))


def damaged(path: Path, reason) -> InputError:
    """The error for a file of a run whose content is wrong."""
    return InputError(f"damaged file {path}: {reason}; {_remedy(path)}")


def _remedy(path: Path) -> str:
    if path.name != RESUME and (path.parent / RESUME).is_file():
        return "train the model with resume=True, finished or not, which writes it again"
    if path.name == RESUME and (path.parent / MODEL).is_file():
        return f"its training can't go on; {MODEL} can be used as it is, or train the model again with overwrite=True"
    return "train the model again with overwrite=True"
