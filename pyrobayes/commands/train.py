"""`pyrobayes train`: train models, each into a folder of its own."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from pyrobayes import distributed, factorizations
from pyrobayes.commands.context import Context, model_names
from pyrobayes.data.declared import DATASETS, data_named
from pyrobayes.data.source import ImageSource
from pyrobayes.devices import choose_device
from pyrobayes.errors import InputError, choice
from pyrobayes.options import NETWORKS, TrainingOptions
from pyrobayes.training.batches import adversarial_eps
from pyrobayes.training.checkpoint import Config
from pyrobayes.training.fit import fit
from pyrobayes.training.metrics import Epoch
from pyrobayes.training.run_folder import check_no_run, check_same_config, has_run, saved_config


def train(
    models: Sequence[str],
    context: Context = Context(),
    *,
    networks: str | None = None,
    network_changes: dict | None = None,
    training_changes: dict | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
) -> dict[str, list[Epoch]]:
    """Train models, each into a folder of its own under the folder of runs; returns their epochs by name.

    Args:
        models: as elsewhere, but at least one; `all` stands for the seven, and comparators may be named beside it.
        networks: `paper` (where left out), `small`, `tiny`, `cifar` or `original`.
        network_changes: fields of :class:`pyrobayes.Networks` that differ from that.
        training_changes: fields of :class:`pyrobayes.TrainingOptions` that differ from the model's own.
        resume: go on with runs that were begun, by their own configuration, from which the arguments mustn't differ;
            start the others.
        overwrite, tensorboard: see :func:`pyrobayes.fit`.
    """
    names, device, folder = model_names(models), choose_device(context.device), Path(context.runs)
    network_changes, training_changes = network_changes or {}, training_changes or {}
    preset = NETWORKS[choice("networks", networks, NETWORKS)] if networks else None
    sizes = dataclasses.replace(preset or NETWORKS["paper"], **network_changes)
    data = data_named(context.data) if context.data else None
    named = None if isinstance(data, ImageSource) else data  # one's own images are known by their content

    saved: dict[str, Config] = {}
    for name in names:  # refuse before the first is trained, not after hours
        adversarial_eps(factorizations.get(name), TrainingOptions.of(name, **training_changes))
        if overwrite or not has_run(folder / name):
            continue
        if not resume:
            check_no_run(folder / name)
        there = saved[name] = saved_config(folder / name)
        changed = dataclasses.replace(preset or there.networks, **network_changes)
        training = dataclasses.replace(there.training, **training_changes)
        wanted = dataclasses.replace(there, data=named or there.data, networks=changed, training=training)
        check_same_config(there, wanted, folder / name)
    distributed.join(device)
    images = functools.cache(lambda source: context.images(source, "train"))
    how = {"overwrite": overwrite, "tensorboard": tensorboard, "progress": context.progress}
    trained = {}
    for name in names:
        seen = images(_data_of(saved[name], data) if name in saved else data or "fashion-mnist")
        if name in saved:
            seen = dataclasses.replace(seen, name=saved[name].data)
        config = saved.get(name) or Config.of(name, sizes, seen, TrainingOptions.of(name, **training_changes))
        model = config.build().to(device)
        trained[name] = fit(model, seen, config.training, out=folder / name, resume=name in saved, **how)
    return trained


def _data_of(saved: Config, given: str | ImageSource | None) -> str | ImageSource:
    """The images that a run goes on with: its own, from the place that is given where that is another one now."""
    if isinstance(given, ImageSource):
        return given.or_as(saved.source)
    if not saved.source and saved.data not in DATASETS:
        raise InputError(f"{saved.model} was trained on images that Python gave it, {saved.data}: give them (data=...)")
    return saved.source or saved.data
