"""`pyrobayes report`: write the report of results again."""

from pathlib import Path

from pyrobayes.commands.context import Context
from pyrobayes.results import report as reports
from pyrobayes.results.store import read_reproduction, read_results  # noqa: F401  (with all commands registered)


def report(context: Context = Context()) -> list[Path]:
    """Write `report.md` and `report.html` of the results in a folder; see :func:`pyrobayes.results.report.write`."""
    return reports.write(context.results, context.runs)
