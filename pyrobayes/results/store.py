"""The store of results: one file for each command, which is locked, resumed, set aside and written again as results come.

A file has everything that is needed to get its results again, and a checksum.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pyrobayes import distributed
from pyrobayes.codec import decode, encode
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError
from pyrobayes.evaluation.reproduction import Claim, Comparison, Spread
from pyrobayes.files import locked, other_names, remove_leftovers, writable_folder
from pyrobayes.interrupts import Interrupted
from pyrobayes.options import EvaluationOptions
from pyrobayes.progress import Progress, silent
from pyrobayes.results import checked_file, figures
from pyrobayes.results.registry import ResultCommand, registered
from pyrobayes.tensor_files import digest
from pyrobayes.training.checkpoint import Config, read_model, versions

REPRODUCTION = "reproduction.json"
SAME_REPRODUCTION = ("recipe", "particles", "data", "seeds", "images", "versions")  # entries that tell two apart


@dataclass(frozen=True)
class Provenance:
    """How a model was trained: the epochs that are done, the SHA-256 of its weights, and its configuration."""

    epochs: int
    weights: str
    config: Config

    @classmethod
    def read(cls, run: Path) -> "Provenance":
        """The provenance of the model in a folder."""
        config, weights, epochs = read_model(run)
        return cls(epochs, digest(weights, {}), config)


@dataclass(frozen=True)
class SavedResults:
    """The content of a command's file.

    Attributes:
        options: the record of the command's options.
        data: name, split and checksum of the test images.
        versions: of the libraries.
        models: the models that the command was given; an interruption leaves some without results.
        trained: by model, its provenance.
        results: records of the command's kind.
    """

    options: Any
    data: dict[str, str]
    versions: dict[str, str]
    models: tuple[str, ...]
    trained: dict[str, Provenance]
    results: list

    def of(self, model: str) -> list:
        """The results of a model."""
        return [result for result in self.results if result.model == model]


class Damaged(InputError):
    """A file of results is damaged; `what` says how."""

    def __init__(self, path: Path, command: str, what: str):
        super().__init__(f"damaged file {path}: {what}; make it again with 'pyrobayes {command}', or move it elsewhere")
        self.what = what


class ResultStore:
    """The results of one command in a folder, from an earlier run or made now.

    It is a context: within, no other process writes the same results, and an interruption says what was kept.
    The file is written again with every result. A file of other options, versions, data or weights is first set aside
    as `attack.1.json`, with what belongs to it. Earlier results that fit stand until they are made again.
    Of several processes the first one writes.

    Args:
        command: the declaration of the command.
        folder: for the file and its figures.
        options, test: what the results are of.
        trained: the provenance of the models, by name.
        units: pairs of model and attack (None of commands that attack with none), in the order of the file.
        resume: reuse earlier results that fit, and keep those of models that aren't named now.
        reusable: tells an earlier result that may be reused; all may where left out.
        progress: told of a damaged file.
    """

    def __init__(
        self,
        command: ResultCommand,
        folder: Path,
        options: EvaluationOptions,
        test: Images,
        trained: Mapping[str, Provenance],
        units: Iterable[tuple[str, str | None]],
        *,
        resume: bool = False,
        reusable: Callable[[Any], bool] = lambda result: True,
        progress: Progress = silent,
    ):
        self.command, self.folder, self.path = command, folder, folder / command.file
        self.options, self.test, self.named, self.resume = options, test, dict(trained), resume
        self.trained, self.writes = dict(trained), distributed.rank() == 0
        self._made: dict[tuple, list | None] = dict.fromkeys(units)
        self._standing: list = []
        self._reusable, self._progress, self._set_aside = reusable, progress, False
        self._lock = self._within = None

    def __enter__(self) -> "ResultStore":
        self._within = contextlib.ExitStack()
        if self.writes:
            writable_folder(self.folder)
            taken = f"is where another process writes the results of 'pyrobayes {self.command.name}'; choose another folder (--out)"
            self._lock = self._within.enter_context(locked(self.folder, taken, f".{self.command.name}.lock"))
            remove_leftovers(self.folder, self.path.name, *filter(None, [self.command.beside]), *self.command.figures)
        try:
            if self.path.exists() and not self.path.is_file():
                raise InputError(f"{self.path} is where results are written, and is no file: move it elsewhere")
            self._take_over(self._earlier())
        except BaseException:
            self._within.close()
            raise
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._within.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and not str(error):
            finished = f"interrupted; the results of models that were finished are in {self.path}, and "
            more = "the same command" if self.command.resumed else "--resume"
            raise Interrupted.after(error, finished + f"{more} keeps them") from None

    @property
    def results(self) -> list:
        """All results, those of models that aren't named now too."""
        return [result for made in self._made.values() if made for result in made]

    def results_of_named(self) -> list:
        """The results of the models that are named now."""
        return [result for result in self.results if result.model in self.named]

    def has(self, model: str, attack: str | None = None) -> bool:
        """True if there are results of a unit."""
        return bool(self._made.get((model, attack)))

    def get(self, model: str, make: Callable[[], list], attack: str | None = None) -> tuple[list, bool]:
        """The results of a unit, and whether they were made now and written."""
        if self.has(model, attack):
            return self._made[model, attack], False
        self._made[model, attack] = make()
        self._write()
        return self._made[model, attack], True

    def draw(self, stem: str, new: bool, drawn: Callable[..., Figure], *given) -> None:
        """Draw a figure of new results, or one that an interruption left out."""
        path = self.folder / stem
        if self.writes and (new or not is_drawn(path)):
            figures.remove(path)  # an earlier figure mustn't stand beside new results if this one fails
            figures.save(drawn(*given), path)

    def _earlier(self) -> SavedResults | None:
        """The content of the file where it has the options, versions and data that are asked for."""
        saved = None
        try:
            saved = read_results(self.folder, [self.command.name]).get(self.command.name)
        except Damaged as error:
            self._progress.note(
                f"{self.path} is damaged ({error.what}): it is set aside, and its results are made anew"
            )
        distributed.wait_for_all()  # before the first process writes what the others read
        fits = saved and (described(self.test), versions()) == (saved.data, saved.versions)
        return saved if fits and saved.options.decisive == self.options.decisive else None

    def _take_over(self, saved: SavedResults | None) -> None:
        """Find which earlier results stand, and which are reused."""
        if saved is None:
            self._set_aside = True
            return
        same = {model: way for model, way in saved.trained.items() if self.named.get(model, way) == way}
        alike = saved.models == tuple(self.named)
        reused = [result for result in saved.results if self.resume and result.model in same]
        if self.command.joint:
            whole = alike and same.keys() == self.named.keys() == {result.model for result in reused}
            reused = reused if whole else []
        elif self.resume:
            self.trained |= {model: way for model, way in same.items() if model not in self.named}
        stands = saved.trained.items() <= self.trained.items() and (alike or self.resume and not self.command.joint)
        self._set_aside, self._standing = not stands, saved.results if stands else []
        for result in reused:
            if result.model not in self.named or self._reusable(result):
                unit = unit_of(result)
                self._made[unit] = [*(self._made.get(unit) or []), result]

    def _write(self) -> None:
        """Write all results that there are."""
        if not self.writes:
            return
        self._lock.check()
        results = self.results
        made = {unit_of(result) for result in results}
        results += [result for result in self._standing if unit_of(result) not in made]
        moved = self._new_names() if self._set_aside else {}
        beside = [path for path in moved if path != self.path]
        for path in beside:
            path.rename(moved[path])
        try:
            checked_file.write(self.path, encode(self._content(results)), moved.get(self.path))
        except InputError:  # nothing is replaced
            for path in beside:
                moved[path].rename(path)
            raise
        self._set_aside = False
        if self.command.overview:
            figures.remove(self.folder / self.command.overview)  # until it is drawn of all that there are now

    def _content(self, results: list) -> SavedResults:
        done = {result.model: self.trained[result.model] for result in results}
        return SavedResults(self.options, described(self.test), versions(), tuple(self.trained), done, results)

    def _new_names(self) -> dict[Path, Path]:
        """Names under which an earlier file, and what belongs to it, is set aside."""
        beside = sorted(self.folder.glob(self.command.beside)) if self.command.beside else []
        there = [self.path, *(path for path in beside if "." not in path.stem)]
        return dict(zip(there, other_names(*there))) if self.path.is_file() else {}


