"""`pyrobayes generate`: draw images from a trained model."""

from pathlib import Path

import torch

from pyrobayes import distributed, factorizations
from pyrobayes.commands.context import Context
from pyrobayes.files import writable_folder
from pyrobayes.inference import generation
from pyrobayes.options import EvaluationOptions
from pyrobayes.results import figures
from pyrobayes.results.names import data_name, model_name


def draw_samples(model: str, context: Context = Context(), *, per_class: int = 8, seed: int = 0) -> list[Path]:
    """Draw images from a trained model; writes `samples-MODEL` and `reconstructions-MODEL` (PDF and PNG).

    The reconstructions are of the first test image of every class. Returns the paths of the files.

    Args:
        model: its name, in any case.
        context: where the model is, and where the figures go.
        per_class: images of every class.
        seed: of the samples.
    """
    name = factorizations.get(model).name
    (classifier,), test = context.open([name], EvaluationOptions(seed=seed))
    if distributed.rank():
        return []  # the first process draws
    samples = generation.generate(classifier.factorization, per_class, seed=seed)
    first = torch.stack([torch.nonzero(test.labels == c)[0, 0] for c in range(len(test.classes))])
    x, y = (each.to(samples.device) for each in test.batch(first))
    reconstructed = generation.reconstruct(classifier.factorization, x, y, seed=seed)
    folder, title = writable_folder(context.results), f"{model_name(name)}, {data_name(test.name)}: "
    grid = figures.image_grid(samples, test.classes, f"{title}mean of p(x|...) at z drawn from p(z|y)")
    pairs = figures.reconstructions(x, reconstructed, test.classes, f"{title}test images")
    return [*figures.save(grid, folder / f"samples-{name}"), *figures.save(pairs, folder / f"reconstructions-{name}")]
