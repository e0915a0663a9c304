"""The files that commands write of what they found, with all that is needed to get it again: their content, and reading them back."""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrobayes.attacks.attack_options import AttackOptions, DetectionOptions
from pyrobayes.codec import decode, encode
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.evaluation.detection import Detection
from pyrobayes.evaluation.reproduction import Claim, Comparison, Spread
from pyrobayes.evaluation.robustness.verdict import Verdict
from pyrobayes.files import other_names
from pyrobayes.options import EvaluationOptions, RobustnessOptions
from pyrobayes.results import checked_file
from pyrobayes.tensor_files import digest
from pyrobayes.training.checkpoint import MODEL, Config, read_run_file, versions

FILES = {
    "evaluate": "evaluation.json",
    "attack": "attack.json",
    "detect": "detection.json",
    "robustness": "robustness.json",
}  # by command
REPRODUCTION = "reproduction.json"
HOW = ("recipe", "particles", "data", "seeds", "images", "versions")  # of its entries, what tells one from another


@dataclass(frozen=True)
class Provenance:
    """How many epochs of which configuration a model had behind it, and the SHA-256 of its weights."""

    epochs: int
    weights: str
    config: Config

    @classmethod
    def read(cls, run: Path) -> "Provenance":
        """Of the model in a folder."""
        config = Config.read(run)
        weights, metadata = read_run_file(run / MODEL)
        return cls(int(metadata["epoch"]), digest(weights, {}), config)


@dataclass(frozen=True)
class SavedResults:
    """What a command found, and how: the content of its file.

    Attributes:
        data: name, split and checksum.
        models: that the command was given; of those that an interruption left there are no results.
        trained: by model, its training.
        results: records of :class:`pyrobayes.evaluation.Evaluation`, :class:`pyrobayes.evaluation.AttackResult`,
            :class:`pyrobayes.evaluation.detection.Detection` or :class:`pyrobayes.evaluation.robustness.verdict.Verdict`.
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


class ResultsFile:
    """The file of a command's results, written again whenever more are made.

    Earlier results in it stand until the same are made again, where they are by the same options and versions, of the same data and weights. Else the file
    is kept under another name, as `attack.1.json`, and with it the adversarial images that were saved.

    Args:
        resumed: results of other models may stand too.
    """

    def __init__(
        self,
        folder: Path,
        command: str,
        options: EvaluationOptions,
        test: Images,
        trained: Mapping[str, Provenance],
        resumed: bool = False,
    ):
        self.folder, self.command, self.resumed = folder, command, resumed
        self.options, self.test, self.trained = options, test, trained
        self._standing: list | None = None  # earlier results, once something has been written

    def write(self, results: Iterable) -> None:
        """All results that were made so far."""
        path, moved = self.folder / FILES[self.command], self._begin() if self._standing is None else {}
        results = list(results)
        made = {_of(result) for result in results}
        results += [result for result in self._standing if _of(result) not in made]
        images = [each for each in moved if each != path]
        for each in images:
            each.rename(moved[each])
        try:
            checked_file.write(path, encode(self._content(results)), moved.get(path))
        except InputError:  # nothing is replaced
            for each in images:
                moved[each].rename(each)
            raise

    def _content(self, results: list) -> SavedResults:
        done = {result.model: self.trained[result.model] for result in results}
        return SavedResults(self.options, described(self.test), versions(), tuple(self.trained), done, results)

    def _begin(self) -> dict[Path, Path]:
        """Find the results that stand; new names for the files of others."""
        there, path = earlier(self.folder, self.command, self.options, self.test), self.folder / FILES[self.command]
        if there and there.trained.items() <= self.trained.items():
            if self.resumed or there.models == tuple(self.trained):
                self._standing = there.results
                return {}
        self._standing = []
        saved = [path, *(self._images() if self.command == "attack" else ())]
        return dict(zip(saved, other_names(*saved))) if path.is_file() else {}

    def _images(self) -> list[Path]:
        """The adversarial images that were saved with the results."""
        return [path for path in self.folder.glob("adversarial-*.safetensors") if "." not in path.stem]


def _of(result) -> tuple:
    """What a result is of; the same for what takes its place."""
    return result.model, getattr(result, "attack", None)


def earlier(folder: Path, command: str, options: EvaluationOptions, test: Images) -> SavedResults | None:
    """What a command left in a folder, if it was by the same options and versions, of the same data, and isn't damaged."""
    try:
        found = read_results(folder, [command]).get(command)
    except InputError:  # it is damaged, and made anew
        return None
    wanted = options, described(test), versions()
    return found if found and (found.options, found.data, found.versions) == wanted else None


def described(test: Images) -> dict[str, str]:
    """Data as results name them."""
    return {"name": test.name, "split": test.split, "sha256": test.sha256}


def read_results(folder: str | os.PathLike, commands: Sequence[str] = tuple(FILES)) -> dict[str, SavedResults]:
    """The results of commands in a folder, by command; :class:`InputError` if a file is damaged."""
    paths = {command: Path(folder) / FILES[command] for command in commands}
    return {command: _read(path, command) for command, path in paths.items() if path.is_file()}


def read_reproduction(folder: str | os.PathLike) -> SavedReproduction | None:
    """The content of `reproduction.json`; None where there is none."""
    path = Path(folder) / REPRODUCTION
    if not path.is_file():
        return None
    names = {field.name for field in dataclasses.fields(SavedReproduction)}
    with _named_if_damaged(path, "reproduce"):
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
    same = there is None or all(there.get(name) == encoded[name] for name in HOW)
    checked_file.write(path, encoded, None if same else other_names(path)[0])


def _read(path: Path, command: str) -> SavedResults:
    options, record = RECORDS[command]
    with _named_if_damaged(path, command):
        saved = checked_file.read(path, {field.name for field in dataclasses.fields(SavedResults)})
        found = SavedResults(
            options=decode(options, saved["options"]),
            data={name: decode(str, saved["data"][name]) for name in ("name", "split", "sha256")},
            versions=decode(dict[str, str], saved["versions"]),
            models=decode(tuple[str, ...], saved["models"]),
            trained=decode(dict[str, Provenance], saved["trained"]),
            results=decode(list[record], saved["results"]),
        )
        if not found.results:
            raise ValueError("it has no results")
        return found


@contextlib.contextmanager
def _named_if_damaged(path: Path, command: str) -> Iterator[None]:
    """Turn what is wrong with a file's content into an error that names the file, and says what to do."""
    try:
        yield
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = {KeyError: f"it has no {error}", RecursionError: "it is nested too deep"}.get(type(error), str(error))
        raise InputError(
            f"damaged file {path}: {what}; make it again with 'pyrobayes {command}', or move it elsewhere"
        ) from error


# The records of each command's options, and of its results.
RECORDS = {
    "evaluate": (EvaluationOptions, Evaluation),
    "attack": (AttackOptions, AttackResult),
    "detect": (DetectionOptions, Detection),
    "robustness": (RobustnessOptions, Verdict),
}