def unit_of(result) -> tuple[str, str | None]:
    """The model and the attack that a result is of."""
    return result.model, getattr(result, "attack", None)


def is_drawn(path: Path) -> bool:
    """True if a figure is there. It is drawn after its results are written, so an interruption may leave them without."""
    return path.with_name(f"{path.name}.png").is_file()


def described(test: Images) -> dict[str, str]:
    """Data as results name them."""
    return {"name": test.name, "split": test.split, "sha256": test.sha256}


def read_results(folder: str | os.PathLike, commands: Sequence[str] | None = None) -> dict[str, SavedResults]:
    """The results in a folder, by command.

    Args:
        commands: names of commands; all that are registered where left out.

    Raises:
        InputError: a file is damaged.
    """
    known = registered()
    chosen = {name: Path(folder) / known[name].file for name in (known if commands is None else commands)}
    return {name: _read(path, known[name]) for name, path in chosen.items() if path.is_file()}


def _read(path: Path, command: ResultCommand) -> SavedResults:
    with _damages_named(path, command.name):
        saved = checked_file.read(path, {field.name for field in dataclasses.fields(SavedResults)})
        results = SavedResults(
            options=decode(command.options, saved["options"]),
            data={name: decode(str, saved["data"][name]) for name in ("name", "split", "sha256")},
            versions=decode(dict[str, str], saved["versions"]),
            models=decode(tuple[str, ...], saved["models"]),
            trained=decode(dict[str, Provenance], saved["trained"]),
            results=decode(list[command.record], saved["results"]),
        )
        if not results.results:
            raise ValueError("it has no results")
        return results


