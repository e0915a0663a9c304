"""Measuring something on every image of a data set."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyrobayes import distributed
from pyrobayes.data.images import Images
from pyrobayes.errors import LARGEST_BATCH, InputError, check_integer
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.progress import Progress, silent

Measure = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]


@torch.no_grad()
def map_images(
    measure: Measure, data: Images, batch_size: int, name: str = "", progress: Progress = silent
) -> dict[str, Tensor]:
    """The values of `measure(indices, x, y)` for every image, each [N, ...] on the CPU; all processes share the work."""
    parts = []
    for indices, x, y in distributed.share(data.batches(batch_size)):
        parts.append({key: value.cpu() for key, value in measure(indices, x, y).items()})
        progress.images(name, int(indices[-1]) + 1, len(data))
    parts = distributed.gather(parts)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def validated_images(classifier: BayesClassifier, data: Images, images: int | None, batch_size: int) -> Images:
    """The first images, on the classifier's device; :class:`InputError` where the two don't fit together."""
    expect("classifier", classifier, BayesClassifier)
    expect("data", data, Images)
    factorization = classifier.factorization
    check_integer("batch size", batch_size, least=1, most=LARGEST_BATCH)
    if factorization.image_shape != data.image_shape or factorization.num_classes != len(data.classes):
        raise InputError(
            f"{factorization.name} classifies images {list(factorization.image_shape)} into {factorization.num_classes} "
            f"classes, but {data.name} has {list(data.image_shape)} and {len(data.classes)}"
        )
    return data.head(images).to(next(factorization.parameters()).device)


def expect(argument: str, value, kind: type) -> None:
    """Refuse a value of an argument that is not of the kind expected."""
    if not isinstance(value, kind):
        maker = {BayesClassifier: ", as pyrobayes.load gives one", Images: ", as pyrobayes.load_data gives them"}
        name, shown = kind.__name__, repr(value).partition("\n")[0]
        raise InputError(f"{argument} must be of type {name}{maker.get(kind, '')}, got {shown:.80}")
