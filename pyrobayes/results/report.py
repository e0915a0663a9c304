"""A report of results: `report.md`, and the same as one HTML page, `report.html`, that needs no other file.

It is made of the results and figures that are in a folder, so that it can be written again at any time. The same files
give the same bytes.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyrobayes import factorizations
from pyrobayes.errors import InputError
from pyrobayes.factorizations import Structure
from pyrobayes.files import write_atomically
from pyrobayes.results.configuration import configuration_section, names_of, selection, trainings
from pyrobayes.results.markdown import Markdown, listed, text
from pyrobayes.results.page import page
from pyrobayes.results.registry import registered
from pyrobayes.results.sections import (
    reproduction_section,
    same_verdict,
    samples_section,
    summary,
)
from pyrobayes.results.store import Provenance, SavedReproduction, SavedResults, read_reproduction, read_results
from pyrobayes.results.tables import CODE, LAST_EPOCH, NUMBER, TEXT, Table
from pyrobayes.results.templates import render
from pyrobayes.torchrun import rank
from pyrobayes.training.checkpoint import METRICS, Config
from pyrobayes.training.metrics import Epoch, read_metrics

MARKDOWN, HTML = "report.md", "report.html"
Found = Mapping[str, SavedResults]


def write(folder: str | os.PathLike, runs: str | os.PathLike | None = None) -> list[Path]:
    """Write `report.md` and `report.html` of the results in a folder; returns both paths.

    Under torchrun the first process writes, and the others return an empty list.

    Args:
        folder: of the results and their figures.
        runs: of the trained models, whose last epoch is told where they are; `folder` where left out.

    Raises:
        InputError: there are no results, or a file is damaged.
    """
    if rank():
        return []
    folder, found, published = Path(folder), read_results(folder), read_reproduction(folder)
    if not found and not published:
        commands = listed(f"'pyrobayes {name}'" for name in registered())
        files = listed(command.file for command in registered().values())
        raise InputError(f"no results in {folder}: {files} are made by {commands}")
    figures = sorted(path.name for path in folder.glob("*.png"))
    content = markdown(found, figures, _last_epochs(found, Path(runs or folder)), published)
    written = {folder / MARKDOWN: content, folder / HTML: page(content, folder)}
    for path, text_of_it in written.items():
        write_atomically(path, text_of_it)
    return list(written)


def refuse_damaged(folder: str | os.PathLike, written: Sequence[str]) -> None:
    """Refuse damaged results that a report would show, except for those that these commands are about to write."""
    read_results(folder, [command for command in registered() if command not in written])
    if "reproduce" not in written:
        read_reproduction(folder)


def markdown(
    found: Found,
    figures: Sequence[str] = (),
    last_epochs: Mapping[str, Epoch] | None = None,
    published: SavedReproduction | None = None,
) -> str:
    """The report, in GitHub's Markdown.

    Args:
        found: as :func:`pyrobayes.results.store.read_results` gives it.
        figures: file names of the figures that are there.
        last_epochs: by the SHA-256 of weights, the last epoch of their training.
        published: as :func:`pyrobayes.results.store.read_reproduction` gives it.
    """
    reproduced = published and reproduction_section(published, figures, HTML)
    if not found:
        return f"# Reproduction on {text(published.data)}\n\n{reproduced}\n"
    models = list(dict.fromkeys(result.model for each in found.values() for result in each.results))
    sections = [Markdown(f"## Reproduction\n\n{reproduced}")] if published else []
    for command, saved in found.items():
        sections += registered()[command].section(saved, figures, found)
    sections += [*samples_section(models, figures), configuration_section(found)]
    return (
        render(
            "report",
            data=dict.fromkeys(each.data["name"] for each in found.values()),
            extent=_extent(found),
            models=[_summary(found, model) for model in models],
            unfinished=_unfinished(found),
            trainings=_models(found, models, last_epochs or {}),
            sections=sections,
            **_unjudged(found),
        )
        + "\n"
    )


def _last_epochs(found: Found, runs: Path) -> dict[str, Epoch]:
    """By weights, the last epoch of their training, where the run is the one that the results are of."""
    last = {}
    for model, trained in trainings(found):
        try:
            same = Config.read(runs / model) == trained.config
        except InputError:  # the results need no run
            continue
        if same and (runs / model / METRICS).is_file():
            epochs = read_metrics(runs / model / METRICS)
            last |= {trained.weights: epochs[-1]} if len(epochs) == trained.epochs > 0 else {}
    return last


def _extent(found: Found) -> list[str]:
    """How many images of which data were measured by each command."""
    several = len({each.data["name"] for each in found.values()}) > 1
    return [
        f"{max(result.images for result in saved.results):,} {saved.data['split']} images"
        f"{' of ' + saved.data['name'] if several else ''} {registered()[command].done}"
        for command, saved in found.items()
    ]


def _summary(found: Found, model: str) -> Markdown:
    return Markdown(f"**{text(model.upper())}** {' '.join(map(text, summary(found, model)))}")


def _unfinished(found: Found) -> list[tuple[str, list[str]]]:
    """Commands that an interruption left without results of some models."""
    missing = {command: [model for model in each.models if not each.of(model)] for command, each in found.items()}
    return [(command, [model.upper() for model in models]) for command, models in missing.items() if models]


def _unjudged(found: Found) -> dict:
    """Models that were attacked and have no verdict, the attacks, and the command that judges them."""
    results = found["attack"].results if "attack" in found else []
    attacked = list(dict.fromkeys(result.model for result in results))
    judged = {result.model for result in found["robustness"].results} if "robustness" in found else set()
    return {
        "unjudged": [
            model.upper() + (" as it was attacked" if model in judged else "")
            for model in attacked
            if not same_verdict(found, model)
        ],
        "attacks": list(dict.fromkeys(result.attack.upper() for result in results)),
        "judging": shlex.join(["pyrobayes", "robustness", *attacked, *selection(found["attack"])]) if results else "",
    }


def _models(found: Found, models: Sequence[str], last_epochs: Mapping[str, Epoch]) -> Table:
    """One row a training: the joint density, and the last epoch where it is known."""
    trained: list[tuple[str, Provenance | None]] = [*trainings(found)]
    trained += [(model, None) for model in models if model not in dict(trained)]
    trained.sort(key=lambda each: models.index(each[0]))
    shown = LAST_EPOCH[1:] if last_epochs else []
    rows = []
    for (model, training), name in zip(trained, names_of(trained)):
        last = last_epochs.get(training.weights) if training else None
        epochs = f"{training.epochs}" if training else "-"
        rows.append([name, *_density(model), epochs, *(column.cell(last) if last else "-" for column in shown)])
    header = ["model", "joint density", "kind", "epochs", *(column.header for column in shown)]
    return Table(header, [TEXT, CODE, TEXT, *[NUMBER] * (1 + len(shown))], rows)


def _density(model: str) -> tuple[str, str]:
    """The formula of a factorization and its kind; dashes for one that isn't registered here."""
    if model not in factorizations.names(comparators=True):
        return "-", "-"
    formula = factorizations.get(model).formula()
    return formula, "generative" if Structure.of_formula(formula).generative else "discriminative"
