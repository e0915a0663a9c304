"""How often a classifier gives each class under Gaussian noise: the draws of randomized smoothing.

The smoothed classifier of Cohen, Rosenfeld and Kolter (2019) gives the class that the base classifier gives most often when
every pixel has normal noise of standard deviation sigma. Their theorem 1 is about "any deterministic or random function":
the noise of a random base classifier, here the draws of z, is part of the probability that they bound. So every draw takes
fresh Gaussian noise and fresh noise of the classifier. Under fixed noise the base classifier is deterministic.

Noisy pixels leave [0, 1] and are not clipped.
"""

import torch
from torch import Tensor

from pyrobayes import distributed
from pyrobayes.inference.interface import Classifier
from pyrobayes.inference.noise import NoiseStream, Purpose, key_of, normals_of_images, splitmix
from pyrobayes.progress import Progress, silent


def gaussian_noise(seed: int, indices: Tensor, numbers: Tensor, shape: torch.Size) -> Tensor:
    """Standard normal numbers, [B, ...shape] float32, which follow from the seed, images' indices [B] and draws' numbers [B]."""
    return normals_of_images(splitmix(splitmix(key_of(seed, Purpose.SMOOTHING, 0), numbers), indices), shape)


@torch.no_grad()
def class_counts(
    classifier: Classifier,
    x: Tensor,
    sigma: float,
    draws: range,
    *,
    indices: Tensor | None = None,
    batch_size: int = 1000,
    name: str = "",
    progress: Progress = silent,
) -> Tensor:
    """How often each class is given under the noise of the draws, [N, C] on the CPU; all processes share the work.

    Args:
        classifier: the base classifier; its options have the seed of all noise.
        x: images [N, channels, height, width] in [0, 1], on the classifier's device.
        sigma: standard deviation of the noise. The same draws are scaled for every sigma.
        draws: numbers of draws. Two ranges that don't meet are independent.
        indices: [N] the images' places in their data set; from 0 on where left out.
        batch_size: noisy copies at a time, of one image or several; changes memory and speed, not results.
        name, progress: told how many images are done.
    """
    images, classes, each = len(x), classifier.num_classes, len(draws)
    noisy = classifier.unbounded()
    indices = torch.arange(images) if indices is None else indices.cpu()
    counts = torch.zeros(images * classes, dtype=torch.long, device=x.device)
    for first in distributed.share(range(0, images * each, batch_size)):
        rows = torch.arange(first, min(first + batch_size, images * each))
        image, number = rows // each, draws.start + draws.step * (rows % each)
        place, numbers = indices[image].to(x.device), number.to(x.device)
        noise = gaussian_noise(classifier.options.seed, place, numbers, x.shape[1:])
        drawn = noisy.for_images(indices[image], NoiseStream.SMOOTHING).resampled(number)
        image = image.to(x.device)
        predicted = drawn(x[image] + sigma * noise).argmax(1)
        counts.index_add_(0, image * classes + predicted, torch.ones_like(predicted))
        progress.images(name, (int(rows[-1]) + 1) // each, images)
    distributed.add_up(counts)
    return counts.reshape(images, classes).cpu()
