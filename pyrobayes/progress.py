"""Progress of long work: what the library reports to its caller, and a bar that shows it."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable

from pyrobayes.errors import InputError
from pyrobayes.torchrun import rank

EVERY = 10.0  # seconds between two lines in a log


class Progress:
    """Receives what happens. The methods do nothing here; override those of interest."""

    def step(self, model: str, done: int, steps: int, elbo: float) -> None:
        """A training step was taken: `done` of all `steps`, with this ELBO in nats per image."""

    def epoch(self, model: str, epoch, epochs: int) -> None:
        """An epoch of `epochs` ended; `epoch` is a :class:`pyrobayes.training.metrics.Epoch`."""

    def images(self, model: str, done: int, images: int) -> None:
        """`done` of all `images` have been evaluated or attacked."""

    def part(self, name: str, done: float, of: float) -> None:
        """The part called `name` begins; `done` of all `of` units of work lie behind, such as measurements of a verdict."""

    def note(self, message: str) -> None:
        """Something that the user should know, such as a damaged file that is made anew."""

    def written(self, what: str, path) -> None:
        """The path of a result worth a look at once, such as figure 1 of a reproduction that goes on."""


silent = Progress()


class ProgressBar(Progress, contextlib.AbstractContextManager):
    """A bar with rate and remaining time on standard error, where that is a terminal or in a notebook.

    Elsewhere it writes a line every ten seconds, if asked for `lines`. Of several processes the first one speaks.
    The attribute `model` names the model at work; it is None before the first.
    """

    def __init__(self, lines: bool = False):
        self.model: str | None = None
        self._lines, self._bar, self._unit = lines, None, ""
        self._first = self._done = 0
        self._started = self._last = time.monotonic()
        self._part, self._parts_began = "", None

    def __exit__(self, *failure) -> None:
        self.close()

    def step(self, model: str, done: int, steps: int, elbo: float) -> None:
        self._advance(model, done, steps, "step", f"ELBO {elbo:.2f}")

    def images(self, model: str, done: int, images: int) -> None:
        self._advance(model, done, images, "image", self._part)

    def epoch(self, model: str, epoch, epochs: int) -> None:
        self._write(
            f"{model}  epoch {epoch.epoch}/{epochs}  ELBO {epoch.elbo:.2f}  validation: ELBO {epoch.validation_elbo:.2f}, "
            f"KL {epoch.validation_kl:.2f} nats, accuracy {100 * epoch.validation_accuracy:.1f}%  ({epoch.seconds:.0f} s)"
        )
        self._last = time.monotonic()
        if epoch.collapsed and epoch.epoch == epochs:
            self.note(
                f"the posterior of {model} has collapsed: z carries almost no information on the image and its "
                f"class (KL {epoch.validation_kl:.2f} nats); try a longer KL warm-up, more epochs or another learning rate"
            )

    def part(self, name: str, done: float, of: float) -> None:
        now = time.monotonic()
        if self._parts_began is None or done <= self._parts_began[1]:  # the parts of another verdict
            self._parts_began = now, done
        began, first = self._parts_began
        left = f", about {duration((now - began) / (done - first) * (of - done))} left in all" if done > first else ""
        self._part = f"{name}: {100 * done / of:.0f}% of all done{left}" if of else name

    def note(self, message: str) -> None:
        self._write(f"warning: {message}")

    def written(self, what: str, path) -> None:
        self._write(f"{what}: {path}")

    def close(self) -> None:
        """End the bar; the next model starts another one."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with contextlib.suppress(OSError):
                bar.close()

    def _advance(self, model: str, done: int, total: int, unit: str, note: str) -> None:
        now = time.monotonic()
        if (model, unit) != (self.model, self._unit) or done < self._done:  # another pass over the images
            self.close()
            self.model, self._unit, self._started, self._last, self._first = model, unit, now, now, done
        self._done = done
        if not rank():
            with contextlib.suppress(OSError):  # the terminal may have gone; the work goes on
                self._show(now, done, total, note)

    def _show(self, now: float, done: int, total: int, note: str) -> None:
        model, unit = self.model, self._unit
        if has_display():
            if self._bar is None:
                self._bar = _tqdm()(total=total, initial=done, desc=model, unit=unit, leave=False, dynamic_ncols=True)
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif now - self._last >= EVERY or (unit == "image" and done == total):
            self._last = now
            rate = (done - self._first) / max(now - self._started, 1e-9)
            left = f"{rate:.1f} {unit}s/s, {(total - done) / rate:.0f} s left" if rate else ""
            self._write(f"{model}  {unit} {done}/{total}  {left}  {note}".rstrip())
        if done == total:
            self.close()

    def _write(self, line: str) -> None:
        if rank() or not (self._lines or has_display()):
            return
        with contextlib.suppress(OSError):  # the terminal may have gone
            if has_display():
                _tqdm().write(line, file=sys.stderr)
            else:
                print(line, file=sys.stderr, flush=True)


def has_display() -> bool:
    """True if somebody can watch a bar: standard error is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config


def _tqdm():
    """The class of the bar: a notebook's where the package ipywidgets can draw one, else a terminal's."""
    from tqdm import tqdm

    if _in_notebook():
        with contextlib.suppress(ImportError):
            import ipywidgets  # noqa: F401
            from tqdm.notebook import tqdm
    return tqdm


def duration(seconds: float) -> str:
    """A time as people say it: `40 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def receiver(progress: Progress | bool | None) -> contextlib.AbstractContextManager[Progress]:
    """The object to report to: a bar for True, a silent one for False and None, and a given one as it is."""
    if not isinstance(progress, Progress | bool | None):
        raise InputError(f"progress must be True, False or a pyrobayes.Progress, got {progress!r}")
    return ProgressBar() if progress is True else contextlib.nullcontext(progress or silent)


def shows_progress(function: Callable) -> Callable:
    """Decorator: the function's argument `progress` may be True, which shows a bar and is the default, or False or None."""

    @functools.wraps(function)
    def showing(*arguments, progress: Progress | bool | None = True, **options):
        with receiver(progress) as given:
            return function(*arguments, progress=given, **options)

    return showing
