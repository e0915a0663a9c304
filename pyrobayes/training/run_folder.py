"""The folder of a run: what is written when, and how a run goes on."""

import contextlib
import importlib.util
import json
from pathlib import Path

from pyrobayes import distributed
from pyrobayes.errors import InputError, PyrobayesError
from pyrobayes.files import locked, write_atomically
from pyrobayes.tensor_files import save_tensors
from pyrobayes.training.checkpoint import CONFIG, METRICS, MODEL, RESUME, Config, read_run_file


class NonFiniteELBO(PyrobayesError, ArithmeticError):
    """The ELBO, or a weight, became infinite or not a number."""


def has_run(path: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (path / RESUME).exists() or (path / CONFIG).exists()


def check_no_run(path: Path) -> None:
    """Refuse a folder that holds a run."""
    if has_run(path):
        raise InputError(
            f"{path} already holds a run: go on with it (--resume), replace it (--overwrite), or choose another folder"
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
    _, metadata = read_run_file(path / RESUME)
    try:
        return Config.parse(metadata["configuration"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / RESUME} was written by another version: {error}; train the model again (--overwrite)"
        ) from error


class Unsaved:
    """Where a training goes that nobody wants to keep."""

    def save(self, run) -> None: ...

    def complete(self, run) -> None: ...

    def kept(self, run) -> str:
        return "Nothing was saved, since no folder was given."


class RunFolder:
    """The folder of a run, locked while it is trained in.

    `resume.safetensors` is written first and holds the configuration too: from the moment that it is there, the run
    can be resumed, whatever of the other files is missing or still of a run that it replaces.
    """

    def __init__(self, path: Path, config: Config, tensorboard: bool):
        self.path, self.config = path, config
        self.owner = {"model": config.model, "config": config.identity}
        self._tensorboard = tensorboard
        self._writes = distributed.rank() == 0  # of several processes one does
        self._writer = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> "RunFolder":
        if self._writes:
            self._held.enter_context(locked(self.path, "is being trained in by another process; choose another folder"))
        return self

    def __exit__(self, *failure) -> None:
        if self._writer:
            self._writer.close()
        self._held.close()

    def prepare(self, run, resume: bool, overwrite: bool) -> None:
        """Take up the run that is there, or see that there is none."""
        if self._tensorboard and not importlib.util.find_spec("tensorboard"):
            raise InputError("TensorBoard files need the package tensorboard: pip install tensorboard")
        if resume:
            check_same_config(saved_config(self.path), self.config, self.path)
            tensors, metadata = read_run_file(self.path / RESUME)
            run.restore(tensors, metadata)
        elif not overwrite:
            check_no_run(self.path)
        if self._tensorboard and self._writes:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.path / "tensorboard")

    def save(self, run) -> None:
        if not self._writes:
            return
        tensors, metadata = run.state()
        if not all(value.isfinite().all() for name, value in tensors.items() if name.startswith("weights.")):
            raise NonFiniteELBO(f"weights are not finite after epoch {len(run.epochs)}: training has broken down")
        save_tensors(self.path / RESUME, tensors, metadata | self.owner | {"configuration": self.config.text()})
        if run.step == 0:
            self.publish(run)
            if self._writer:
                for name, value in vars(run.epochs[-1]).items():
                    self._writer.add_scalar(name, value, run.epochs[-1].epoch)
                self._writer.flush()

    def publish(self, run) -> None:
        """Write what others read: weights, configuration and metrics after the last complete epoch."""
        if not self._writes:
            return
        trained = {"epoch": str(len(run.epochs))}
        save_tensors(self.path / MODEL, run.kept.state_dict(), self.owner | trained)
        write_atomically(self.path / CONFIG, self.config.text())
        write_atomically(self.path / METRICS, self._metrics(run))

    @staticmethod
    def _metrics(run) -> str:
        return "".join(json.dumps(vars(epoch)) + "\n" for epoch in run.epochs)

    def complete(self, run) -> None:
        """Publish what isn't there, of a run that was killed between its last writes."""
        try:
            _, metadata = read_run_file(self.path / MODEL)
            there = Config.read(self.path) == self.config and (self.path / METRICS).read_text() == self._metrics(run)
            published = there and metadata == self.owner | {"epoch": str(len(run.epochs))}
        except (InputError, OSError, ValueError):
            published = False
        if not published:
            self.publish(run)

    def kept(self, run) -> str:
        return (
            f"{self.path} keeps the weights after epoch {len(run.epochs)}." if run.epochs else "Nothing was saved yet."
        )
