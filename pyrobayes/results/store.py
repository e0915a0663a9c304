"""The store of results: one file for each command, which is locked, resumed, set aside and written again as results come.

A file has everything that is needed to get its results again, and a checksum.
"""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pyrobayes import distributed
from pyrobayes.codec import decode, encode, saved
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError
from pyrobayes.evaluation.reproduction import Claim, Comparison, Spread
from pyrobayes.files import locked, other_names, remove_leftovers
from pyrobayes.inference.own_modules import ModuleSource
from pyrobayes.interrupts import Interrupted
from pyrobayes.options import EvaluationOptions
from pyrobayes.progress import Progress, silent
from pyrobayes.results import checked_file, figures
from pyrobayes.results.registry import ResultCommand, registered
from pyrobayes.tensor_files import digest
from pyrobayes.training.checkpoint import Config, read_model, versions

REPRODUCTION = "reproduction.json"
SAME_REPRODUCTION = ("recipe", "particles", "data", "seeds", "images", "versions")  # entries that tell two apart
OTHERS_ARE_KEPT = "earlier results of other options, models, data or versions are kept as {}"


@dataclass(frozen=True)
class Provenance:
    """How a model was trained: the epochs that are done, the SHA-256 of its weights, and its configuration.

    A module of the user's has a source in place of a configuration.
    """

    epochs: int
    weights: str
    config: Config | None
    source: ModuleSource | None = field(default=None, metadata=saved(if_any=True))

    @classmethod
    def read(cls, run: Path) -> "Provenance":
        """The provenance of the model in a folder."""
        config, weights, epochs = read_model(run)
        return cls(epochs, digest(weights, {}), config)

    @property
    def unfinished(self) -> str:
        """How far the training is, to follow "has"; empty where it has ended."""
        epochs = self.config.training.epochs if self.config else 0
        return f"{self.epochs} of {epochs} epochs of its training behind it" if self.epochs < epochs else ""


@dataclass(frozen=True)
class SavedResults:
    """The content of a command's file."""

    options: Any
    data: dict[str, str]  # name, split and checksum of the test images
    versions: dict[str, str]  # of the libraries
    models: tuple[str, ...]  # the command was given these; an interruption leaves some without results
    trained: dict[str, Provenance]  # by model
    results: list  # records of the command's kind

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
        trained: the provenance of the models, by name.
        units: pairs of model and the attack's name or the noise's sigma (None of commands that have neither), in the order of
            the file.
        resume: reuse earlier results that fit, and keep those of models that aren't named now.
        reusable: tells an earlier result that may be reused; all may where left out.
    """

    def __init__(
        self,
        command: ResultCommand,
        folder: Path,
        options: EvaluationOptions,
        test: Images,
        trained: Mapping[str, Provenance],
        units: Iterable[tuple[str, str | float | None]],
        *,
        resume: bool = False,
        reusable: Callable[[Any], bool] = lambda result: True,
        progress: Progress = silent,
    ):
        self.command, self.folder, self.path = command, folder, folder / command.file
        self.options, self.named, self.resume = options, dict(trained), resume
        self.data = {"name": test.name, "split": test.split, "sha256": test.sha256}
        self.trained, self.writes = dict(trained), distributed.rank() == 0
        self._made: dict[tuple, list] = {unit: [] for unit in units}
        self._standing: list = []
        self._reusable, self._progress, self._set_aside = reusable, progress, True
        self._damaged = False  # the earlier file is
        self._kept = False  # the file has results that were made now or are reused

    def __enter__(self) -> "ResultStore":
        with contextlib.ExitStack() as entered:
            if self.writes:
                name = self.command.name
                taken = f"is where another process writes the results of 'pyrobayes {name}'; choose another folder (out=...)"
                self._lock = entered.enter_context(locked(self.folder, taken, f".{name}.lock"))
                others = [self.command.beside] if self.command.beside else []
                remove_leftovers(self.folder, self.path.name, *others, *self.command.figures)
            for path in (self.path, *self._figures()):
                if path.exists() and not path.is_file():
                    raise InputError(f"{path} is where results are written, and is no file: move it elsewhere")
            if saved := self._earlier():
                self._take_over(saved)
            self._within = entered.pop_all()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._within.close()
        if isinstance(error, KeyboardInterrupt) and not str(error):
            raise Interrupted.after(error, f"interrupted{self._what_is_kept()}") from None

    def _what_is_kept(self) -> str:
        if self._kept:
            more = "the same command" if self.command.resumed else "resume=True"
            return f"; the results of models that were finished are in {self.path}, and {more} keeps them"
        more = "the same command goes on where it stopped" if self.command.resumed else "nothing was saved"
        return f" before any result was finished: {more}"

    @property
    def results(self) -> list:
        """All results, those of models that aren't named now too."""
        return list(itertools.chain(*self._made.values()))

    def results_of_named(self) -> list:
        """The results of the models that are named now."""
        return [result for result in self.results if result.model in self.named]

    def has(self, model: str, under: str | float | None = None) -> bool:
        """True if there are results of a unit."""
        return bool(self._made.get((model, under)))

    def get(self, model: str, make: Callable[[], list], under: str | float | None = None) -> tuple[list, bool]:
        """The results of a unit, and whether they were made now and written."""
        new = not self.has(model, under)
        if new:
            self._made[model, under] = make()
            self._write()
            self._kept = True
        return self._made[model, under], new

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
            self._damaged = True
            self._progress.note(
                f"{self.path} is damaged ({error.what}): it is set aside, and its results are made anew"
            )
        distributed.wait_for_all()  # before the first process writes what the others read
        fits = saved and (saved.data, saved.versions) == (self.data, versions())
        return saved if fits and saved.options.decisive == self.options.decisive else None

    def _take_over(self, saved: SavedResults) -> None:
        """Find which earlier results stand, and which are reused."""
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
                self._made.setdefault(unit_of(result), []).append(result)
        self._kept = bool(self.results)

    def _write(self) -> None:
        """Write all results that there are."""
        if not self.writes:
            return
        self._lock.check()
        made = self.results
        units = {unit_of(result) for result in made}
        results = made + [result for result in self._standing if unit_of(result) not in units]
        done = {result.model: self.trained[result.model] for result in results}
        content = SavedResults(self.options, self.data, versions(), tuple(self.trained), done, results)
        aside = _replace(self.path, encode(content), self._beside() if self._set_aside else None)
        if aside and not self._damaged:  # which was told already
            self._progress.note(OTHERS_ARE_KEPT.format(aside))
        self._set_aside = False
        if self.command.overview:
            figures.remove(self.folder / self.command.overview)  # until it is drawn of all that there are now

    def _figures(self) -> list[Path]:
        """The figures of the command in the folder."""
        there = itertools.chain(*map(self.folder.glob, self.command.figures))
        return sorted(path for path in there if path.suffix in figures.SUFFIXES)

    def _beside(self) -> list[Path]:
        """Files that are set aside with the earlier one. Figures stay where earlier results are reused, which need theirs."""
        beside = sorted(self.folder.glob(self.command.beside)) if self.command.beside else []
        return beside + ([] if self._kept else self._figures())


