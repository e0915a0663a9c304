"""Images drawn from p(x|y), and reconstructions, by running the model forwards."""

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrobayes.devices import tf32
from pyrobayes.errors import InputError, check_integer
from pyrobayes.factorizations import DeepBayes
from pyrobayes.inference import importance
from pyrobayes.inference.classifier import check_images
from pyrobayes.randomness import seeded


class MeanImages(Messenger):
    """Takes the mean of p(x|...) where x isn't observed, since a fixed variance would add noise to every pixel."""

    def _pyro_sample(self, msg):
        if msg["name"] == "x" and not msg["is_observed"]:
            msg["value"] = msg["fn"].mean


@torch.no_grad()
def generate(factorization: DeepBayes, per_class: int = 8, *, candidates: int = 100, seed: int = 0) -> Tensor:
    """Images of every class, [per_class, C, channels, height, width] in [0, 1].

    Sampling-importance-resampling (Rubin 1988) gives each image. The model runs `candidates` times with y given, and one
    run is chosen with probability proportional to its density of y, so that its latent vector comes from p(z|y). Where y
    comes first (G.Y) all runs weigh the same. The image is the mean of p(x|...) in the chosen run.
    """
    check_integer("per_class", per_class, least=1, most=1000)
    check_integer("candidates", candidates, least=1)
    need_images(factorization, "can't generate images")
    device = next(factorization.parameters()).device
    y = torch.arange(factorization.num_classes, device=device)
    with seeded(seed, device), tf32(False, device), pyro.validation_enabled(importance.VALIDATE):
        return torch.stack([_one_of_each(factorization, y, candidates) for _ in range(per_class)])


def _one_of_each(factorization: DeepBayes, y: Tensor, candidates: int) -> Tensor:
    with MeanImages(), pyro.plate("candidates", candidates, dim=-2):
        trace = poutine.trace(factorization.model).get_trace(None, y)
    site = trace.nodes["y"]
    log_weights = site["fn"].log_prob(site["value"]).expand(candidates, len(y))
    chosen = torch.multinomial(log_weights.softmax(0).T, 1)[:, 0]
    return trace.nodes["x"]["value"][chosen, y]


@torch.no_grad()
def reconstruct(factorization: DeepBayes, x: Tensor, y: Tensor, *, seed: int = 0) -> Tensor:
    """The mean of p(x|z, ...) at z ~ q(z|x, y), [B, channels, height, width], for images of that shape and classes [B]."""
    need_images(factorization, "can't reconstruct images")
    check_images(x, factorization.image_shape)
    with seeded(seed, x.device), tf32(False, x.device), pyro.validation_enabled(importance.VALIDATE):
        guide = poutine.trace(factorization.guide).get_trace(x, y)
        with MeanImages():
            model = poutine.trace(poutine.replay(factorization.model, trace=guide)).get_trace(None, y)
    return model.nodes["x"]["value"]


def need_images(factorization: DeepBayes, complaint: str) -> None:
    """Refuse a model without p(x|...)."""
    if not factorization.structure.models_images:
        raise InputError(
            f"{factorization.name} {complaint}: in {factorization.formula()} the images come from the data; "
            "take a model with p(x|...)"
        )
