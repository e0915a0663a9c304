"""The folder of a run: the order in which its files are written, and how a run goes on from them.

`resume.safetensors` is written first and holds the configuration too. From then on the run can be resumed, even where
the other files are missing or still belong to a run that it replaces.
"""

import contextlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pyrobayes import distributed
from pyrobayes.errors import InputError
from pyrobayes.files import Lock, locked, remove_leftovers, write_atomically
from pyrobayes.tensor_files import save_tensors
from pyrobayes.training.checkpoint import (
    CONFIG,
    METRICS,
    MODEL,
    RESUME,
    Config,
    damaged,
    read_model,
    read_run_file,
)
from pyrobayes.training.metrics import Epoch, as_lines, read_metrics
from pyrobayes.training.state import TrainingState


@dataclass(frozen=True)
class FinishedRun:
    """The published files of a run that is complete, which are of use without its `resume.safetensors`."""

    config: Config
    weights: dict[str, Tensor]
    epochs: list[Epoch]

    @classmethod
    def read(cls, path: Path) -> "FinishedRun | None":
        """The finished run in a folder; None where a file is missing or damaged, or epochs are."""
        try:
            config, weights, trained = read_model(path)
            epochs = read_metrics(path / METRICS)
        except InputError:
            return None
        return cls(config, weights, epochs) if trained == len(epochs) == config.training.epochs else None


def has_run(path: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (path / RESUME).exists() or (path / CONFIG).exists()


def check_no_run(path: Path) -> None:
    """Refuse a folder that holds a run."""
    if has_run(path):
        raise InputError(
            f"{path} already holds a run: go on with it (resume=True), replace it (overwrite=True), or choose another folder"
        )


def check_same_config(saved: Config, wanted: Config, path: Path) -> None:
    """Refuse to go on with the run at `path` with another configuration than its own."""
    if saved != wanted:
        what = saved.differences(wanted)
        raise InputError(
            f"the run in {path} can't be resumed with another configuration: there, {what}; take another folder for it"
        )


def saved_config(path: Path) -> Config:
    """The configuration of the run in a folder that training can go on with; :class:`InputError` if there is none."""
    try:
        _, metadata = read_run_file(path / RESUME)
        try:
            return Config.parse(metadata["configuration"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(path / RESUME, f"its configuration can't be read ({error})") from error
    except InputError:
        if finished := FinishedRun.read(path):
            return finished.config
        raise


class Unsaved:
    """The place of a training that nobody wants to keep."""

    def save(self, state: TrainingState, averaged: dict[str, Tensor]) -> None: ...

    def complete(self, epochs: list[Epoch], averaged: dict[str, Tensor]) -> None: ...

    def kept(self, epochs: int) -> str:
        return "Nothing was saved, since no folder was given."


class RunFolder:
    """The folder of a run, locked while it is trained in. Of several processes the first one writes.

    Args:
        tensorboard: write TensorBoard event files too.
    """

    def __init__(self, path: Path, config: Config, tensorboard: bool):
        self.path, self.config = path, config
        self._owner = {"model": config.model, "config": config.identity}
        self._writes = distributed.rank() == 0
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

    def check_no_run(self) -> None:
        """Refuse to train if the folder holds a run."""
        check_no_run(self.path)

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
        if not self._writes:
            return
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
        if not self._tensorboard:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = self._held.enter_context(SummaryWriter(self.path / "tensorboard"))
        for name, value in vars(epoch).items():
            self._writer.add_scalar(name, value, epoch.epoch)
        self._writer.flush()

    def kept(self, epochs: int) -> str:
        """A sentence on what the folder keeps of a training that breaks down after so many epochs."""
        return f"{self.path} keeps the weights after epoch {epochs}." if epochs else "Nothing was saved yet."
