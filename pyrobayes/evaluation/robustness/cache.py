"""Measurements that are kept, so that an interrupted verdict goes on where it stopped."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from pyrobayes import distributed
from pyrobayes.errors import InputError
from pyrobayes.tensor_files import Unreadable, read_tensors, save_tensors


class ResultCache:
    """Keeps the tensors of every measurement, in a folder or in memory.

    Args:
        folder: where each measurement gets a file; in memory where None.

    Attributes:
        made: how many measurements were made, and not found.
    """

    def __init__(self, folder: Path | None = None):
        self.folder, self.made = folder, 0
        self._asked_for: set[str] = set()
        self._in_memory: dict[str, dict[str, Tensor]] = {}

    def get(self, key: Mapping, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors that belong to a key; if there are none, `make` computes them and they are kept."""
        name = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:20]
        self._asked_for.add(name)
        tensors = self._in_memory.get(name) or self._read(name)
        if tensors is None:
            tensors = make()
            self.made += 1
            if self.folder and distributed.rank() == 0:
                save_tensors(self._path(name), tensors, {})
        if self.folder is None or distributed.processes() > 1:  # other processes may not see the first one's file yet
            self._in_memory[name] = tensors
        return tensors

    def remove(self) -> None:
        """Delete the files that were asked for, and the folder if nothing else is in it."""
        for name in self._asked_for:
            self._path(name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _read(self, name: str) -> dict[str, Tensor] | None:
        if self.folder is None or not self._path(name).is_file():
            return None
        try:
            return read_tensors(self._path(name))[0]
        except Unreadable:
            raise
        except InputError:  # damaged: it is made anew
            self._path(name).unlink(missing_ok=True)
            return None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"
