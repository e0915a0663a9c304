"""Where commands find trained models and images, and where their results go."""

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyrobayes import distributed, factorizations
from pyrobayes.attacks import Attack
from pyrobayes.data.declared import DATASETS, MINI
from pyrobayes.data.images import Images
from pyrobayes.data.sources import load_data
from pyrobayes.devices import choose_device, settled
from pyrobayes.errors import InputError, choice
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.options import PRETRAINED, EvaluationOptions
from pyrobayes.progress import Progress, silent
from pyrobayes.results.registry import ResultCommand
from pyrobayes.results.store import Provenance, ResultStore
from pyrobayes.training.checkpoint import CONFIG, MODEL, Config, begun_only, load


@dataclass(frozen=True)
class Context:
    """Where a command finds models and data, where its results go, and who is told how far it is.

    Attributes:
        data: the data set that the models were trained on, or a subset of it. None stands for the former, and for the
            embedded subset with the models that come with the package. Training takes `fashion-mnist` for None.
        data_dir: see :func:`pyrobayes.load_data`.
        runs: the folder of the trained models, one folder each; `pyrobayes.options.PRETRAINED` has those of the package.
        out: the folder for results. None stands for `runs`, and for the folder "runs" with models of the package.
        device: `auto`, `cpu`, `cuda`, a GPU such as `cuda:1`, or `mps`.
        progress: told how far the work is.
    """

    data: str | None = None
    data_dir: str | os.PathLike | None = None
    runs: str | os.PathLike = "runs"
    out: str | os.PathLike | None = None
    device: str = "auto"
    progress: Progress = silent

    @property
    def results(self) -> Path:
        """The folder for results."""
        return Path(self.out or ("runs" if Path(self.runs) == PRETRAINED else self.runs))

    def join(self) -> None:
        """Join the processes that `torchrun` started; see :mod:`pyrobayes.distributed`."""
        distributed.join(choose_device(self.device))

    def settled(self, options: EvaluationOptions) -> EvaluationOptions:
        """The options with all that they leave to the device."""
        return settled(options, choose_device(self.device))

    def images(self, name: str, split: str) -> Images:
        """A split of a data set. The first process of a machine fills the cache, and the others find it there."""
        with distributed.first_alone():
            return load_data(name, split, self.data_dir)

    def open(self, models: Sequence[str], options: EvaluationOptions) -> tuple[list[BayesClassifier], Images]:
        """Trained models, all under `runs` where none is named, and the test images.

        Raises:
            InputError: there are no such models, they were trained on other data than is asked for, or there are fewer
                test images than are asked for.
        """
        folder = Path(self.runs)
        known = factorizations.names(comparators=True)
        there = [name for name in known if is_trained(folder / name)]
        names = model_names(models) or there
        if not names:
            raise InputError(
                begun_only([folder / name for name in known])
                or f"no trained model found under {folder}: train one with 'pyrobayes train', give the folder of "
                "trained models (runs=...), or take those that come with the package (runs=PRETRAINED)"
            )
        if folder == PRETRAINED and (others := [name for name in names if name not in there]):
            raise InputError(f"no trained model in the package for {', '.join(others)}: it has {', '.join(there)}")
        missing = [name for name in names if not (folder / name).is_dir()]
        if missing and all(is_trained(PRETRAINED / name) for name in names):
            raise InputError(
                f"no trained model in {folder / missing[0]}: train one with 'pyrobayes train', or take the one that "
                "comes with the package (runs=PRETRAINED)"
            )
        test = self.images(self._test_data(names, hint="" if models else "; name the models to take"), "test")
        test.head(options.images)  # refused before anything is computed
        return [load(folder / name, device=self.device, **vars(options.classifier)) for name in names], test

    def _test_data(self, names: Sequence[str], hint: str) -> str:
        """The name of the data set to test on, which the models must have been trained on, or on more of the same.

        The hint ends the error where some models fit and others don't.
        """
        folder = Path(self.runs)
        configs = {name: Config.read(folder / name) for name in names}
        expected = MINI if folder == PRETRAINED else configs[names[0]].data
        expected = choice("data set", self.data, DATASETS) if self.data else expected
        fitting = {expected, DATASETS[expected].part_of} if expected in DATASETS else {expected}
        for name, config in configs.items():
            if config.model != name:
                raise InputError(f"{folder / name} holds a '{config.model}'; a run's folder must have its model's name")
            if config.data not in fitting:
                hint = hint if any(each.data in fitting for each in configs.values()) else ""
                raise InputError(f"{folder / name} was trained on {config.data}, not on {expected}{hint}")
        return expected

    def provenance(self, classifiers: Iterable[BayesClassifier]) -> dict[str, Provenance]:
        """How each model was trained, by name. Ask when they are loaded: whoever trains on replaces the files."""
        names = dict.fromkeys(classifier.factorization.name for classifier in classifiers)
        return {name: Provenance.read(Path(self.runs) / name) for name in names}

    def store(
        self,
        command: ResultCommand,
        options: EvaluationOptions,
        test: Images,
        planned: Sequence[tuple[BayesClassifier, Attack | float | None]],
        **more,
    ) -> ResultStore:
        """The results of a command on models, under the attacks or sigmas planned for each; `more` goes to the store."""
        units = [(classifier.factorization.name, getattr(under, "name", under)) for classifier, under in planned]
        trained = self.provenance(classifier for classifier, _ in planned)
        options = self.settled(options)  # which the command may have done already
        return ResultStore(command, self.results, options, test, trained, units, progress=self.progress, **more)


def is_trained(run: Path) -> bool:
    """True if a folder holds a trained model."""
    return all((run / file).is_file() for file in (CONFIG, MODEL))


def model_names(models: Sequence[str]) -> list[str]:
    """Names of registered models, each once; `all` stands for the seven."""
    names = [
        factorizations.names() if str(name).lower() == "all" else [factorizations.get(name).name] for name in models
    ]
    return list(dict.fromkeys(itertools.chain(*names)))
