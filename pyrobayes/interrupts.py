"""Signals that ask a process to stop: Ctrl-C (SIGINT), SIGTERM of schedulers, SIGHUP of a terminal that closes.

All three become an :class:`Interrupted`. A signal that the process ignores, as SIGHUP under `nohup`, stays ignored.
Under `torchrun` a second signal is ignored: it passes on what the terminal has sent to its processes already, and ends
those that take too long.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

from pyrobayes.torchrun import started

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """The signal `number` stopped the work. The message says how far the work came; it may be empty."""

    def __init__(self, message: str = "", number: int = signal.SIGINT):
        super().__init__(message)
        self.number = int(number)
        self.status = 128 + self.number  # which shells expect

    @classmethod
    def after(cls, interrupt: KeyboardInterrupt, message: str) -> "Interrupted":
        """This signal with another message, such as what was kept."""
        return cls(message, getattr(interrupt, "number", signal.SIGINT))


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within, the first of these signals raises :class:`Interrupted`; a second one ends the process at once.

    A first signal in the middle of an import ends the process too: libraries swallow an exception there.
    """
    received = []

    def handle(number, frame):
        if not received and not _importing(frame):
            received.append(number)
            raise Interrupted(number=number)
        if not received or not started():
            with contextlib.suppress(OSError, ValueError):  # the terminal may have gone
                os.write(sys.stderr.fileno(), b"\ninterrupted\n")
            os._exit(128 + number)

    with _handled(handle):
        yield


@contextlib.contextmanager
def postponed() -> Iterator[Callable[[], int]]:
    """Within, a first signal waits; yields a function that returns its number, or 0. A second signal stops at once."""
    received = []

    def handle(number, frame):
        received.append(number)
        if len(received) > 1 and not started():
            raise Interrupted(number=number)

    with _handled(handle):
        yield lambda: received[0] if received else 0


@contextlib.contextmanager
def _handled(handle: Callable) -> Iterator[None]:
    """Set a handler of all signals that aren't ignored; Python allows it in the main thread alone."""
    with contextlib.ExitStack() as restored:
        for number in SIGNALS if threading.current_thread() is threading.main_thread() else ():
            if (before := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                restored.callback(signal.signal, number, before)
                signal.signal(number, handle)
        yield


def _importing(frame) -> bool:
    return any(each.f_code.co_filename == "<frozen importlib._bootstrap>" for each, _ in traceback.walk_stack(frame))
