"""The folder of a run: the order in which its files are written, and how a run goes on from them.

`resume.safetensors` is written first and holds all that training needs to go on, the configuration too. From then on the
run can be resumed, even where the other files are missing or still belong to a run that it replaces.
"""

import contextlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from pyrobayes import distributed
from pyrobayes.codec import decode, encode
from pyrobayes.errors import InputError
from pyrobayes.files import Lock, locked, parse_json, remove_leftovers, write_atomically
from pyrobayes.tensor_files import save_tensors
from pyrobayes.training.checkpoint import CONFIG, METRICS, MODEL, RESUME, Config, damaged, read_model, read_run_file
from pyrobayes.training.metrics import Epoch, as_lines, parse_epochs, read_metrics


@dataclass
class Place:
    """The place of a training within an epoch: its steps, the sum of the bound over their images in nats, and their time."""

    step: int = 0
    elbo_sum: float = 0.0
    seconds: float = 0.0

    def __post_init__(self):
        if self.step < 0 or self.seconds < 0:
            raise ValueError(f"the place of a training has no numbers below 0, got {self}")


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands: the content of `resume.safetensors`.

    Attributes:
        optimizer: the optimizer's moments of every parameter.
        random: torch's random states, by the type of their device.
        average: the running average of the weights; empty where none is kept.
        epochs: the measurements of all complete epochs.
        place: the place in the epoch that is under way.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    average: dict[str, Tensor]
    epochs: list[Epoch]
    place: Place

    def encoded(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and metadata for a file."""
        tensors = {f"{group}.{name}": value for group in GROUPS for name, value in getattr(self, group).items()}
        return tensors, {"epochs": json.dumps(encode(self.epochs)), "place": json.dumps(encode(self.place))}

    @classmethod
    def decoded(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> "TrainingState":
        """The inverse of :meth:`encoded`; ValueError if something is missing, left over or impossible."""
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            if group not in groups:
                raise ValueError(f"the tensor {name} belongs to nothing")
            groups[group][rest] = value
        epochs, place = (parse_json(metadata.get(name, "null")) for name in ("epochs", "place"))
        return cls(**groups, epochs=parse_epochs(epochs), place=decode(Place, place))


GROUPS = [field.name for field in fields(TrainingState) if field.type == dict[str, Tensor]]


class FinishedRun(NamedTuple):
    """The published files of a run that is complete, which are of use without its `resume.safetensors`."""

    config: Config
    weights: dict[str, Tensor]
    epochs: list[Epoch]

    @classmethod
    def read(cls, path: Path) -> "FinishedRun | None":
        """The finished run in a folder; None where a file is missing or damaged, or epochs are."""
        with contextlib.suppress(InputError):
            config, weights, trained = read_model(path)
            epochs = read_metrics(path / METRICS)
            return cls(config, weights, epochs) if trained == len(epochs) == config.training.epochs else None


def has_run(path: Path) -> bool:
    """True if a folder holds a run, finished or not."""
    return (path / RESUME).exists() or (path / CONFIG).exists()


def check_no_run(path: Path) -> None:
    """Refuse a folder that holds a run."""
    if has_run(path):
        advice = "go on with it (resume=True), replace it (overwrite=True), or choose another folder"
        raise InputError(f"{path} already holds a run: {advice}")


def check_same_config(saved: Config, wanted: Config, path: Path) -> None:
    """Refuse to go on with the run at `path` with another configuration than its own."""
    if saved != wanted:
        told = f"can't be resumed with another configuration: there, {saved.differences(wanted)}"
        raise InputError(f"the run in {path} {told}; take another folder for it")


def saved_config(path: Path) -> Config:
    """The configuration of the run in a folder that training can go on with; :class:`InputError` if there is none."""
    try:
        return Config.parse(read_run_file(path / RESUME)[1].get("configuration", ""), path / RESUME)
    except InputError:
        if finished := FinishedRun.read(path):
            return finished.config
        raise


class RunFolder:
    """The folder of a run, locked while it is trained in. Of several processes the first one writes.

    Args:
        path: the folder; None keeps nothing.
        tensorboard: write TensorBoard event files too.
    """

    def __init__(self, path: Path | None, config: Config, tensorboard: bool):
        self.path, self.config = path, config
        self._owner = {"model": config.model, "config": config.identity}
        self._writes = path is not None and distributed.rank() == 0
        self._tensorboard, self._writer = tensorboard, None
        self._lock: Lock | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> "RunFolder":
        if self._tensorboard and not importlib.util.find_spec("tensorboard"):
            raise InputError("TensorBoard files need the package tensorboard: pip install tensorboard")
        if self._writes:
            taken = "is being trained in by another process; choose another folder"
            self._lock = self._held.enter_context(locked(self.path, taken))
            remove_leftovers(self.path, RESUME, MODEL, CONFIG, METRICS)
        return self

    def __exit__(self, *failure) -> None:
        self._held.close()

    def resume(self, restore: Callable[[TrainingState], None], finish: Callable[[FinishedRun], None]) -> None:
        """Hand the state of the run to `restore`. A finished run whose state is lost goes to `finish`.

        Raises:
            InputError: the run has another configuration, or its files are missing or damaged.
        """
        check_same_config(saved_config(self.path), self.config, self.path)
        try:
            tensors, metadata = read_run_file(self.path / RESUME)
            try:
                restore(TrainingState.decoded(tensors, metadata))
            except ValueError as error:
                raise damaged(self.path / RESUME, error) from error
        except InputError:
            finished = FinishedRun.read(self.path)
            if finished is None:
                raise
            finish(finished)

    def save(self, state: TrainingState, averaged: dict[str, Tensor]) -> None:
        """Save the state of a training; after a complete epoch also publish the averaged weights."""
        if self._writes:
            self._lock.check()
            tensors, metadata = state.encoded()
            save_tensors(self.path / RESUME, tensors, metadata | self._owner | {"configuration": self.config.text()})
            if state.place.step == 0:
                self._publish(state.epochs, averaged)
                self._tell_tensorboard(state.epochs[-1])

    def complete(self, epochs: list[Epoch], averaged: dict[str, Tensor]) -> None:
        """Publish what is missing of a run that was killed between its last writes."""
        if self._writes:
            finished = FinishedRun.read(self.path)
            if finished is None or (finished.config, finished.epochs) != (self.config, epochs):
                self._publish(epochs, averaged)

    def _publish(self, epochs: list[Epoch], averaged: dict[str, Tensor]) -> None:
        """Write what others read: weights, configuration and metrics after the last complete epoch."""
        self._lock.check()
        save_tensors(self.path / MODEL, averaged, self._owner | {"epoch": str(len(epochs))})
        write_atomically(self.path / CONFIG, self.config.text())
        write_atomically(self.path / METRICS, as_lines(epochs))

    def _tell_tensorboard(self, epoch: Epoch) -> None:
        if self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = self._writer or self._held.enter_context(SummaryWriter(self.path / "tensorboard"))
            for name, value in vars(epoch).items():
                self._writer.add_scalar(name, value, epoch.epoch)
            self._writer.flush()

    def kept(self, epochs: int) -> str:
        """A sentence on what the folder keeps of a training that breaks down after so many epochs."""
        if self.path is None:
            return "Nothing was saved, since no folder was given."
        return f"{self.path} keeps the weights after epoch {epochs}." if epochs else "Nothing was saved yet."
