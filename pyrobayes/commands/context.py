"""Where commands find trained models and images, and where their results go."""

import dataclasses
import itertools
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyrobayes import distributed, factorizations
from pyrobayes.attacks import Attack
from pyrobayes.data.declared import DATASETS, MINI, data_named
from pyrobayes.data.images import Images
from pyrobayes.data.source import ImageSource
from pyrobayes.data.sources import load_data, read_source
from pyrobayes.devices import choose_device, settled
from pyrobayes.errors import InputError
from pyrobayes.evaluation.images import opened
from pyrobayes.inference.interface import Classifier
from pyrobayes.inference.modules import ModuleClassifier
from pyrobayes.inference.own_modules import UNKNOWN_TRAINING, load_module
from pyrobayes.options import PRETRAINED, EvaluationOptions
from pyrobayes.progress import Progress, silent
from pyrobayes.results.registry import ResultCommand
from pyrobayes.results.store import Provenance, ResultStore
from pyrobayes.training.checkpoint import CONFIG, MODEL, Config, begun_only, load


@dataclass(frozen=True)
class Context:
    """Where a command finds models and data, where its results go, and who is told how far it is.

    Attributes:
        data: the data set that the models were trained on, or a subset of it; or the path of one's own images, or how they
            are read. None stands for the data that the models were trained on, and for the embedded subset with the models
            that come with the package. Training takes `fashion-mnist` for None.
        data_dir: see :func:`pyrobayes.load_data`.
        runs: the folder of the trained models, one folder each; `pyrobayes.options.PRETRAINED` has those of the package.
        out: the folder for results. None stands for `runs`, and for the folder "runs" with models of the package.
        device: `auto`, `cpu`, `cuda`, a GPU such as `cuda:1`, or `mps`.
        progress: told how far the work is.
        module, weights, trust_weights: a module of the user's, which is measured beside the trained models, as
            :func:`pyrobayes.inference.own_modules.load_module` takes them.
    """

    data: str | os.PathLike | ImageSource | None = None
    data_dir: str | os.PathLike | None = None
    runs: str | os.PathLike = "runs"
    out: str | os.PathLike | None = None
    device: str = "auto"
    progress: Progress = silent
    module: str | None = None
    weights: str | os.PathLike | None = None
    trust_weights: bool = False

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

    def images(self, data: str | ImageSource, split: str) -> Images:
        """A split of a data set. The first process of a machine fills the cache, and the others find it there."""
        with distributed.first_alone():
            if not isinstance(data, ImageSource):
                return load_data(data, split, self.data_dir)
            with warnings.catch_warnings(record=True, action="always") as told:
                images = read_source(data, split, self.data_dir)
        for message in dict.fromkeys(str(warning.message) for warning in told):
            self.progress.note(message)
        return images

    def open(self, models: Sequence[str], options: EvaluationOptions) -> tuple[list[Classifier], Images]:
        """Trained models and the user's module, and the test images. All under `runs` where none is named, and no module.

        Raises:
            InputError: there are no such models, they were trained on other data than is asked for, or there are fewer
                test images than are asked for.
        """
        folder = Path(self.runs)
        known = factorizations.names(comparators=True)
        there = [name for name in known if is_trained(folder / name)]
        names = model_names(models) or ([] if self.module else there)
        if not names and not self.module:
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
        data = self._test_data(names, hint="" if models else "; name the models to take")
        test = self.images(data, "test")
        if isinstance(data, ImageSource) and names:
            test = dataclasses.replace(test, name=self._trained_on(data, names))
        test.head(options.images)  # refused before anything is computed
        trained = [load(folder / name, device=self.device, **vars(options.classifier)) for name in names]
        return trained + ([self._own_module(options, test, names)] if self.module else []), test

    def _own_module(self, options: EvaluationOptions, test: Images, names: Sequence[str]) -> Classifier:
        """The user's module as a classifier, tried on the first test images."""
        module, source = load_module(self.module, self.weights, trust_weights=self.trust_weights)
        if source.name in names:
            raise InputError(
                f"{self.module} has the name of a trained model, {source.name}: rename its file or function"
            )
        if module.training:  # a module in eval mode may have Dropout kept on
            module.eval()
        module.requires_grad_(False).to(choose_device(self.device))
        classifier = ModuleClassifier(module, name=source.name, noise=options.noise, seed=options.seed)
        classifier.source = source
        tried = opened(classifier, test)
        return tried._changed(caveats=(*tried.caveats, UNKNOWN_TRAINING))

    def without_module(self) -> "Context":
        """This context for trained models alone."""
        return dataclasses.replace(self, module=None)

    def _test_data(self, names: Sequence[str], hint: str) -> str | ImageSource:
        """The data set to test on, which the models must have been trained on, or on more of the same.

        One's own images are read as for the first model's training, but for what is asked for now. The hint ends the error
        where some models fit and others don't.
        """
        folder = Path(self.runs)
        if not names:
            if not self.data and folder != PRETRAINED:
                raise InputError("which images does the module classify? Name the data set (data=...)")
            return data_named(self.data) if self.data else MINI
        configs = {name: Config.read(folder / name) for name in names}
        first = configs[names[0]]
        data = data_named(self.data) if self.data else MINI if folder == PRETRAINED else first.source or first.data
        expected = first.data if isinstance(data, ImageSource) else data  # one's own images are known by their content
        fitting = {expected, DATASETS[expected].part_of} if expected in DATASETS else {expected}
        for name, config in configs.items():
            if config.model != name:
                raise InputError(f"{folder / name} holds a '{config.model}'; a run's folder must have its model's name")
            if config.data not in fitting:
                hint = hint if any(each.data in fitting for each in configs.values()) else ""
                raise InputError(f"{folder / name} was trained on {config.data}, not on {expected}{hint}")
        if isinstance(data, ImageSource):
            return data.or_as(first.source)
        if data not in DATASETS:
            told = f"{folder / names[0]} was trained on images that Python gave it, {data}"
            raise InputError(f"{told}: save them as an .npz file, and give it (data=...)")
        return data

    def _trained_on(self, source: ImageSource, names: Sequence[str]) -> str:
        """The name of the models' data set, whose training images must be those that are read now."""
        with warnings.catch_warnings(action="ignore"):
            now = read_source(source, "train", self.data_dir)
        for name in names:
            config = Config.read(Path(self.runs) / name)
            pairs = {
                "their shape is": (list(now.image_shape), list(config.image_shape)),
                "their classes are": (", ".join(now.classes), ", ".join(config.classes)),
                "the SHA-256 of pixels and classes is": (now.sha256, config.data_sha256),
            }
            if changed := [f"{told} {there}, not {then}" for told, (there, then) in pairs.items() if there != then]:
                raise InputError(
                    f"{Path(self.runs) / name} was trained on {config.data}, and {source.path} has other training images, "
                    f"{len(now):,} now: {'; '.join(changed)}. Give those that it was trained on (data=...), or train it again"
                )
        return config.data

    def provenance(self, classifiers: Iterable[Classifier]) -> dict[str, Provenance]:
        """How each model was trained, by name. Ask when they are loaded: whoever trains on replaces the files."""
        sources = {classifier.name: classifier.source for classifier in classifiers}
        return {
            name: Provenance(0, source.sha256, None, source) if source else Provenance.read(Path(self.runs) / name)
            for name, source in sources.items()
        }

    def store(
        self,
        command: ResultCommand,
        options: EvaluationOptions,
        test: Images,
        planned: Sequence[tuple[Classifier, Attack | float | None]],
        **more,
    ) -> ResultStore:
        """The results of a command on models, under the attacks or sigmas planned for each; `more` goes to the store."""
        units = [(classifier.name, getattr(under, "name", under)) for classifier, under in planned]
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
