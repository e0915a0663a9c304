"""The bounds that training maximises, its optimizer, and measures of the information in the latent vector."""

import contextlib
import math

import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrobayes import distributed
from pyrobayes.factorizations import DeepBayes
from pyrobayes.inference import capture, importance
from pyrobayes.inference.capture import Captured
from pyrobayes.inference.noise import BaseNoise
from pyrobayes.options import TrainingOptions

COLLAPSED = 0.1  # nats: below this the latent vector carries as good as nothing


class Inference(SVI):
    """Pyro's `SVI` of one factorization, with one optimizer for all parameters. A step never waits for the device.

    Every process draws the noise of z for the whole batch, so that several processes give the results of one. On a CUDA
    device a step of one process is replayed as a graph, see :mod:`pyrobayes.inference.capture`.
    """

    def __init__(self, factorization: DeepBayes, options: TrainingOptions):
        self.factorization = factorization
        particles = options.train_particles
        self._pairs = bool(options.antithetic)
        self._noise_shape = (particles // 2 if self._pairs else particles,) if particles > 1 else ()
        self._noise: Tensor | None = None  # of z in the current step
        bound = _ImportanceWeighted if options.bound == "importance-weighted" else _ELBO
        elbo = bound(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
        super().__init__(factorization.model, self._guide, OneOptimizer.of(factorization, options.lr), elbo)
        self._capturable = factorization.capturable
        self._replayed = Captured(self._step, "a training step", forget=self.optim.optimizer.zero_grad)

    def step(self, x: Tensor, y: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Take a step on images [B, channels, height, width] of classes [B]; returns the bound in nats per image, a scalar."""
        shape = (*self._noise_shape, len(x), self.factorization.latent)
        noise = torch.randn(shape, device=x.device, dtype=x.dtype)
        if self._pairs:  # terms that are linear in the noise cancel in the mean of a pair
            noise = torch.cat([noise, -noise])
        if not self._capturable or distributed.processes() > 1 or not capture.serves(x, y, noise):
            return self._step(x, y, noise, kl_weight)
        return self._replayed(x, y, noise, x.new_full((), kl_weight))

    def _step(self, x: Tensor, y: Tensor, noise: Tensor, kl_weight: float | Tensor) -> Tensor:
        """A step as a function of its arguments, the weights and the optimizer's state."""
        mine = distributed.mine()
        self._noise = noise[..., mine, :]
        if len(y[mine]):
            with importance.ONE_THREAD, LatentWeight(kl_weight, self.factorization.structure.latent):
                loss = self.loss_and_grads(self.model, self.guide, len(x), x[mine], y[mine])
        else:  # fewer images than processes
            loss = x.new_zeros(())
        if distributed.processes() > 1:
            distributed.add_up(loss, *self.optim.gradients())
        self.optim()
        self._noise = None
        return -loss

    def _guide(self, x: Tensor, y: Tensor):
        with contextlib.nullcontext() if self._noise is None else BaseNoise(self._noise):
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


def learning_rate(options: TrainingOptions, step: int, steps: int) -> float:
    """The learning rate of step `step`, from 0, of `steps`.

    `one-cycle` rises from lr/25 to lr over the first 30% and falls to lr/250,000, both along a cosine
    (Smith and Topin 2019, with the defaults of torch.optim.lr_scheduler.OneCycleLR); `cosine` falls from lr to 0.
    """
    start, end, share, top = options.lr, options.lr / 250_000, 0.0, max(1, round(0.3 * steps))
    if options.schedule == "constant":
        return options.lr
    if options.schedule == "cosine":
        end, share = 0.0, step / steps
    elif step < top:
        start, end, share = options.lr / 25, options.lr, step / top
    else:
        share = (step - top) / max(1, steps - 1 - top)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class OneOptimizer(PyroOptim):
    """One Adam for all parameters. Pyro makes one for each, which takes a fifth to a half of a step here."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        super().__init__(type(optimizer), {})
        self.optimizer = optimizer

    @classmethod
    def of(cls, factorization: DeepBayes, lr: float) -> "OneOptimizer":
        """The optimizer of a factorization. On a CUDA device its state and learning rate are there, so that a graph reads them."""
        device = next(factorization.parameters()).device
        on_cuda = device.type == "cuda"
        rate = torch.tensor(lr, dtype=torch.float32, device=device) if on_cuda else lr
        fused = on_cuda or device.type == "cpu"
        return cls(torch.optim.Adam(factorization.parameters(), lr=rate, fused=fused, capturable=on_cuda))

    @property
    def group(self) -> dict:
        """Its parameters, `params`, and their learning rate, `lr`, a number or a tensor."""
        return self.optimizer.param_groups[0]

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        if isinstance(self.group["lr"], Tensor):
            self.group["lr"].fill_(lr)
        else:
            self.group["lr"] = lr

    def __call__(self, params=None, *args, **kwargs) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradients(self) -> list[Tensor]:
        """The gradients of all parameters; zeros for a parameter without one."""
        for parameter in self.group["params"]:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return [parameter.grad for parameter in self.group["params"]]

    def state(self) -> dict[str, Tensor]:
        """Adam's step and moments of every parameter, `0.exp_avg` for the first; zero before its first step."""
        tensors = {}
        for index, parameter in enumerate(self.group["params"]):
            zeros = torch.zeros_like(parameter)
            fresh = {"step": torch.zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros}
            entry = self.optimizer.state.get(parameter) or fresh
            tensors |= {f"{index}.{key}": value for key, value in entry.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the tensors that :meth:`state` gave."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})


class LatentWeight(Messenger):
    """Scales the log-probabilities of the latent sites, in model and guide alike, and so the KL term of the ELBO.

    A weight that rises from 0 to 1 keeps the posterior from collapsing at the start (Bowman et al. 2016).
    """

    def __init__(self, weight: float | Tensor, latent: tuple[str, ...]):
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
    """True if q(z|x, y) has collapsed: its KL divergence, in nats per image, is near zero.

    Where the model's own p(z|...) sees x (D.X) that is as it should be, unless the model is also no better than chance.
    """
    by_chance = accuracy < 1.5 / factorization.num_classes
    suspect = by_chance or not factorization.structure.latent_depends_on_images
    return kl < COLLAPSED and suspect and not factorization.comparator  # which approximates nothing
