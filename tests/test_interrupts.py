"""Signals that ask a process to stop: one message, the exit status that shells expect, and no traceback."""

import os
import pty
import signal
import subprocess
import sys

import pytest
from support import FEW_IMAGES, LONG_TRAINING, wait_until

from pyrobayes.interrupts import Interrupted, postponed, raised
from pyrobayes.tensor_files import read_tensors
from pyrobayes.training.checkpoint import RESUME

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers():
    """A test leaves the handlers as they were."""
    before = [*map(signal.getsignal, SIGNALS)]
    yield
    assert [*map(signal.getsignal, SIGNALS)] == before


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_where_the_program_is(number):
    with raised(), pytest.raises(Interrupted) as told:
        send(number)
    assert told.value.status == 128 + number and not str(told.value)
    kept = Interrupted.after(told.value, "half is kept")
    assert str(kept) == "half is kept" and kept.status == 128 + number
    assert Interrupted.after(KeyboardInterrupt(), "").status == 130


@pytest.mark.parametrize("number", SIGNALS)
def test_a_first_signal_waits_and_a_second_one_does_not(number):
    with postponed() as received:
        assert received() == 0
        send(number)
        assert received() == number
        with pytest.raises(Interrupted):
            send(number)


def test_a_second_signal_waits_too_under_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with postponed() as received:
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert received() == signal.SIGINT


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with raised(), postponed() as received:
            send(signal.SIGHUP)
            assert received() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


IMPORT_INTERRUPTED = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.{signal})
sys.meta_path.insert(0, Interrupts())
sys.argv = ["pyrobayes", "evaluate", "gbz", "--runs", "nowhere"]
from pyrobayes_cli.__main__ import start
start()
"""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pyrobayes.errors", "SIGINT"),
        ("click", "SIGINT"),
        ("torch", "SIGINT"),
        ("numpy", "SIGTERM"),
        ("tqdm", "SIGHUP"),
    ],
)
def test_an_interrupt_while_libraries_load_is_one_line(module, name):
    code = IMPORT_INTERRUPTED.format(module=module, signal=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (128 + getattr(signal, name), "", "\ninterrupted\n")


def start_training(folder, **how):
    command = [sys.executable, "-c", FEW_IMAGES, "train", "gbz", *LONG_TRAINING, "--runs", str(folder)]
    how = {"stderr": subprocess.PIPE, "env": os.environ | {"OMP_NUM_THREADS": "1"}} | how
    process = subprocess.Popen(command, text=True, **how)
    wait_until((folder / "gbz" / RESUME).is_file)
    return process


def test_a_training_that_is_terminated_is_saved_and_says_so(tmp_path):
    process = start_training(tmp_path)
    process.terminate()
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    line = told.splitlines()[-1]
    assert "stopped a" in line and "of 5000; to go on: pyrobayes train gbz" in line and line.endswith("--resume")
    assert "Traceback" not in told
    assert read_tensors(tmp_path / "gbz" / RESUME)


def test_a_training_whose_terminal_closes_is_saved(tmp_path):
    main, terminal = pty.openpty()
    process = start_training(
        tmp_path, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, preexec_fn=own_terminal
    )
    os.close(terminal)
    os.close(main)  # as a window does that closes: the kernel sends SIGHUP
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert read_tensors(tmp_path / "gbz" / RESUME)


def own_terminal():
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
