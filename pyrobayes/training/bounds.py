"""The bounds that training maximises, and measures of the information in the latent vector."""

import math

import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrobayes import distributed
from pyrobayes.factorizations import DeepBayes
from pyrobayes.inference import importance
from pyrobayes.inference.noise import BaseNoise
from pyrobayes.options import TrainingOptions
from pyrobayes.training.optimizer import OneOptimizer

COLLAPSED = 0.1  # nats: below this the latent vector carries as good as nothing


class Inference(SVI):
    """Pyro's `SVI` of one factorization, with one optimizer for all parameters. A step never waits for the device.

    Every process draws the noise of z for the whole batch and takes its share of the images. Several processes therefore
    give the results of one.
    """

    def __init__(self, factorization: DeepBayes, options: TrainingOptions):
        self.factorization = factorization
        particles = options.train_particles
        self._pairs = bool(options.antithetic)
        self._noise_shape = (particles // 2 if self._pairs else particles,) if particles > 1 else ()
        self._noise: Tensor | None = None  # of z in the current step
        fused = next(factorization.parameters()).device.type in ("cpu", "cuda")
        adam = torch.optim.Adam(factorization.parameters(), lr=options.lr, fused=fused)
        bound = _ImportanceWeighted if options.bound == "importance-weighted" else _ELBO
        elbo = bound(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
        super().__init__(factorization.model, self._guide, OneOptimizer(adam), elbo)

    def step(self, x: Tensor, y: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Take a step on images [B, channels, height, width] of classes [B]; returns the bound in nats per image, a scalar."""
        shape = (*self._noise_shape, len(x), self.factorization.latent)
        noise = torch.randn(shape, device=x.device, dtype=x.dtype)
        if self._pairs:  # terms that are linear in the noise cancel in the mean of a pair
            noise = torch.cat([noise, -noise])
        mine = distributed.mine()
        self._noise = noise[..., mine, :]
        if len(y[mine]):
            with LatentWeight(kl_weight, self.factorization.structure.latent):
                loss = self.loss_and_grads(self.model, self.guide, len(x), x[mine], y[mine])
        else:  # fewer images than processes
            loss = x.new_zeros(())
        if distributed.processes() > 1:
            distributed.add_up(loss, *self.optim.gradients())
        self.optim()
        self._noise = None
        return -loss

    def _guide(self, x: Tensor, y: Tensor):
        if self._noise is None:
            return self.factorization.guide(x, y)
        with BaseNoise(self._noise):
            return self.factorization.guide(x, y)


class _ELBO(Trace_ELBO):
    """`Trace_ELBO` of a reparameterized guide. Its loss stays a tensor; `Trace_ELBO` waits for the device to make it a number."""

    def loss_and_grads(self, model, guide, images: int, *args) -> Tensor:
        """The loss of a part of a batch, in nats per image of the batch, which has `images` images."""
        (model_trace, guide_trace), *_ = self._get_traces(model, guide, args, {})
        loss = -self.bound(model_trace, guide_trace) / images
        loss.backward()
        return loss.detach()

    def bound(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Tensor:
        """The sum over images of the mean log weight of their particles."""
        return (model_trace.log_prob_sum() - guide_trace.log_prob_sum()) / self.num_particles


class _ImportanceWeighted(_ELBO):
    """The bound of Burda et al. (2016), equation 8: the log of the particles' mean weight. With one particle it is the ELBO."""

    def bound(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Tensor:
        log_weights = importance.log_prob(model_trace) - importance.log_prob(guide_trace)  # [K, B]
        return (log_weights.logsumexp(0) - math.log(self.num_particles)).sum()


class LatentWeight(Messenger):
    """Scales the log-probabilities of the latent sites, in model and guide alike, and so the KL term of the ELBO.

    A weight that rises from 0 to 1 keeps the posterior from collapsing at the start (Bowman et al. 2016).
    """

    def __init__(self, weight: float, latent: tuple[str, ...]):
        super().__init__()
        self.weight, self.latent = weight, latent

    def _pyro_sample(self, msg):
        if msg["name"] in self.latent:
            msg["scale"] = msg["scale"] * self.weight


def latent_kl(factorization: DeepBayes, x: Tensor, y: Tensor) -> Tensor:
    """log q(z|x, y) - log p(z|...) at one z ~ q(z|x, y) for each image, [B] nats; 0 without latent variables."""
    if not (latent := factorization.structure.latent):
        return torch.zeros(len(x), device=x.device)
    guide = poutine.trace(factorization.guide).get_trace(x, y)
    model = poutine.trace(poutine.replay(factorization.model, trace=guide)).get_trace(x, y)
    return importance.log_prob(guide, latent) - importance.log_prob(model, latent)


def collapsed(factorization: DeepBayes, kl: float, accuracy: float) -> bool:
    """Whether the posterior q(z|x, y) has collapsed, by its KL divergence in nats per image and the accuracy.

    Where the model's own p(z|...) doesn't see x, that is a divergence near zero. Where it does (D.X), a small
    divergence is as it should be; there the model has collapsed when it is also no better than chance.
    """
    if factorization.comparator:  # nothing is approximated
        return False
    chance = accuracy < 1.5 / factorization.num_classes
    return kl < COLLAPSED and (chance or not factorization.structure.latent_depends_on_images)
