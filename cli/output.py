"""How the command line shows tables and progress."""

import json
import sys
import time

import click

from pyrobayes.torchrun import rank

EVERY = 10.0  # seconds between the plain lines in a log


class Progress:
    """On a terminal a bar with rate and remaining time, else plain lines; see :class:`pyrobayes.Progress`."""

    def __init__(self):
        self.model: str | None = None  # the one at work
        self._bar = self._unit = None
        self._first = self._done = 0
        self._started = self._last = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *failure) -> None:
        self.close()

    def step(self, model: str, done: int, steps: int, elbo: float) -> None:
        self._advance(model, done, steps, "step", f"ELBO {elbo:.2f}")

    def images(self, model: str, done: int, images: int) -> None:
        self._advance(model, done, images, "image", "")

    def epoch(self, model: str, epoch, epochs: int) -> None:
        if rank():
            return
        from tqdm import tqdm

        line = (
            f"{model}  epoch {epoch.epoch}/{epochs}  ELBO {epoch.elbo:.2f}  validation: ELBO {epoch.validation_elbo:.2f}, "
            f"KL {epoch.validation_kl:.2f} nats, accuracy {100 * epoch.validation_accuracy:.1f}%  ({epoch.seconds:.0f} s)"
        )
        tqdm.write(line, file=sys.stderr)
        self._last = time.monotonic()
        if epoch.collapsed and epoch.epoch == epochs:
            tqdm.write(
                f"warning: the posterior of {model} has collapsed: z says as good as nothing of the image and its class "
                f"(KL {epoch.validation_kl:.2f} nats); try more --kl-warmup, more --epochs or another --lr",
                file=sys.stderr,
            )

    def _advance(self, model: str, done: int, total: int, unit: str, note: str) -> None:
        if rank():
            return
        from tqdm import tqdm

        now = time.monotonic()
        if (model, unit) != (self.model, self._unit) or done < self._done:  # another pass over the images
            self.close()
            self.model, self._unit, self._started, self._last, self._first = model, unit, now, now, done
        self._done = done
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, initial=done, desc=model, unit=unit, leave=False, dynamic_ncols=True)
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif now - self._last >= EVERY or (unit == "image" and done == total):
            self._last = now
            rate = (done - self._first) / max(now - self._started, 1e-9)
            left = f"{rate:.1f} {unit}s/s, {(total - done) / rate:.0f} s left" if rate else ""
            click.echo(f"{model}  {unit} {done}/{total}  {left}  {note}".rstrip(), err=True)
        if done == total:
            self.close()

    def close(self) -> None:
        """End the bar; the next model starts another one."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def results_of(compute, models, options, as_json: bool, *, runs, **given) -> list:
    """What a call of the library finds on trained models, with progress and warnings; none where it is printed as JSON."""
    with Progress() as progress:
        results = compute(models, options, runs=runs, progress=progress, **given)
    warn_of_unfinished(dict.fromkeys(result.model for result in results), runs)
    if not as_json:
        return results
    click.echo(json.dumps([result.as_dict() for result in results], indent=2))
    return []


def table(header: list[str], rows: list[list[str]]) -> None:
    """Print rows under a header, columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        click.echo("  ".join(cells).rstrip())


def warn_of_unfinished(models, runs) -> None:
    """Say which models were taken although their training hasn't ended."""
    from pathlib import Path

    from pyrobayes.results.store import Provenance

    for model in () if rank() else models:
        run = Provenance.read(Path(runs) / model)
        if run.epochs < (epochs := run.config.training.epochs):
            click.echo(f"warning: {model} has {run.epochs} of {epochs} epochs of its training behind it", err=True)


def tell_caveats(results) -> None:
    """Say what noise and approximations change of results."""
    from pyrobayes.results.caveats import caveats

    for line in caveats(results):
        click.echo(line)