@contextlib.contextmanager
def _damages_named(path: Path, command: str) -> Iterator[None]:
    """Turn what is wrong with a file's content into an error that names the file, and says what to do."""
    try:
        yield
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = {KeyError: f"it has no {error}", RecursionError: "it is nested too deep"}.get(type(error), str(error))
        raise Damaged(path, command, what) from error


@dataclass(frozen=True)
class SavedReproduction:
    """The content of `reproduction.json`.

    Attributes:
        recipe: how the models were trained, attacked and judged: the fields of :class:`pyrobayes.options.Recipe`.
        particles: K per class.
        data, images: the data set, and how many of its test images FGSM attacked.
        seeds: of the trainings.
        clean: accuracy on clean images, by model.
        comparisons, claims: see :mod:`pyrobayes.evaluation.reproduction`.
    """

    recipe: dict
    particles: int
    data: str
    seeds: list[int]
    images: int
    clean: dict[str, Spread]
    comparisons: list[Comparison]
    claims: list[Claim]
    versions: dict[str, str]


def read_reproduction(folder: str | os.PathLike) -> SavedReproduction | None:
    """The content of `reproduction.json`; None where there is none."""
    path = Path(folder) / REPRODUCTION
    if not path.is_file():
        return None
    names = {field.name for field in dataclasses.fields(SavedReproduction)}
    with _damages_named(path, "reproduce"):
        found = decode(SavedReproduction, checked_file.read(path, names))
        if not found.comparisons:
            raise ValueError("it has no comparisons")
        return found


def write_reproduction(folder: Path, saved: SavedReproduction) -> None:
    """Write `reproduction.json`; an earlier one of another recipe, or of other seeds, versions or images, is kept under another name."""
    path, encoded = folder / REPRODUCTION, encode(saved)
    try:
        there = encode(read_reproduction(folder))
    except InputError:
        there = {}
    same = there is None or all(there.get(name) == encoded[name] for name in SAME_REPRODUCTION)
    checked_file.write(path, encoded, None if same else other_names(path)[0])
