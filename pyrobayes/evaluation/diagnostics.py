"""How much of a result is due to the noise of the estimate, or to approximations."""

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
    return {
        "flipped_by_resampling": Rate.of(flipped_by_resampling(classifier, data, batch_size))
        if classifier.random
        else None,
        "approximation": approximation(classifier, data, batch_size),
        "gradient_signs": gradient_signs(seen, data, batch_size),
    }


def flipped_by_resampling(
    classifier: BayesClassifier, data: Images, batch_size: int = 100, name: str = "", progress: Progress = silent
) -> Tensor:
    """Whether another draw of the noise changes each predicted class, [N]; the arguments are those of :func:`evaluate`."""
    data = validated_images(classifier, data, None, batch_size)

    def differs(indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
        first, second = (
            classifier.for_images(indices, draw)(x).argmax(1)
            for draw in (NoiseStream.DEFENDER, NoiseStream.SECOND_DRAW)
        )
        return first != second

    return map_images(differs, data, batch_size, name, progress)


def approximation(classifier: BayesClassifier, data: Images, batch_size: int = 100) -> Rate | None:
    """Share of the predicted classes that lower precision or pruning changes, with the same noise.

    None where the classifier's options ask for neither. The arguments are those of :func:`evaluate`.
    """
    if classifier.options.exact:
        return None
    data, exact = validated_images(classifier, data, None, batch_size), classifier.exact()

    def differs(indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
        ours, theirs = (each.for_images(indices, NoiseStream.DEFENDER)(x).argmax(1) for each in (classifier, exact))
        return ours != theirs

    return Rate.of(map_images(differs, data, batch_size))


def gradient_signs(classifier: BayesClassifier, data: Images, batch_size: int = 100) -> Rate | None:
    """Share of the pixels whose gradient of the cross-entropy has another sign than that without approximations.

    With the same noise. None where the classifier's options ask for no approximation. The arguments are those of
    :func:`evaluate`.
    """
    if classifier.options.exact and not classifier.options.negligible:
        return None
    data, exact = validated_images(classifier, data, None, batch_size), classifier.exact()

    def differs(indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            inputs = x.clone().requires_grad_()
            losses = (
                log_odds_against(each.for_images(indices, NoiseStream.ATTACKER)(inputs), y)
                for each in (classifier, exact)
            )
            ours, theirs = (torch.autograd.grad(loss.sum(), inputs)[0].sign() for loss in losses)
        return ours != theirs

    return Rate.of(map_images(differs, data, min(batch_size, classifier.images_at_once)).flatten())