def _replace(path: Path, content: dict, beside: Iterable[Path] | None) -> Path | None:
    """Write a file of results. An earlier one is set aside with what stands beside it; returns its new name.

    Where `beside` is None the earlier file is replaced. What was set aside before has a dot in its stem, and stays.
    """
    there = [path, *(each for each in beside or () if "." not in each.stem)]
    names = {} if beside is None or not path.is_file() else dict(zip(there, other_names(*there)))
    aside = names.pop(path, None)
    for each, moved in names.items():
        each.rename(moved)
    try:
        checked_file.write(path, content, aside)
    except InputError:  # nothing is replaced
        for each, moved in names.items():
            moved.rename(each)
        raise
    return aside


def unit_of(result) -> tuple[str, str | float | None]:
    """The model of a result, and its attack or the sigma of its noise."""
    return result.model, getattr(result, "attack", getattr(result, "sigma", None))


def is_drawn(path: Path) -> bool:
    """True if a figure is there. It is drawn after its results are written, so an interruption may leave them without."""
    return path.with_name(f"{path.name}.png").is_file()


def read_results(folder: str | os.PathLike, commands: Iterable[str] | None = None) -> dict[str, SavedResults]:
    """The results in a folder, by command; of all registered commands where none are given.

    Raises:
        InputError: a file is damaged.
    """
    known, found = registered(), {}
    for name in known if commands is None else commands:
        kinds = {"options": known[name].options, "results": list[known[name].record]}
        saved = _read(SavedResults, Path(folder) / known[name].file, name, "results", kinds)
        found |= {name: saved} if saved else {}
    return found


@dataclass(frozen=True)
class SavedReproduction:
    """The content of `reproduction.json`; see :mod:`pyrobayes.evaluation.reproduction`."""

    recipe: dict  # the fields of :class:`pyrobayes.options.Recipe`
    particles: int
    data: str
    seeds: list[int]  # of the trainings
    images: int  # that FGSM attacked
    clean: dict[str, Spread]  # accuracy by model
    comparisons: list[Comparison]
    claims: list[Claim]
    versions: dict[str, str]


def read_reproduction(folder: str | os.PathLike) -> SavedReproduction | None:
    """The content of `reproduction.json`; None where there is none."""
    return _read(SavedReproduction, Path(folder) / REPRODUCTION, "reproduce", "comparisons", {})


def write_reproduction(folder: Path, saved: SavedReproduction, progress: Progress = silent) -> None:
    """Write `reproduction.json`; an earlier one that differs in SAME_REPRODUCTION is set aside with its figure."""
    path, encoded, told = folder / REPRODUCTION, encode(saved), OTHERS_ARE_KEPT
    try:
        there = encode(read_reproduction(folder))
    except InputError:
        there, told = {}, "the damaged file of an earlier reproduction is kept as {}"
    same = there is None or all(there.get(name) == encoded[name] for name in SAME_REPRODUCTION)
    drawn = [path.with_suffix(suffix) for suffix in figures.SUFFIXES]
    aside = _replace(path, encoded, None if same else filter(Path.is_file, drawn))
    if aside:
        progress.note(told.format(aside))


def _read(record: type, path: Path, command: str, needed: str, kinds: Mapping[str, Any]) -> Any:
    """The record that a command's file holds, or None where there is no file.

    Args:
        needed: the entry that mustn't be empty.
        kinds: the kinds of entries for which the record's own is too general.
    """
    if not path.exists():
        return None
    kinds = {field.name: field.type for field in dataclasses.fields(record)} | kinds
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        saved = checked_file.read(path, set(kinds))
        if not saved[needed]:
            raise ValueError(f"it has no {needed}")
        return record(**{name: decode(kind, saved[name]) for name, kind in kinds.items()})
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(path, command, str(error)) from error
