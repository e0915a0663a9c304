"""Images drawn from p(x|y), and reconstructions: the model run forwards."""

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrobayes import importance
from pyrobayes.classifier import check_images
from pyrobayes.factorizations import DeepBayes
from pyrobayes.options import InputError, whole
from pyrobayes.randomness import seeded


class MeanImages(Messenger):
    """Takes the mean of p(x|...) for an x that isn't observed: with a fixed variance, a draw would be noise."""

    def _pyro_sample(self, msg):
        if msg["name"] == "x" and not msg["is_observed"]:
            msg["value"] = msg["fn"].mean


@torch.no_grad()
def generate(factorization: DeepBayes, per_class: int = 8, *, candidates: int = 200, seed: int = 0) -> Tensor:
    """Images of every class, [per_class, C, channels, height, width] in [0, 1].

    Latent vectors are drawn from p(z|y) by sampling-importance-resampling (Rubin 1988): `candidates` runs of
    the model with y given, resampled by the density of y in each. Where y comes first (G.Y) all weigh the
    same. What is returned is the mean of p(x|...) at each of them.

    Raises:
        InputError: the model has no p(x|...), or an argument is out of range.
    """
    whole("per_class", per_class, least=1)
    whole("candidates", candidates, least=per_class)
    _need_images(factorization, "can't generate images")
    device = next(factorization.parameters()).device
    y = torch.arange(factorization.num_classes, device=device)
    with seeded(seed, device), pyro.validation_enabled(importance.VALIDATE):
        with MeanImages(), pyro.plate("candidates", candidates, dim=-2):
            trace = poutine.trace(factorization.model).get_trace(None, y)
        site = trace.nodes["y"]
        log_weights = site["fn"].log_prob(site["value"]).expand(candidates, len(y))
        chosen = torch.multinomial(log_weights.softmax(0).T, per_class).T
        images = trace.nodes["x"]["value"]
        return images[chosen, y]


@torch.no_grad()
def reconstruct(factorization: DeepBayes, x: Tensor, y: Tensor, *, seed: int = 0) -> Tensor:
    """The mean of p(x|z, ...) at z ~ q(z|x, y) for images [B, channels, height, width] of classes [B], same shape."""
    _need_images(factorization, "can't reconstruct images")
    check_images(x, factorization.image_shape)
    with seeded(seed, x.device), pyro.validation_enabled(importance.VALIDATE):
        guide = poutine.trace(factorization.guide).get_trace(x, y)
        with MeanImages():
            return (
                poutine.trace(poutine.replay(factorization.model, trace=guide)).get_trace(None, y).nodes["x"]["value"]
            )


def _need_images(factorization: DeepBayes, complaint: str) -> None:
    if not factorization.models_images:
        raise InputError(
            f"{factorization.name} {complaint}: in {factorization.formula()} the images come from the data; "
            "take a model with p(x|...)"
        )
