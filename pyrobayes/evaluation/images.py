"""Measuring something on every image of a data set."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyrobayes import distributed
from pyrobayes.data.images import Images
from pyrobayes.errors import LARGEST_BATCH, InputError, check_integer
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.progress import Progress, silent


@torch.no_grad()
def map_images(
    measure: Callable[[Tensor, Tensor, Tensor], Tensor],
    data: Images,
    batch_size: int,
    name: str = "",
    progress: Progress = silent,
) -> Tensor:
    """What `measure(indices, x, y)` gives for every image, [N, ...], on the CPU; all processes share the work."""
    parts = []
    for indices, x, y in distributed.share(data.batches(batch_size)):
        parts.append(measure(indices, x, y).cpu())
        progress.images(name, int(indices[-1]) + 1, len(data))
    return torch.cat(distributed.gather(parts))


def prepared(classifier: BayesClassifier, data: Images, images: int | None, batch_size: int) -> Images:
    """The first images, on the classifier's device; refused where they or the batch size are none that it can take."""
    factorization = classifier.factorization
    check_integer("batch size", batch_size, least=1, most=LARGEST_BATCH)
    if factorization.image_shape != data.image_shape or factorization.num_classes != len(data.classes):
        raise InputError(
            f"{factorization.name} classifies images {list(factorization.image_shape)} into {factorization.num_classes} "
            f"classes, but {data.name} has {list(data.image_shape)} and {len(data.classes)}"
        )
    return data.head(images).to(next(factorization.parameters()).device)
