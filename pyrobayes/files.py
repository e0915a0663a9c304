"""Files that are replaced in one step, and folders that one process at a time writes to."""

import contextlib
import errno
import fnmatch
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import BinaryIO

import filelock

from pyrobayes.errors import InputError

TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.pyrobayes")  # a file that is being written; see write_atomically
CANNOT_OPEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOENT, errno.ENOSPC, errno.EDQUOT)
UNHARMED = "what was there before is unharmed"
FULL = ("the disk is full", f"{UNHARMED}; free some space")
FORBIDDEN = (None, "choose another folder or mend its permissions")
# By error number: how the error is told, where its own text isn't taken, and what to do.
ADVICE = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: ("the quota of the disk is used up", FULL[1]),
    errno.EFBIG: ("the file is larger than is allowed here", f"{UNHARMED}; raise the limit (ulimit -f)"),
    errno.EISDIR: ("a folder is in its place", "move that folder elsewhere"),
    errno.EACCES: FORBIDDEN,
    errno.EPERM: FORBIDDEN,
    errno.EROFS: FORBIDDEN,
}


def checksum(text: str) -> str:
    """SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: str | os.PathLike, content: bytes | str, aside: Path | None = None) -> None:
    """Replace the file at `path` by `content` in one step; on failure, an :class:`InputError`, the earlier file stays.

    The earlier file is moved to `aside`, if that is given, once the content is on the disk.
    """
    with written_atomically(path, aside) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def written_atomically(path: str | os.PathLike, aside: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write to, which replaces the one at `path` as :func:`write_atomically` does, unless something is raised."""
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".pyrobayes", delete=False) as file:
            temporary = file.name
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        if aside:
            os.replace(path, aside)
        try:
            os.replace(temporary, path)
        except OSError:
            if aside:
                os.replace(aside, path)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary:  # and not yet in its place
            Path(temporary).unlink(missing_ok=True)


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove what killed processes left of files, with these names or patterns such as `figure*`, or of all.

    Call it with the lock of these files held: a living process may be writing others.
    """
    for path in folder.glob(".*.pyrobayes"):
        match = TEMPORARY.fullmatch(path.name)
        if match and any(fnmatch.fnmatchcase(match[1], name) for name in names or "*"):
            with contextlib.suppress(OSError):
                path.unlink()


def write_json(path: str | os.PathLike, content, aside: Path | None = None) -> None:
    """Write `content` as JSON, as :func:`write_atomically` does. Numbers that JSON can't hold are refused."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n", aside)


def parse_json(text: str | bytes):
    """The value of a JSON text; ValueError for any text that is none, however deep it is nested."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def other_names(*paths: Path) -> list[Path]:
    """Names for files that make room for others: `attack.1.json`, or the next number that is free for all of them."""
    names = ([path.with_name(f"{path.stem}.{n}{path.suffix}") for path in paths] for n in itertools.count(1))
    return next(numbered for numbered in names if not any(name.exists() for name in numbered))


def writable_folder(path: str | os.PathLike) -> Path:
    """Make the folder at `path` if need be; :class:`InputError` unless files can be written to it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise cannot_write(path, error) from error


@dataclass(frozen=True)
class Lock:
    """A folder's lock file that this process holds, and the numbers of its device and inode."""

    path: Path
    identity: tuple[int, int] | None

    def check(self) -> None:
        """Refuse to write to a folder that was deleted or replaced since it was locked: another process may be in it."""
        if self.identity is not None and _identity(self.path) != self.identity:
            told = "was deleted or replaced by something else while it was written to"
            raise InputError(f"{self.path.parent} {told}: nothing more is written there; start again")


@contextlib.contextmanager
def locked(folder: Path, taken: str | None, name: str = ".lock") -> Iterator[Lock]:
    """Hold a folder's lock, a file of that name; the folder is made if need be. On a file system without locks, go on.

    The lock goes with the process, however it ends. If another process holds it, `taken` is what the :class:`InputError`
    says of the folder; None waits for that process.
    """
    path = writable_folder(folder) / name
    # Without locks of the file system filelock would fall back to a mark that survives a kill on another machine.
    lock = filelock.FileLock(path, timeout=-1 if taken is None else 0, fallback_to_soft=False)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock)
        except filelock.Timeout:
            raise InputError(f"{folder} {taken}") from None
        except OSError as error:
            if error.errno in CANNOT_OPEN:  # otherwise there are no locks here
                raise cannot_write(path, error) from error
        yield Lock(path, _identity(path))


def _identity(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_dev, status.st_ino


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error for a file or folder that can't be written."""
    what, advice = ADVICE.get(error.errno, (None, "choose another folder"))
    return InputError(f"can't write {path}: {what or error.strerror or error}; {advice}")
