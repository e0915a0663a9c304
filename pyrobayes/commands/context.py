"""Trained models in a folder of runs, one folder a model, and the images that they are tested on."""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pyrobayes import distributed, factorizations
from pyrobayes.data.images import Images
from pyrobayes.data.sources import load_data
from pyrobayes.errors import InputError, choice
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.options import (
    DATASETS,
    MINI,
    PRETRAINED,
    SUBSETS,
    EvaluationOptions,
)
from pyrobayes.results.store import Provenance
from pyrobayes.training.checkpoint import CONFIG, MODEL, Config, load


def load_split(name: str, split: str, data_dir: str | os.PathLike | None) -> Images:
    """The first process of a machine fills the cache; the others find it there."""
    with distributed.first_alone():
        return load_data(name, split, data_dir)


def open_runs(
    models: Sequence[str],
    options: EvaluationOptions,
    *,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    device: str = "auto",
) -> tuple[list[BayesClassifier], Images]:
    """Trained models, and the test images of the data set that they were trained on, or of a subset of it.

    Raises:
        InputError: there are none, they were trained on different data, or on other data than asked for; or there are fewer test
            images than are asked for.
    """
    folder = Path(runs)
    found = [name for name in factorizations.names(comparators=True) if is_trained(folder / name)]
    names = model_names(models) or found
    if not names:
        raise InputError(f"no trained model found under {folder}: train one with 'pyrobayes train', or see --runs")
    if folder == PRETRAINED and (others := [name for name in names if name not in found]):
        raise InputError(f"no trained model in the package for {', '.join(others)}: it has {', '.join(found)}")
    configs = {name: Config.read(folder / name) for name in names}
    expected = MINI if folder == PRETRAINED else configs[names[0]].data
    expected = choice("data set", data, DATASETS) if data else expected
    for name, config in configs.items():
        if config.model != name:
            raise InputError(f"{folder / name} holds a '{config.model}'; a run's folder must have its model's name")
        if not _fits(config, expected):
            raise InputError(
                f"{folder / name} was trained on {config.data}, not on {expected}"
                + (
                    "; name the models to take"
                    if not models and any(_fits(each, expected) for each in configs.values())
                    else ""
                )
            )
    test = load_split(expected, "test", data_dir)
    test.head(options.images)  # refused before anything is computed
    return [load(folder / name, device=device, **vars(options.classifier)) for name in names], test


def read_provenance(classifiers: Iterable[BayesClassifier], runs: str | os.PathLike) -> dict[str, Provenance]:
    """By name how each model was trained, asked when they are loaded, since who trains on replaces the files."""
    return {
        name: Provenance.read(Path(runs) / name)
        for name in dict.fromkeys(each.factorization.name for each in classifiers)
    }


def _fits(config: Config, data: str) -> bool:
    """Whether a model was trained on a data set, or on what it is a subset of."""
    return config.data in (data, SUBSETS.get(data))


def is_trained(run: Path) -> bool:
    return all((run / file).is_file() for file in (CONFIG, MODEL))


def model_names(models: Sequence[str]) -> list[str]:
    known = [
        factorizations.names() if str(name).lower() == "all" else [factorizations.get(name).name] for name in models
    ]
    return list(dict.fromkeys(itertools.chain(*known)))
