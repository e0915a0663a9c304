"""Writing files so that a reader, or a crash, never meets half of one."""

import contextlib
import errno
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pyrobayes.errors import InputError

TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)  # what a lock that another process has says


def write_atomically(path: str | os.PathLike, content: bytes | str, aside: Path | None = None) -> None:
    """Replace the file at `path` by `content` in one step; on failure, what was there stays.

    Args:
        aside: where what was there is moved, once the content is on the disk.

    Raises:
        InputError: the folder can't be written to, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(content.encode() if isinstance(content, str) else content)
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


def write_json(path: str | os.PathLike, content, aside: Path | None = None) -> None:
    """Write `content` as JSON, as :func:`write_atomically` does. Numbers that JSON can't hold are refused."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n", aside)


def other_names(*paths: Path) -> list[Path]:
    """Names for files that are to be kept though others take their place: `attack.1.json`, or the next number that is free for all."""
    names = ([path.with_name(f"{path.stem}.{n}{path.suffix}") for path in paths] for n in itertools.count(1))
    return next(each for each in names if not any(name.exists() for name in each))


def writable_folder(path: str | os.PathLike) -> Path:
    """Make the folder at `path` if need be; :class:`InputError` unless files can be written to it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise cannot_write(path, error) from error


@contextlib.contextmanager
def locked(folder: Path, taken: str, name: str = ".lock") -> Iterator[None]:
    """Keep other processes that lock it, by a file of that name, out of a folder, which is made if need be.

    Raises:
        InputError: another process is in there (`taken` is what is said of the folder then), or it can't be written to.
    """
    path = writable_folder(folder) / name
    try:
        file = open(path, "w")
    except OSError as error:
        raise cannot_write(path, error) from error
    with file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in TAKEN:
                raise InputError(f"{folder} {taken}") from None
            # this file system has no locks
        yield


def _lock(file) -> None:
    """Lock a file for this process; the lock goes with the process, however it ends. OSError if it is taken."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error for a file or folder that can't be written, with what the user can do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"can't write {path}: the disk is full; what was there before is unharmed; free some space")
    return InputError(f"can't write {path}: {error.strerror or error}; choose another folder or mend its permissions")
