"""Substitutes of a classifier that can only be asked: networks which learn its answers, for attacks that transfer from them."""

import math

import torch
from torch import Tensor, nn

from pyrobayes import factorizations
from pyrobayes.data.images import Images
from pyrobayes.devices import tf32
from pyrobayes.errors import InputError, check_count, check_integer, check_seed, check_step_size
from pyrobayes.factorizations.comparators import CNN
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.inference.interface import Classifier
from pyrobayes.inference.modules import TRIED, as_classifier
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.options import TrainingOptions
from pyrobayes.randomness import seeded


def distill(
    victim: Classifier | nn.Module,
    data: Images,
    *,
    networks: str = "small",
    epochs: int = 10,
    rounds: int = 0,
    step: float = 0.1,
    batch_size: int = TrainingOptions.batch_size,
    lr: float = TrainingOptions.lr,
    seed: int = 0,
) -> BayesClassifier:
    """Train a convolutional network on a classifier's posteriors, the soft labels of Hinton, Vinyals and Dean (2015).

    It is a source for :class:`pyrobayes.attacks.Transfer`. Every image is one query, and a random classifier answers it with one
    draw of its noise, which is not the defender's. There are `len(data)` 2^`rounds` queries.

    Args:
        victim: the classifier that is asked, ours or any module from images to logits.
        data: training images. Their labels aren't looked at.
        networks: sizes of the network, as in :func:`pyrobayes.build`.
        epochs: passes over the images, in every round.
        rounds: Jacobian augmentations (Papernot et al. 2017, algorithm 1). Each doubles the images: every one gets a copy that is
            moved by `step` along the sign of the gradient of the substitute's log p(y|x), for the class y that the victim gave.
        step: lambda, the size of that move in every pixel.
        batch_size, lr: as in :class:`pyrobayes.TrainingOptions`.
        seed: of the initial weights and of the order of the images.
    """
    if not callable(victim) or isinstance(victim, factorizations.DeepBayes) or not isinstance(data, Images):
        raise InputError(
            "distill takes a classifier, as pyrobayes.load gives one, and images, as pyrobayes.load_data gives them"
        )
    victim = as_classifier(victim, data.batch(slice(TRIED))[0])
    check_count("epochs", epochs)
    check_integer("rounds", rounds, least=0)
    check_step_size("step", step)
    check_seed("seed", seed)
    device = victim.device
    x = data.to(device).batch(slice(None))[0]
    with seeded(seed, device), tf32(False, device):
        shapes = {"image_shape": data.image_shape, "num_classes": len(data.classes)}
        network = factorizations.build("cnn", networks, seed=seed, **shapes)
        network, answers = network.to(device), asked(victim, x, 0, batch_size)
        for _ in range(rounds):
            _train(network, x, answers, epochs, batch_size, lr)
            more = moved(network, x, answers.argmax(1), step, batch_size)
            answers = torch.cat([answers, asked(victim, more, len(x), batch_size)])
            x = torch.cat([x, more])
        _train(network, x, answers, epochs, batch_size, lr)
    return BayesClassifier(network.eval().requires_grad_(False), particles=1)


@torch.no_grad()
def asked(victim: BayesClassifier, x: Tensor, first: int, batch_size: int) -> Tensor:
    """The victim's posteriors [N, C] of images [N, channels, height, width], in queries that count from `first`."""
    places = torch.arange(first, first + len(x)).split(batch_size)
    queries = zip(places, x.split(batch_size))
    return torch.cat([victim.for_images(at, NoiseStream.ATTACKER)(images).softmax(1) for at, images in queries])


def moved(network: CNN, x: Tensor, y: Tensor, step: float, batch_size: int) -> Tensor:
    """Images [N, ...] after a step along the sign of the gradient of log p(y|x), cut to [0, 1]."""
    found = []
    for images, classes in zip(x.split(batch_size), y.split(batch_size)):
        images = images.clone().requires_grad_()
        gradient = torch.autograd.grad(network.p_y(images).log_prob(classes).sum(), images)[0]
        found.append((images + step * gradient.sign()).detach().clamp(0, 1))
    return torch.cat(found)


def _train(network: CNN, x: Tensor, answers: Tensor, epochs: int, batch_size: int, lr: float) -> None:
    """Lower the cross-entropy with the answers [N, C], by Adam with a one-cycle schedule up to `lr`."""
    optimizer, steps = torch.optim.Adam(network.parameters(), lr), epochs * math.ceil(len(x) / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps) if steps > 1 else None
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).to(x.device).split(batch_size):
            optimizer.zero_grad()
            (-(answers[chosen] * network.p_y(x[chosen]).logits).sum(1).mean()).backward()  # logits are log p(y|x)
            optimizer.step()
            if schedule:
                schedule.step()
