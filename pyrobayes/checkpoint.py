"""A trained model as a folder: `config.json`, `model.safetensors`, `metrics.jsonl`, `resume.safetensors`.

Every file is replaced in one step, and `resume.safetensors` alone holds all that training needs to go on
(weights, optimizer, random state), so that a run killed at any instant goes on from its last save. Weights
carry a checksum and the identity of their configuration. No pickle is ever read.
"""

import dataclasses
import hashlib
import json
import os
import platform
from pathlib import Path

import numpy as np
import pyro
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pyrobayes import factorizations
from pyrobayes.classifier import BayesClassifier
from pyrobayes.data import Images
from pyrobayes.factorizations import DeepBayes
from pyrobayes.files import write_atomically, write_json
from pyrobayes.options import InputError, Networks, TrainingOptions
from pyrobayes.version import __version__

CONFIG, MODEL, METRICS, RESUME = "config.json", "model.safetensors", "metrics.jsonl", "resume.safetensors"


def versions() -> dict[str, str]:
    """The versions of everything a result may depend on."""
    return {
        "pyrobayes": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "numpy": np.__version__,
    }


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run is: the model, its networks, the data and how it is trained."""

    model: str
    networks: Networks
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    data: str
    data_sha256: str
    training: TrainingOptions

    @classmethod
    def of(cls, factorization: DeepBayes, data: Images, training: TrainingOptions) -> "Config":
        """The configuration of a run that trains `factorization` on `data`."""
        net, shape = factorization.networks, factorization.image_shape
        return cls(factorization.name, net, shape, tuple(data.classes), data.name, data.sha256, training)

    @property
    def identity(self) -> str:
        """A digest; weights carry the one of the configuration that they belong to."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    def build(self) -> DeepBayes:
        """The factorization, with the initial weights of the run's seed."""
        return factorizations.build(
            self.model,
            self.networks,
            image_shape=self.image_shape,
            num_classes=len(self.classes),
            seed=self.training.seed,
        )

    def save(self, folder: Path) -> None:
        """Write `config.json`."""
        write_json(folder / CONFIG, dataclasses.asdict(self) | {"versions": versions()})

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "Config":
        """Read `config.json` of a run; :class:`InputError` if there is none or it is damaged."""
        path = Path(folder) / CONFIG
        if not path.is_file():
            raise InputError(f"no trained model in {folder}: {CONFIG} is missing; train one with 'pyrobayes train'")
        try:
            saved = json.loads(path.read_text())
            saved.pop("versions")
            saved["networks"] = Networks(**saved["networks"])
            saved["training"] = TrainingOptions(**saved["training"])
            saved["image_shape"], saved["classes"] = tuple(saved["image_shape"]), tuple(saved["classes"])
            return cls(**saved)
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"damaged file {path}: {error}; train the model again") from error


def load(
    folder: str | os.PathLike,
    *,
    particles: int = 10,
    noise: str = "fresh",
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> BayesClassifier:
    """A trained model, ready to classify.

    Args:
        folder: the run, such as `runs/gbz`.
        particles, noise, seed: see :class:`pyrobayes.BayesClassifier`.
        device: where it computes.

    Raises:
        InputError: files are missing or damaged, or the weights belong to another model or run.
    """
    config = Config.read(folder)
    factorization = config.build()
    tensors, metadata = read_tensors(Path(folder) / MODEL)
    put_weights(factorization, tensors, metadata, config, Path(folder) / MODEL)
    factorization.eval().requires_grad_(False)
    return BayesClassifier(factorization, particles, noise, seed).to(device)


def put_weights(factorization: DeepBayes, tensors, metadata, config: Config, path: Path) -> None:
    """Load weights into a factorization; :class:`InputError` if they are another one's, or another run's."""
    if metadata.get("model") != factorization.name:
        raise InputError(f"{path} holds weights of '{metadata.get('model')}', expected '{factorization.name}'")
    expected = {name: list(tensor.shape) for name, tensor in factorization.state_dict().items()}
    if {name: list(tensor.shape) for name, tensor in tensors.items()} != expected:
        raise InputError(f"{path} holds weights of other shapes than the networks in {CONFIG} have; train it again")
    if metadata.get("config") != config.identity:
        raise InputError(f"{path} belongs to another run than {CONFIG} beside it; train the model again")
    factorization.load_state_dict(tensors)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as safetensors, atomically, with their checksum in the metadata."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # tied ones too
    write_atomically(path, safetensors.torch.save(tensors, metadata | {"sha256": _digest(tensors)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata; :class:`InputError` if the file is missing or damaged."""
    if not path.is_file():
        raise InputError(f"missing file {path}; train the model, or go on with its training ('--resume')")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"damaged file {path}: {error}; train the model again") from error
    if metadata.get("sha256") != _digest(tensors):
        raise InputError(f"damaged file {path}: its checksum is wrong; train the model again")
    return tensors, metadata


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
