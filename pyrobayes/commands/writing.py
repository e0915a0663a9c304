"""Writing the results and figures of a command into a folder."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from pyrobayes import distributed
from pyrobayes.data.images import Images
from pyrobayes.files import locked, writable_folder
from pyrobayes.options import (
    PRETRAINED,
    EvaluationOptions,
)
from pyrobayes.results import figures
from pyrobayes.results.store import FILES, Provenance, earlier

RESUMED = ("attack", "evaluate")  # commands that keep what an earlier run left, where they are asked to


@contextlib.contextmanager
def writing(command: str, out: str | os.PathLike | None, runs: str | os.PathLike) -> Iterator[Path | None]:
    """The folder for the results of a command, of which another process can't write the same meanwhile."""
    folder = result_folder(results_in(out, runs))
    taken = f"is where another process writes the results of 'pyrobayes {command}'; choose another folder (--out)"
    with locked(folder, taken, f".{command}.lock") if folder else contextlib.nullcontext():
        try:
            yield folder
        except KeyboardInterrupt as interrupt:
            kept = (
                f"interrupted; the results of models that were finished are in {results_in(out, runs) / FILES[command]}"
            )
            raise KeyboardInterrupt(
                str(interrupt) or kept + (", and --resume keeps them" if command in RESUMED else "")
            ) from None


def results_in(out: str | os.PathLike | None, runs: str | os.PathLike) -> Path:
    """Where results go: beside the models, if nothing else is asked for and these don't come with the package."""
    return Path(out or ("runs" if Path(runs) == PRETRAINED else runs))


def result_folder(path: str | os.PathLike) -> Path | None:
    """The folder for results; None in a process that doesn't write any."""
    return writable_folder(path) if distributed.rank() == 0 else None


def reusable_results(
    command: str, options: EvaluationOptions, test: Images, named: Mapping[str, Provenance], folder: Path
) -> tuple[list, dict[str, Provenance]]:
    """What an earlier run of a command left in a folder: results of the same options, versions, data and weights.

    Of models that aren't named now they are kept too; how these were trained comes second.
    """
    found = earlier(folder, command, options, test)
    distributed.wait_for_all()  # before the first process writes what the others read
    if found is None:
        return [], {}
    same = {model: each for model, each in found.trained.items() if named.get(model, each) == each}
    beside = {model: each for model, each in same.items() if model not in named}
    return [result for result in found.results if result.model in same], beside


def draw(path: Path, drawn: Callable[..., Figure], *given) -> None:
    """Draw a figure in place of one that may be of earlier results, and isn't left beside others if this one fails."""
    figures.remove(path)
    figures.save(drawn(*given), path)


def draw_missing(folder: Path | None, name: str, results: Sequence, drawn: Callable[..., Figure], *given) -> None:
    """Draw the figures that an interruption left out, of results that are kept."""
    for result in results if folder else ():
        if not is_drawn(path := folder / f"{name}-{result.model}"):
            draw(path, drawn, result, *given)


def is_drawn(path: Path) -> bool:
    """Whether a figure is there; it is drawn after its results are written, so that an interruption may leave them without."""
    return path.with_name(f"{path.name}.png").is_file()
