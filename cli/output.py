"""How the command line shows results."""

import json

import click

from pyrobayes.progress import ProgressBar
from pyrobayes.torchrun import rank


def results_of(compute, models, options, where, as_json: bool, **given) -> list:
    """The results of a command of the library, with progress and warnings; none where they are printed as JSON."""
    with ProgressBar(lines=True) as progress:
        results = compute(models, options, where.context(progress=progress), **given)
    warn_of_unfinished(dict.fromkeys(result.model for result in results), where.runs)
    if not as_json:
        return results
    from pyrobayes.codec import encode

    click.echo(json.dumps(encode(results), indent=2))
    return []


def show(table) -> None:
    """Print a table of :mod:`pyrobayes.results.tables`."""
    click.echo(table.as_text())


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
