"""`pyrobayes train`: train models, each into a folder of its own."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from pyrobayes import distributed, factorizations
from pyrobayes.commands import context
from pyrobayes.commands.context import model_names
from pyrobayes.data.images import Images
from pyrobayes.errors import choice
from pyrobayes.options import (
    DATASETS,
    NETWORKS,
    TrainingOptions,
)
from pyrobayes.progress import Progress, silent
from pyrobayes.training.batches import adversarial_eps
from pyrobayes.training.checkpoint import Config, choose_device
from pyrobayes.training.fit import fit
from pyrobayes.training.metrics import Epoch
from pyrobayes.training.run_folder import check_no_run, check_same_config, has_run, saved_config


def train(
    models: Sequence[str],
    *,
    networks: str | None = None,
    network_changes: dict | None = None,
    training_changes: dict | None = None,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    progress: Progress = silent,
) -> dict[str, list[Epoch]]:
    """Train models, each into a folder of its own under `runs`.

    Args:
        models: their names, in any case; `all` stands for the seven, and comparators may be named beside it.
        networks: `paper` (where left out) or `small`.
        network_changes: fields of :class:`pyrobayes.Networks` that differ from that.
        training_changes: fields of :class:`pyrobayes.TrainingOptions` that differ from the model's own.
        data: the data set; `fashion-mnist` where left out.
        data_dir: see :func:`pyrobayes.load_data`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        resume: go on with the runs that were begun, with the configuration they were begun with, from which what is
            given here must not differ; start the others.
        overwrite, tensorboard, progress: see :func:`pyrobayes.fit`.
    """
    names = model_names(models)
    chosen, folder = choose_device(device), Path(runs)
    network_changes, training_changes = network_changes or {}, training_changes or {}
    preset = NETWORKS[choice("networks", networks, NETWORKS)] if networks else None
    sizes = dataclasses.replace(preset or NETWORKS["paper"], **network_changes)
    data = choice("data set", data, DATASETS) if data else None
    saved = {}
    for name in names:  # refuse before the first is trained, not after hours
        adversarial_eps(factorizations.get(name), TrainingOptions.of(name, **training_changes))
        if not has_run(folder / name) or overwrite:
            continue
        if not resume:
            check_no_run(folder / name)
        saved[name] = there = saved_config(folder / name)
        wanted = dataclasses.replace(
            there,
            data=data or there.data,
            networks=dataclasses.replace(preset or there.networks, **network_changes),
            training=dataclasses.replace(there.training, **training_changes),
        )
        check_same_config(there, wanted, folder / name)
    images: dict[str, Images] = {}
    trained = {}
    distributed.join(chosen)
    for name in names:
        source = saved[name].data if name in saved else data or "fashion-mnist"
        if source not in images:
            images[source] = context.load_split(source, "train", data_dir)
        options = TrainingOptions.of(name, **training_changes)
        config = saved.get(name) or Config.of(name, sizes, images[source], options)
        trained[name] = fit(
            config.build().to(chosen),
            images[source],
            config.training,
            out=folder / name,
            resume=name in saved,
            overwrite=overwrite,
            tensorboard=tensorboard,
            progress=progress,
        )
    return trained
