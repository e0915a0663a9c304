"""Measuring something on every image of a data set, such as the diagnostics (:mod:`pyrobayes.evaluation.records`)."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyrobayes import distributed
from pyrobayes.attacks.losses import log_odds_against
from pyrobayes.data.images import Images
from pyrobayes.devices import batch_size_on
from pyrobayes.errors import LARGEST_BATCH, InputError, check_integer
from pyrobayes.evaluation.rates import Rate
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.progress import Progress, silent

CHECKED = 200  # clean images that the diagnostics look at
DIAGNOSTICS = ("flipped_by_resampling", "approximation", "gradient_signs")
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


def chosen_batch(classifier: BayesClassifier, batch_size: int | None) -> int:
    """The number of images at a time, that of the classifier's device where none is given."""
    expect("classifier", classifier, BayesClassifier)
    return batch_size_on(classifier.device) if batch_size is None else batch_size


def expect(argument: str, value, kind: type) -> None:
    """Refuse a value of an argument that is not of the kind expected."""
    if not isinstance(value, kind):
        maker = {BayesClassifier: ", as pyrobayes.load gives one", Images: ", as pyrobayes.load_data gives them"}
        name, shown = kind.__name__, repr(value).partition("\n")[0]
        raise InputError(f"{argument} must be of type {name}{maker.get(kind, '')}, got {shown:.80}")


def diagnose(
    classifier: BayesClassifier, seen: BayesClassifier, data: Images, batch_size: int
) -> dict[str, Rate | None]:
    """The diagnostics of clean images, by field: `classifier` defends itself, and `seen` is what its attacker sees."""
    flipped = Rate.of(flipped_by_resampling(classifier, data, batch_size)) if classifier.random else None
    told = flipped, approximation(classifier, data, batch_size), gradient_signs(seen, data, batch_size)
    return dict(zip(DIAGNOSTICS, told))


def flipped_by_resampling(
    classifier: BayesClassifier, data: Images, batch_size: int = 100, name: str = "", progress: Progress = silent
) -> Tensor:
    """True where another draw of the noise changes the predicted class, [N]."""
    pair = (classifier, NoiseStream.DEFENDER), (classifier, NoiseStream.SECOND_DRAW)
    return _differs(_predicted, pair, data, batch_size, name, progress)


def approximation(classifier: BayesClassifier, data: Images, batch_size: int = 100) -> Rate | None:
    """Share of the predicted classes that lower precision or pruning changes; None without either."""
    if classifier.options.exact:
        return None
    pair = (classifier, NoiseStream.DEFENDER), (classifier.exact(), NoiseStream.DEFENDER)
    return Rate.of(_differs(_predicted, pair, data, batch_size))


def gradient_signs(classifier: BayesClassifier, data: Images, batch_size: int = 100) -> Rate | None:
    """Share of the pixels whose gradient's sign approximations change; None without any."""
    if classifier.options.exact and not classifier.options.negligible:
        return None
    pair = (classifier, NoiseStream.ATTACKER), (classifier.exact(), NoiseStream.ATTACKER)
    return Rate.of(_differs(_signs, pair, data, min(batch_size, classifier.images_at_once)).flatten())


def _predicted(classifier: BayesClassifier, x: Tensor, y: Tensor) -> Tensor:
    return classifier(x).argmax(1)


def _signs(classifier: BayesClassifier, x: Tensor, y: Tensor) -> Tensor:
    inputs = x.clone().requires_grad_()
    with torch.enable_grad(), classifier.precisely():
        return torch.autograd.grad(log_odds_against(classifier(inputs), y).sum(), inputs)[0].sign()


def _differs(seen: Callable, pair, data: Images, batch_size: int, *told) -> Tensor:
    """True where `seen` gives other values, [N, ...], for the second pair of a classifier and a draw than for the first."""

    def measure(indices: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        ours, theirs = (seen(classifier.for_images(indices, draw), x, y) for classifier, draw in pair)
        return {"differs": ours != theirs}

    data = validated_images(pair[0][0], data, None, batch_size)
    return map_images(measure, data, batch_size, *told)["differs"]
