"""A report of results: `report.md`, and the same as one HTML page, `report.html`, that needs no other file.

It is made of the results and figures that are in a folder, so that it can be written again at any time. The same files
give the same bytes.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from pyrobayes import factorizations
from pyrobayes.errors import InputError
from pyrobayes.factorizations import Structure
from pyrobayes.files import write_atomically
from pyrobayes.results import sections
from pyrobayes.results.configuration import configuration_section, names_of, selection, trainings
from pyrobayes.results.markdown import Markdown, listed, text
from pyrobayes.results.page import page, render
from pyrobayes.results.registry import registered
from pyrobayes.results.sections import Found
from pyrobayes.results.store import SavedReproduction, read_reproduction, read_results
from pyrobayes.results.tables import CODE, LAST_EPOCH, NUMBER, TEXT, Table
from pyrobayes.torchrun import rank
from pyrobayes.training.checkpoint import METRICS, Config
from pyrobayes.training.metrics import Epoch, read_metrics

MARKDOWN, HTML = "report.md", "report.html"


def write(folder: str | os.PathLike, runs: str | os.PathLike | None = None) -> list[Path]:
    """Write `report.md` and `report.html` of the results in a folder; returns both paths.

    Under torchrun the first process writes, and the others return an empty list. `runs` has the trained models, whose
    last epoch is told where they are; it is `folder` where left out.

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
    content = _markdown(found, figures, Path(runs or folder), published)
    written = {folder / MARKDOWN: content, folder / HTML: page(content, folder)}
    for path, page_or_text in written.items():
        write_atomically(path, page_or_text)
    return list(written)


def refuse_damaged(folder: str | os.PathLike, written: Sequence[str]) -> None:
    """Refuse damaged results that a report would show, except for those that these commands are about to write."""
    read_results(folder, [command for command in registered() if command not in written])
    if "reproduce" not in written:
        read_reproduction(folder)


def _markdown(found: Found, figures: Sequence[str], runs: Path, published: SavedReproduction | None) -> str:
    reproduced = published and sections.reproduction_section(published, figures, HTML)
    if not found:
        return f"# Reproduction on {text(published.data)}\n\n{reproduced}\n"
    models = list(dict.fromkeys(result.model for each in found.values() for result in each.results))
    shown = [Markdown(f"## Reproduction\n\n{reproduced}")] if published else []
    for command, saved in found.items():
        shown += registered()[command].section(saved, figures, found)
    missing = {
        command: [model.upper() for model in each.models if not each.of(model)] for command, each in found.items()
    }
    values = {
        "data": dict.fromkeys(each.data["name"] for each in found.values()),
        "extent": _extent(found),
        "models": {model: sections.summary(found, model) for model in models},
        "unfinished": {command: each for command, each in missing.items() if each},
        "trainings": _trainings(found, models, runs),
        "sections": [*shown, *sections.samples_section(models, figures), configuration_section(found)],
    }
    return render("report", **values, **_unjudged(found)) + "\n"


def _extent(found: Found) -> list[str]:
    """How many images of which data were measured by each command."""
    several = len({each.data["name"] for each in found.values()}) > 1
    return [
        f"{max(result.images for result in saved.results):,} {saved.data['split']} images"
        f"{' of ' + saved.data['name'] if several else ''} {registered()[command].done}"
        for command, saved in found.items()
    ]


def _unjudged(found: Found) -> dict:
    """Models that were attacked and have no verdict, the attacks, and the command that judges them."""
    results = found["attack"].results if "attack" in found else []
    attacked = list(dict.fromkeys(result.model for result in results))
    judged = {result.model for result in found["robustness"].results} if "robustness" in found else set()
    unjudged = [model for model in attacked if not sections.same_verdict(found, model)]
    return {
        "unjudged": [model.upper() + (" as it was attacked" if model in judged else "") for model in unjudged],
        "attacks": list(dict.fromkeys(result.attack.upper() for result in results)),
        "judging": shlex.join(["pyrobayes", "robustness", *selection(found["attack"], attacked)]) if results else "",
    }


def _trainings(found: Found, models: Sequence[str], runs: Path) -> Table:
    """One row a training: the joint density, and the last epoch where it is known."""
    trained = [*trainings(found)]
    trained += [(model, None) for model in models if model not in dict(trained)]
    trained.sort(key=lambda each: models.index(each[0]))
    last_epochs = [_last_epoch(runs / model, training) if training else None for model, training in trained]
    shown = LAST_EPOCH[1:] if any(last_epochs) else []
    rows = []
    for (model, training), name, last in zip(trained, names_of(trained), last_epochs):
        epochs = f"{training.epochs}" if training and training.config else "-"
        rows.append([name, *_density(model), epochs, *(column.cell(last) if last else "-" for column in shown)])
    header = ["model", "joint density", "kind", "epochs", *(column.header for column in shown)]
    return Table(header, [TEXT, CODE, TEXT, *[NUMBER] * (1 + len(shown))], rows)


def _last_epoch(run: Path, training) -> Epoch | None:
    """The last epoch of a training, where the run is the one that the results are of."""
    try:
        same = Config.read(run) == training.config
    except InputError:  # the results need no run
        return None
    epochs = read_metrics(run / METRICS) if same and (run / METRICS).is_file() else []
    return epochs[-1] if len(epochs) == training.epochs > 0 else None


def _density(model: str) -> tuple[str, str]:
    """The formula of a factorization and its kind; dashes for one that isn't registered here."""
    if model not in factorizations.names(comparators=True):
        return "-", "-"
    formula = factorizations.get(model).formula()
    return formula, "generative" if Structure.of_formula(formula).generative else "discriminative"
