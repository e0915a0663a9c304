"""The files that commands write of what they found, with all that is needed to get it again: their content, and reading them back."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrobayes.data.images import Images
from pyrobayes.errors import InputError
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.evaluation.detection import RATES, Detection
from pyrobayes.evaluation.diagnostics import DIAGNOSTICS
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.reproduction import Claim, Comparison, Spread
from pyrobayes.evaluation.robustness.checks import Check
from pyrobayes.evaluation.robustness.verdict import Verdict
from pyrobayes.files import other_names, write_json
from pyrobayes.options import AttackOptions, DetectionOptions, EvaluationOptions, RobustnessOptions
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
class Found:
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


def content(results: Iterable, options: EvaluationOptions, test: Images, trained: Mapping[str, Provenance]) -> dict:
    """The content of a command's file: results, be they of some of the models only, with all that is needed to get them again."""
    results = list(results)
    return {
        "options": dataclasses.asdict(options),
        "data": described(test),
        "versions": versions(),
        "models": list(trained),
        "trained": {result.model: dataclasses.asdict(trained[result.model]) for result in results},
        "results": [result.as_dict() for result in results],
    }


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
            write_json(path, content(results, self.options, self.test, self.trained), moved.get(path))
        except InputError:  # nothing is replaced
            for each in images:
                moved[each].rename(each)
            raise

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


def earlier(folder: Path, command: str, options: EvaluationOptions, test: Images) -> Found | None:
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


def read_results(folder: str | os.PathLike, commands: Sequence[str] = tuple(FILES)) -> dict[str, Found]:
    """The results of commands in a folder, by command; :class:`InputError` if a file is damaged."""
    paths = {command: Path(folder) / FILES[command] for command in commands}
    return {command: _read(path, command) for command, path in paths.items() if path.is_file()}


def read_reproduction(folder: str | os.PathLike) -> dict | None:
    """The content of `reproduction.json`, with records of comparisons and claims; None where there is none."""
    path = Path(folder) / REPRODUCTION
    if not path.is_file():
        return None
    try:
        saved = json.loads(path.read_text())
        comparisons = [
            Comparison(
                each["model"],
                each["eps"],
                each["published"],
                _spread(each["ours"]),
                *(each[name] and _spread(each[name]) for name in ("worst", "judged")),
            )
            for each in saved["comparisons"]
        ]
        fields = [field.name for field in dataclasses.fields(Claim)]
        claims = [Claim(**{name: each[name] for name in fields}) for each in saved["claims"]]
        clean = {model: _spread(each) for model, each in saved["clean"].items()}
        if not comparisons or not {"data", "seeds", "images", "particles", "recipe", "versions"} <= set(saved):
            raise ValueError("something is missing")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"damaged file {path}: {error}; make it again with 'pyrobayes reproduce', or move it elsewhere"
        ) from error
    return saved | {"comparisons": comparisons, "claims": claims, "clean": clean}


def write_reproduction(folder: Path, saved: Mapping) -> None:
    """Write the content of `reproduction.json`; an earlier one of another recipe, or of other seeds, versions or images, is kept under another name."""
    path = folder / REPRODUCTION
    try:
        there = json.loads(path.read_text())
        same = all(there[name] == json.loads(json.dumps(saved[name])) for name in HOW)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        same = False
    write_json(path, saved, other_names(path)[0] if path.is_file() and not same else None)


def _read(path: Path, command: str) -> Found:
    record, result = READERS[command]
    try:
        saved = json.loads(path.read_text())
        if not saved["results"]:
            raise ValueError("no results")
        return Found(
            options=record(**saved["options"]),
            data={name: str(saved["data"][name]) for name in ("name", "split", "sha256")},
            versions={str(name): str(version) for name, version in saved["versions"].items()},
            models=tuple(map(str, saved["models"])),
            trained={model: _trained(each) for model, each in saved["trained"].items()},
            results=[result(each) for each in saved["results"]],
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"damaged file {path}: {what}; make it again with 'pyrobayes {command}', or move it elsewhere"
        ) from error


def _spread(saved: dict) -> Spread:
    return Spread(tuple(map(float, saved["shares"])), int(saved["images"]))


def _trained(saved: dict) -> Provenance:
    config = Config.parse(json.dumps(saved["config"] | {"versions": {}}))
    return Provenance(int(saved["epochs"]), str(saved["weights"]), config)


