"""`pyrobayes generate`: draw images from a trained model."""

import os
from pathlib import Path

import torch

from pyrobayes import distributed, factorizations
from pyrobayes.commands.context import open_runs
from pyrobayes.commands.writing import results_in
from pyrobayes.files import writable_folder
from pyrobayes.inference import generation
from pyrobayes.options import (
    EvaluationOptions,
)
from pyrobayes.results import figures


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
    name, options = factorizations.get(model).name, EvaluationOptions(seed=seed)
    (classifier,), test = open_runs([name], options, data_dir=data_dir, runs=runs, device=device)
    if distributed.rank():
        return []  # the first process draws
    factorization = classifier.factorization
    samples = generation.generate(factorization, per_class, seed=seed)
    first = torch.stack([torch.nonzero(test.labels == c)[0, 0] for c in range(len(test.classes))])
    x, y = (each.to(samples.device) for each in test.batch(first))
    reconstructed = generation.reconstruct(factorization, x, y, seed=seed)
    folder = writable_folder(results_in(out, runs))
    data = figures.data_name(test.name)
    title = f"{name.upper()}, {data}: mean of p(x|...) at z drawn from p(z|y)"
    return [
        *figures.save(figures.image_grid(samples, test.classes, title), folder / f"samples-{name}"),
        *figures.save(
            figures.reconstructions(x, reconstructed, test.classes, f"{name.upper()}, {data}: test images"),
            folder / f"reconstructions-{name}",
        ),
    ]
