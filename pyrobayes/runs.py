"""A folder of runs, one folder a model: train them, find them, attack and evaluate them together."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from pyrobayes import evaluation, factorizations, figures, generation
from pyrobayes.checkpoint import CONFIG, Config, load, save_tensors
from pyrobayes.classifier import BayesClassifier
from pyrobayes.data import Images, load_data
from pyrobayes.evaluation import AttackResult, Evaluation
from pyrobayes.files import writable_folder, write_json
from pyrobayes.options import (
    DATASETS,
    DEVICES,
    NETWORKS,
    AttackOptions,
    EvaluationOptions,
    InputError,
    TrainingOptions,
    choice,
)
from pyrobayes.progress import Progress, silent
from pyrobayes.training import Epoch, fit


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` takes CUDA, else MPS, else the CPU. :class:`InputError` if it is absent."""
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    name = choice("device", name, DEVICES)
    if name == "auto":
        name = next(device for device, available in there.items() if available())
    if not there[name]():
        raise InputError(
            f"device {name} was asked for, but this torch ({torch.__version__}) finds none; use --device cpu"
        )
    return torch.device(name)


def train(
    models: Sequence[str],
    *,
    networks: str = "paper",
    network_changes: dict | None = None,
    training_changes: dict | None = None,
    data: str = "fashion-mnist",
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
        models: their names, in any case; `all` stands for every registered one.
        networks: `paper` or `small`.
        network_changes: fields of :class:`pyrobayes.Networks` that differ from that.
        training_changes: fields of :class:`pyrobayes.TrainingOptions` that differ from the defaults.
        data, data_dir: see :func:`pyrobayes.load_data`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        resume: go on with the runs that were begun, with the options they were begun with; start the others.
        overwrite, tensorboard, progress: see :func:`pyrobayes.fit`.
    """
    names = list(dict.fromkeys(_names(models)))
    chosen, folder = choose_device(device), writable_folder(runs)
    network_changes, training_changes = network_changes or {}, training_changes or {}
    sizes = dataclasses.replace(NETWORKS[choice("networks", networks, NETWORKS)], **network_changes)
    options = TrainingOptions(**training_changes)
    for name in names:
        if (folder / name / CONFIG).exists() and not (resume or overwrite):
            raise InputError(
                f"{folder / name} already holds a run: go on with it (--resume), replace it (--overwrite), "
                "or choose another folder (--runs)"
            )
    trained = {}
    for name in names:
        if resume and (folder / name / CONFIG).exists():
            saved = Config.read(folder / name)
            saved = dataclasses.replace(
                saved,
                networks=dataclasses.replace(saved.networks, **network_changes),
                training=dataclasses.replace(saved.training, **training_changes),
            )
            images, factorization = load_data(saved.data, "train", data_dir), saved.build()
            chosen_options, go_on = saved.training, True
        else:
            images, chosen_options, go_on = load_data(data, "train", data_dir), options, False
            factorization = factorizations.build(
                name, sizes, image_shape=images.image_shape, num_classes=len(images.classes), seed=options.seed
            )
        trained[name] = fit(
            factorization.to(chosen),
            images,
            chosen_options,
            out=folder / name,
            resume=go_on,
            overwrite=overwrite,
            tensorboard=tensorboard,
            progress=progress,
        )
    return trained


def attack(
    models: Sequence[str] = (),
    options: AttackOptions = AttackOptions(),
    *,
    name: str = "fgsm",
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    out: str | os.PathLike | None = None,
    device: str = "auto",
    save_adversarial: bool = False,
    progress: Progress = silent,
) -> list[AttackResult]:
    """Attack trained models; writes `attack.json`, `figure1` and one `figure2-MODEL` each (PDF and PNG) to `out`.

    Args:
        models: their names, in any case; every trained model under `runs` where left out.
        options: see :class:`pyrobayes.AttackOptions`.
        name: of the attack.
        data: the data set to attack on; it must be the one that the models were trained on, and is where left out.
        out: folder for the results; `runs` where left out.
        save_adversarial: write all adversarial images to `adversarial-MODEL.safetensors` too.
    """
    classifiers, images = open_runs(models, options, data=data, data_dir=data_dir, runs=runs, device=device)
    images, folder = images.head(options.images), writable_folder(out or runs)
    examples = None if save_adversarial else 8
    results = [
        evaluation.attack(each, images, options, name=name, examples=examples, progress=progress)
        for each in classifiers
    ]
    write_json(folder / "attack.json", evaluation.report(results, options, images))
    figures.save(figures.success_rates(results), folder / "figure1")
    for result in results:
        figures.save(figures.adversarial_examples(result, images.classes), folder / f"figure2-{result.model}")
        if save_adversarial:
            tensors = {"adversarial": result.examples, "labels": images.labels, "eps": torch.tensor(result.eps)}
            save_tensors(folder / f"adversarial-{result.model}.safetensors", tensors, {"attack": result.attack})
    return results


def evaluate(
    models: Sequence[str] = (),
    options: EvaluationOptions = EvaluationOptions(),
    *,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    out: str | os.PathLike | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> list[Evaluation]:
    """Evaluate trained models; writes `evaluation.json` and one `confusion-MODEL` each (PDF and PNG) to `out`.

    The arguments are those of :func:`attack`.
    """
    classifiers, images = open_runs(models, options, data=data, data_dir=data_dir, runs=runs, device=device)
    images, folder = images.head(options.images), writable_folder(out or runs)
    results = [evaluation.evaluate(each, images, options, progress=progress) for each in classifiers]
    write_json(folder / "evaluation.json", evaluation.report(results, options, images))
    for result in results:
        figures.save(figures.confusion_matrix(result, images.classes), folder / f"confusion-{result.model}")
    return results


def open_runs(
    models: Sequence[str],
    options: EvaluationOptions,
    *,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    device: str = "auto",
) -> tuple[list[BayesClassifier], Images]:
    """Trained models, and the test images of the data set that they were trained on.

    Raises:
        InputError: there are none, they were trained on different data, or on other data than asked for.
    """
    chosen, folder = choose_device(device), Path(runs)
    found = [name for name in factorizations.names() if (folder / name / CONFIG).is_file()]
    names = list(dict.fromkeys(_names(models))) if models else found
    if not names:
        raise InputError(
            f"no trained model found under {folder}: train one with 'pyrobayes train', or name another --runs"
        )
    trained_on = {name: Config.read(folder / name).data for name in names}
    expected = choice("data set", data, DATASETS) if data else trained_on[names[0]]
    for name, trained in trained_on.items():
        if trained != expected:
            raise InputError(
                f"{folder / name} was trained on {trained}, not on {expected}; train it on that, or name the models"
            )
    classifiers = [
        load(folder / name, particles=options.particles, noise=options.noise, seed=options.seed, device=chosen)
        for name in names
    ]
    return classifiers, load_data(expected, "test", data_dir)


def _names(models: Sequence[str]) -> list[str]:
    if any(str(name).lower() == "all" for name in models):
        return factorizations.names()
    return [factorizations.get(name).name for name in models]


def draw_samples(
    model: str,
    *,
    per_class: int = 8,
    seed: int = 0,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    out: str | os.PathLike | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw images from a trained model; writes `samples-MODEL` and `reconstructions-MODEL` (PDF and PNG) to `out`.

    The reconstructions are of the first test image of every class. The other arguments are those of :func:`attack`.
    """
    (classifier,), images = open_runs(
        [model], EvaluationOptions(seed=seed), data_dir=data_dir, runs=runs, device=device
    )
    factorization, folder = classifier.factorization, writable_folder(out or runs)
    samples = generation.generate(factorization, per_class, candidates=max(200, per_class), seed=seed)
    first = torch.stack([torch.nonzero(images.labels == c)[0, 0] for c in range(len(images.classes))])
    x, y = images.to(samples.device).batch(first.to(samples.device))
    reconstructed = generation.reconstruct(factorization, x, y, seed=seed)
    name = factorization.name
    title = f"{name.upper()}, {images.name}: mean of p(x|...) at z drawn from p(z|y)"
    return [
        *figures.save(figures.image_grid(samples, images.classes, title), folder / f"samples-{name}"),
        *figures.save(
            figures.reconstructions(x, reconstructed, images.classes, f"{name.upper()}, {images.name}: test images"),
            folder / f"reconstructions-{name}",
        ),
    ]
