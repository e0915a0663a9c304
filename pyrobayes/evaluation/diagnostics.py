"""How much of a result is due to the noise of the estimate, or to approximations: see :mod:`pyrobayes.evaluation.records`.

The arguments are those of :func:`pyrobayes.evaluate`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pyrobayes.attacks.losses import log_odds_against
from pyrobayes.data.images import Images
from pyrobayes.evaluation.images import map_images, validated_images
from pyrobayes.evaluation.rates import Rate
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.progress import Progress, silent

CHECKED = 200  # clean images that the diagnostics look at
DIAGNOSTICS = ("flipped_by_resampling", "approximation", "gradient_signs")


def diagnose(
    classifier: BayesClassifier, seen: BayesClassifier, data: Images, batch_size: int
) -> dict[str, Rate | None]:
    """The diagnostics of clean images, by field: `classifier` defends itself, and `seen` is what its attacker sees."""
    flipped = Rate.of(flipped_by_resampling(classifier, data, batch_size)) if classifier.random else None
    exact = approximation(classifier, data, batch_size), gradient_signs(seen, data, batch_size)
    return dict(zip(DIAGNOSTICS, (flipped, *exact)))


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
    with torch.enable_grad():
        return torch.autograd.grad(log_odds_against(classifier(inputs), y).sum(), inputs)[0].sign()


def _differs(seen: Callable, pair, data: Images, batch_size: int, *told) -> Tensor:
    """True where `seen` gives other values, [N, ...], for the second pair of a classifier and a draw than for the first."""

    def measure(indices: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        ours, theirs = (seen(classifier.for_images(indices, draw), x, y) for classifier, draw in pair)
        return {"differs": ours != theirs}

    data = validated_images(pair[0][0], data, None, batch_size)
    return map_images(measure, data, batch_size, *told)["differs"]
