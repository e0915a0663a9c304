"""Files that are replaced in one step, and folders that one process at a time writes to."""

import errno
import os
import shutil
import signal
import subprocess
import sys

import pytest

from pyrobayes import InputError
from pyrobayes.files import TEMPORARY, checksum, locked, parse_json, remove_leftovers, write_atomically

KILLED = """
import os, signal, sys
from pyrobayes.files import write_atomically
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(sys.argv[1], "half")
"""


def test_the_checksum_is_sha_256():
    assert checksum("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_killed_write_leaves_a_file_that_the_next_start_removes(tmp_path):
    for name in ("model.safetensors", "figure1.pdf"):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], timeout=60)
    others = [".model.safetensors", ".model.safetensors.bak", ".x.model.safetensors.12345678", "a.12345678.pyrobayes"]
    for name in others:
        (tmp_path / name).write_text("mine")
    left = {path.name for path in tmp_path.iterdir()} - set(others)
    assert sorted(TEMPORARY.fullmatch(name)[1] for name in left) == ["figure1.pdf", "model.safetensors"]
    remove_leftovers(tmp_path, "model.safetensors", "config.json")
    left = {path.name for path in tmp_path.iterdir()} - set(others)
    assert [TEMPORARY.fullmatch(name)[1] for name in left] == ["figure1.pdf"]
    remove_leftovers(tmp_path, "figure*")
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_all_leftovers_go_where_no_name_is_given(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], timeout=60)
    assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "absent")
    assert not list(tmp_path.iterdir())


def test_a_lock_knows_whether_its_folder_is_still_there(tmp_path):
    with locked(tmp_path / "run", "is taken") as lock:
        lock.check()
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(InputError, match="run was deleted or replaced"):
            lock.check()
        with locked(tmp_path / "run", "is taken") as another:  # of another process that starts there
            another.check()
            with pytest.raises(InputError, match="run was deleted or replaced"):
                lock.check()
    assert not lock.path.parent.joinpath("anything").exists()


def test_a_lock_that_is_taken_is_told_and_is_free_after_a_kill(tmp_path):
    code = "import sys, time; from pyrobayes.files import locked\nwith locked(sys.argv[1], 'x'): print(flush=True); time.sleep(60)"
    code = code.replace("sys.argv[1]", "__import__('pathlib').Path(sys.argv[1])")
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    holder.stdout.readline()
    with pytest.raises(InputError, match=f"{tmp_path} is taken"):
        with locked(tmp_path, "is taken"):
            pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    with locked(tmp_path, "is taken") as lock:
        lock.check()


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told(tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(InputError, match="can't write .*run: Permission denied; choose another folder"):
        with locked(tmp_path / "run", "is taken"):
            pass


@pytest.mark.parametrize(
    "number, told",
    [
        (errno.ENOSPC, "the disk is full; what was there before is unharmed; free some space"),
        (errno.EDQUOT, "the quota of the disk is used up; what was there before is unharmed; free some space"),
        (errno.EFBIG, "is larger than is allowed here; what was there before is unharmed; raise the limit"),
        (errno.EISDIR, "a folder is in its place; move that folder elsewhere"),
        (errno.EROFS, "Read-only file system; choose another folder or mend its permissions"),
        (errno.EIO, "Input/output error; choose another folder$"),
    ],
)
def test_the_advice_fits_the_error(number, told, tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    (tmp_path / "file").write_text("before")
    with monkeypatch.context() as patched, pytest.raises(InputError, match=f"can't write .*file: .*{told}"):
        patched.setattr("pyrobayes.files.os.fsync", fail)
        write_atomically(tmp_path / "file", "after")
    assert (tmp_path / "file").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_a_lock_file_that_is_a_folder_is_told(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match=r"can't write .*\.lock"):
        with locked(tmp_path, "is taken"):
            pass


def test_json_that_is_nested_too_deep_is_a_value_error():
    assert parse_json("[1]") == [1]
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json("[" * 200_000 + "]" * 200_000)


def test_writing_replaces_in_one_step(tmp_path):
    write_atomically(tmp_path / "new" / "file", "one")
    write_atomically(tmp_path / "new" / "file", b"two", aside=tmp_path / "new" / "aside")
    assert (tmp_path / "new" / "file").read_text() == "two" and (tmp_path / "new" / "aside").read_text() == "one"
    assert len(list((tmp_path / "new").iterdir())) == 2
