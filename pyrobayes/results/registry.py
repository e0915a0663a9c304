"""Commands that write results: each registers what its file holds, and how the report shows it.

:mod:`pyrobayes.commands` registers those of the package when it is imported. Another one registers itself likewise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyrobayes.errors import InputError


@dataclass(frozen=True)
class ResultCommand:
    """A command that measures trained models and writes what it found.

    The records of its results have `model`, `images` and `data` (the name of the test images); where several attacks are
    told apart, `attack`, and where several sigmas of noise are, `sigma`; and `accuracy` or `clean_accuracy` where the summary may tell it. The section gets the command's
    :class:`pyrobayes.results.store.SavedResults`, the names of the figures that are there, and the results of all commands
    by name; it gives the Markdown blocks of the report.
    """

    name: str  # as it is typed
    file: str  # the name of its file of results
    options: type  # the record of its options, a :class:`pyrobayes.options.EvaluationOptions`
    record: type  # of one result
    done: str  # the report says that so many images were done
    section: Callable[..., list[str]]
    sentences: Callable[[Any], list[str]] = lambda result: []  # on one result, for the summary of its model
    figures: tuple[str, ...] = ()  # patterns of the names of its figures, which are set aside with their results
    overview: str | None = None  # the stem of the figure of all results, which is removed when one of them changes
    beside: str | None = None  # a pattern of other files that belong to the results, and are set aside with them
    joint: bool = False  # a result depends on all models that were named: all results are reused or none
    resumed: bool = False  # an interrupted command goes on without being asked to


_commands: dict[str, ResultCommand] = {}


def register(command: ResultCommand) -> ResultCommand:
    """Add a command; a later one of the same name takes its place."""
    _commands[command.name] = command
    return command


def registered() -> dict[str, ResultCommand]:
    """All commands by name, in the order of the report."""
    if not _commands:
        raise InputError("no command is known yet that writes results: import pyrobayes.commands first")
    return dict(_commands)
