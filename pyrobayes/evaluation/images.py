"""Measuring something on every image of a data set, such as the diagnostics (:mod:`pyrobayes.evaluation.records`)."""

import contextlib
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyrobayes import distributed
from pyrobayes.attacks.losses import log_odds_against
from pyrobayes.data.images import Images
from pyrobayes.devices import batch_size_on
from pyrobayes.errors import LARGEST_BATCH, InputError, check_integer
from pyrobayes.evaluation.rates import Rate, difference, larger, percent
from pyrobayes.inference.interface import Classifier
from pyrobayes.inference.modules import EXPECTED, TRIED, as_classifier, warn
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.progress import Progress, silent

TRIED_SCALES = 100  # images that tell which scale of the pixels a module expects
SCALE_GAP = 0.1  # share of them by which another scale must be better
CHECKED = 200  # clean images that the diagnostics look at
DIAGNOSTICS = ("flipped_by_resampling", "approximation", "gradient_signs")
Measure = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]


@torch.no_grad()
def map_images(
    measure: Measure, data: Images, batch_size: int, name: str = "", progress: Progress = silent
) -> dict[str, Tensor]:
    """The values of `measure(indices, x, y)` for every image, each [N, ...] on the CPU; all processes share the work."""
    parts = []
    for indices, x, y in data.read(distributed.share(torch.arange(len(data)).split(batch_size))):
        parts.append({key: value.cpu() for key, value in measure(indices, x, y).items()})
        progress.images(name, int(indices[-1]) + 1, len(data))
    parts = distributed.gather(parts)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def validated_images(classifier: Classifier, data: Images, images: int | None, batch_size: int) -> Images:
    """The first images, on the classifier's device; :class:`InputError` where the two don't fit together."""
    expect("data", data, Images)
    check_integer("batch size", batch_size, least=1, most=LARGEST_BATCH)
    if classifier.image_shape != data.image_shape or classifier.num_classes != len(data.classes):
        raise InputError(
            f"{classifier.name} classifies images {list(classifier.image_shape)} into {classifier.num_classes} "
            f"classes, but {data.name} has {list(data.image_shape)} and {len(data.classes)}"
        )
    return data.head(images).to(classifier.device)


def opened(
    classifier: nn.Module | Callable, data: Images, name: str | None = None, argument: str = "classifier"
) -> Classifier:
    """The classifier as evaluations take it, ours or a module of the user's, tried on the first images.

    Args:
        name: in results, in place of the classifier's own.
    """
    expect("data", data, Images)
    if not callable(classifier):
        raise InputError(f"{argument} must be {EXPECTED}, got {repr(classifier):.80}")
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"[\w\-]+", name)):
        raise InputError(f"name must be of letters, digits, - and _, since files are named by it, got {name!r}")
    tried = isinstance(classifier, Classifier) and classifier.image_shape == data.image_shape
    x, y = data.batch(slice(TRIED_SCALES))
    classifier = as_classifier(classifier, x, name)
    return classifier if tried or classifier.has_particles else _tried_in_other_scales(classifier, x, y)


@torch.no_grad()
def _tried_in_other_scales(classifier: Classifier, x: Tensor, y: Tensor) -> Classifier:
    """The classifier with a caveat, and a warning, if it classifies images of another scale than [0, 1] much better."""
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    scaled = {"from 0 to 255": 255 * x, "from -1 to 1": 2 * x - 1, "of mean 0 and variance 1": (x - mean) / std}
    as_it_is, by_scale = _right(classifier, x, y), {}
    for scale, images in scaled.items():
        with contextlib.suppress(InputError):  # logits that aren't finite there
            by_scale[scale] = _right(classifier, images, y)
    if not by_scale:
        return classifier
    scale, best = max(by_scale.items(), key=lambda pair: pair[1].sum())
    if not larger(best, as_it_is, len(scaled)) or difference(best, as_it_is)[0] < SCALE_GAP:
        return classifier
    told = (
        f"it classifies {percent(as_it_is)} of {len(x)} images correctly with pixels in [0, 1], and {percent(best)} with pixels "
        f"{scale}: put a layer in front of it that scales them as in its training"
    )
    warn(f"{classifier.name}: {told}")
    return classifier._changed(caveats=(*classifier.caveats, told))


def _right(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The images that are classified correctly, [B]; few at a time."""
    places = torch.arange(len(x)).split(TRIED)
    return torch.cat([classifier.for_images(each)(x[each.to(x.device)]).argmax(1) for each in places]) == y


def chosen_batch(classifier: Classifier, batch_size: int | None) -> int:
    """The number of images at a time, that of the classifier's device where none is given."""
    return batch_size_on(classifier.device) if batch_size is None else batch_size


def expect(argument: str, value, kind: type) -> None:
    """Refuse a value of an argument that is not of the kind expected."""
    if not isinstance(value, kind):
        maker = {Images: ", as pyrobayes.load_data gives them"}
        name, shown = kind.__name__, repr(value).partition("\n")[0]
        raise InputError(f"{argument} must be of type {name}{maker.get(kind, '')}, got {shown:.80}")


def diagnose(classifier: Classifier, seen: Classifier, data: Images, batch_size: int) -> dict[str, Rate | None]:
    """The diagnostics of clean images, by field: `classifier` defends itself, and `seen` is what its attacker sees."""
    flipped = Rate.of(flipped_by_resampling(classifier, data, batch_size)) if classifier.random else None
    told = flipped, approximation(classifier, data, batch_size), gradient_signs(seen, data, batch_size)
    return dict(zip(DIAGNOSTICS, told))


def flipped_by_resampling(
    classifier: Classifier, data: Images, batch_size: int = 100, name: str = "", progress: Progress = silent
) -> Tensor:
    """True where another draw of the noise changes the predicted class, [N]."""
    pair = (classifier, NoiseStream.DEFENDER), (classifier, NoiseStream.SECOND_DRAW)
    return _differs(_predicted, pair, data, batch_size, name, progress)


def approximation(classifier: Classifier, data: Images, batch_size: int = 100) -> Rate | None:
    """Share of the predicted classes that lower precision or pruning changes; None without either."""
    if classifier.options.exact:
        return None
    pair = (classifier, NoiseStream.DEFENDER), (classifier.exact(), NoiseStream.DEFENDER)
    return Rate.of(_differs(_predicted, pair, data, batch_size))


def gradient_signs(classifier: Classifier, data: Images, batch_size: int = 100) -> Rate | None:
    """Share of the pixels whose gradient's sign approximations change; None without any."""
    if classifier.options.exact and not classifier.options.negligible:
        return None
    pair = (classifier, NoiseStream.ATTACKER), (classifier.exact(), NoiseStream.ATTACKER)
    return Rate.of(_differs(_signs, pair, data, min(batch_size, classifier.images_at_once)).flatten())


def _predicted(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    return classifier(x).argmax(1)


def _signs(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
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