def _rate(saved: dict) -> Rate:
    rate = Rate(int(saved["count"]), int(saved["total"]))
    if not 0 <= rate.count <= rate.total:
        raise ValueError(f"{rate.count} of {rate.total} images")
    return rate


def _rates(saved: list[dict], eps: Sequence) -> list[Rate]:
    return [_rate(each) for each, _ in zip(saved, eps, strict=True)]


def _changed(saved: dict) -> dict[str, Rate | None]:
    """What may be missing, or None: what noise and approximations change."""
    return {name: saved[name] and _rate(saved[name]) for name in DIAGNOSTICS if name in saved}


def _evaluation(saved: dict) -> Evaluation:
    rates = {"accuracy": _rate(saved["accuracy"])} | _changed(saved) | {"changed": _rate(saved["changed"])}
    return Evaluation(**saved | rates | {"model": str(saved["model"]), "images": int(saved["images"])})


def _attacked(saved: dict) -> AttackResult:
    labels, eps = list(map(int, saved["labels"])), tuple(map(float, saved["eps"]))
    images, distances = range(len(labels)), saved["distances"]
    if not labels or not eps:
        raise ValueError("no images" if eps else "no eps")

    def of_images(values: list, kind: type) -> list:
        return [kind(value) for value, _ in zip(values, images, strict=True)]

    def of_eps(values: list, kind: type) -> list[list]:
        return [of_images(each, kind) for each, _ in zip(values, eps, strict=True)]

    if distances is not None:
        distances = of_images([math.inf if each is None else each for each in distances], float)
    return AttackResult(
        model=str(saved["model"]),
        generative=bool(saved["generative"]),
        attack=str(saved["attack"]),
        options=dict(saved["options"]),
        data=str(saved["data"]),
        eps=eps,
        labels=labels,
        clean_predictions=of_images(saved["clean_predictions"], int),
        predictions=of_eps(saved["predictions"], int),
        posteriors=of_eps(saved["posteriors"], float),
        unmoved=_rate(saved["unmoved"]),
        distances=distances,
        **_changed(saved),
    )


def _detection(saved: dict) -> Detection:
    eps, options = tuple(float(value) for value in saved["eps"]), dict(saved["options"])
    if not eps or not isinstance(saved["meaningful"], bool):
        raise ValueError("no eps" if not eps else f"meaningful is {saved['meaningful']!r}")
    if options["evade"] is not None:
        options["evade_weight"] = float(options["evade_weight"])
    known = {
        "model": str(saved["model"]),
        "attack": str(saved["attack"]),
        "test": str(saved["test"]),
        "options": options,
        "eps": eps,
        "false_alarms": _rate(saved["false_alarms"]),
        "auc": [math.nan if area is None else float(area) for area, _ in zip(saved["auc"], eps, strict=True)],
    }
    return Detection(**saved | known | _changed(saved) | {name: _rates(saved[name], eps) for name in RATES})


def _verdict(saved: dict) -> Verdict:
    eps = tuple(float(value) for value in saved["eps"])
    redrawn = {}
    if saved["broken_in_most"] is not None:
        redrawn["broken_in_most"] = _rates(saved["broken_in_most"], eps)
        redrawn["share_of_draws"] = [float(share) for share in saved["share_of_draws"]]
    known = {
        "model": str(saved["model"]),
        "eps": eps,
        "images": int(saved["images"]),
        "clean_accuracy": _rate(saved["clean_accuracy"]),
        "success": {name: _rates(each, eps) for name, each in saved["success"].items()},
        "worst": _rates(saved["worst"], eps),
        "options": {name: dict(options) for name, options in saved["options"].items()},
        "kinds": {name: str(kind) for name, kind in saved["kinds"].items()},
        "checks": [Check(**each | {"concerns": tuple(each["concerns"])}) for each in saved["checks"]],
    }
    as_saved = {name: value for name, value in saved.items() if name != "doubts"}
    return Verdict(**as_saved | known | redrawn | _changed(saved))


# The records of each command's options, and what reads its results.
READERS = {
    "evaluate": (EvaluationOptions, _evaluation),
    "attack": (AttackOptions, _attacked),
    "detect": (DetectionOptions, _detection),
    "robustness": (RobustnessOptions, _verdict),
}
