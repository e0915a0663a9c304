"""`pyrobayes report`."""

import click

from pyrobayes_cli import options


@click.command("report", short_help="Write the report of results again.")
@options.runs
@click.option("--out", type=click.Path(file_okay=False), help="folder of the results [default: --runs]")
def command(runs, out):
    """Write report.html and report.md of the results in a folder.

    `reproduce` and `robustness` end with it. Here it is made of whatever evaluation.json, attack.json, detection.json,
    robustness.json, reproduction.json and figures are there. The page needs no other file; the Markdown shows the figures beside it.

    \b
    Example:
      pyrobayes report
    """
    from pyrobayes.commands.context import Context
    from pyrobayes.commands.report import report

    click.echo(f"Wrote {' and '.join(map(str, report(Context(runs=runs, out=out))))}.")
