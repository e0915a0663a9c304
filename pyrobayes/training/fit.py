"""Training by stochastic variational inference, in a way that can be stopped at any instant and go on.

What is maximised is the ELBO, E over q(z|x, y) of log p(x, z, y) - log q(z|x, y), per image, with Pyro's
`SVI` and `Trace_ELBO`, or the importance-weighted bound of several particles. Processes that `torchrun` started share every batch.
"""

import contextlib
import copy
import importlib.util
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn import functional as F

from pyrobayes import distributed
from pyrobayes.attacks import PGD
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError, PyrobayesError
from pyrobayes.factorizations import DeepBayes
from pyrobayes.factorizations.conditionals import DataClasses
from pyrobayes.files import locked, write_atomically
from pyrobayes.inference import importance
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.inference.noise import BaseNoise
from pyrobayes.options import TrainingOptions
from pyrobayes.progress import Progress, shows_progress
from pyrobayes.randomness import random_state, seeded, set_random_state
from pyrobayes.training.checkpoint import CONFIG, METRICS, MODEL, RESUME, Config, digest, read_tensors, save_tensors

VALIDATION_IMAGES = 500  # looked at after every epoch
LOOK_EVERY = 50  # steps between looks at the ELBO where a look makes the host wait for the device
ADVERSARIAL_STEPS = 10
ADVERSARIAL_WARMUP = 0.5
SHIFT = 2  # pixels
COLLAPSED = 0.1  # nats: below this the latent vector carries as good as nothing


class NonFiniteELBO(PyrobayesError, ArithmeticError):
    """The ELBO, or a weight, became infinite or not a number."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted, and has been saved."""


@dataclass(frozen=True)
class Epoch:
    """What was measured after one epoch. `validation_...` are over held-out images of the training set, with the average
    of the weights where there is one.

    Attributes:
        epoch: counted from 1.
        elbo: mean over the epoch's training images of the bound, nats per image, as optimised (with the KL warm-up).
        validation_elbo: nats per image, without warm-up.
        validation_kl: mean of log q(z|x, y) - log p(z|...), nats per image: what z carries.
        validation_accuracy: share of the images classified correctly, K = 10.
        collapsed: whether z carries as good as nothing of x and y, see :func:`pyrobayes.training.fit.collapsed`.
        lr: learning rate of the epoch's last step.
        seconds: what the epoch took.
    """

    epoch: int
    elbo: float
    validation_elbo: float
    validation_kl: float
    validation_accuracy: float
    collapsed: bool
    lr: float
    seconds: float


@shows_progress
def fit(
    factorization: DeepBayes,
    data: Images,
    options: TrainingOptions | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    progress: Progress | bool | None = True,
) -> list[Epoch]:
    """Train a factorization.

    Args:
        factorization: with fresh weights; trained in place, on the device that it is on.
        data: training images; a twelfth of them is held out for validation.
        options: see :class:`pyrobayes.TrainingOptions`; the model's own where left out.
        out: the run's folder, saved after every epoch; nothing is saved where it is left out.
        resume: go on with the run in `out`; it must have the same configuration.
        overwrite: train although `out` holds a run, and replace it after the first epoch.
        tensorboard: write TensorBoard event files to `out/tensorboard` too (needs the package tensorboard).
        progress: True shows a bar on a terminal and in a notebook, False or None shows nothing; a
            :class:`pyrobayes.Progress` is called after every step and every epoch.

    Returns:
        One record an epoch.

    Raises:
        InputError: the arguments don't fit each other, or the folder can't be used.
        NonFiniteELBO: training broke down; the last good checkpoint is kept.
        TrainingInterrupted: by Ctrl-C; the run is saved where it stood.
    """
    if factorization.image_shape != data.image_shape or factorization.num_classes != len(data.classes):
        raise InputError(
            f"{factorization.name} was built for images {list(factorization.image_shape)} of "
            f"{factorization.num_classes} classes, but {data.name} has {list(data.image_shape)} of {len(data.classes)}"
        )
    if len(data) < 2:
        raise InputError(f"training takes at least two images, one of them for validation, got {len(data)}")
    options = TrainingOptions.of(factorization.name) if options is None else options
    adversarial_eps(factorization, options)
    if resume and (overwrite or out is None):
        raise InputError("resume needs the folder of a run (out), and excludes overwrite")
    if data.split != "train":
        raise InputError(f"training takes training images, got the split '{data.split}' of {data.name}")
    run = _Run(factorization, data, options)
    if out is None:
        return run.train(_Unsaved(), progress)
    with _Folder(
        Path(out), Config.of(factorization.name, factorization.networks, data, options), tensorboard
    ) as folder:
        folder.prepare(run, resume, overwrite)
        return run.train(folder, progress)


class _Run:
    """One training: the model, the optimizer, and where in the course of the training it is."""

    def __init__(self, factorization: DeepBayes, data: Images, options: TrainingOptions):
        self.factorization, self.options = factorization, options
        self.device = next(factorization.parameters()).device
        training, validation = data.hold_out()
        self.training, self.validation = training.to(self.device), validation.to(self.device)
        self.inference = Inference(factorization, options)
        frequencies = training.labels.bincount(minlength=len(data.classes)) / len(training)
        for module in factorization.modules():
            if isinstance(module, DataClasses):
                if not frequencies.all():
                    missing = ", ".join(name for name, share in zip(data.classes, frequencies) if not share)
                    raise InputError(
                        f"{factorization.name} has p_D(y), the class frequencies of the training images, and there is none of "
                        f"{missing}: train on images of every class"
                    )
                module.frequencies.copy_(frequencies)
        self.kept = copy.deepcopy(factorization).requires_grad_(False) if options.averaging else factorization
        self.epochs: list[Epoch] = []
        self.step = 0  # of the current epoch
        self.elbo_sum = 0.0  # of the current epoch's images
        self.seconds = 0.0  # of the current epoch
        self.random_state: dict[str, Tensor] = {}  # of a run that goes on; else it follows from the seed

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.training) / self.options.batch_size)

    def train(self, folder: "_Folder | _Unsaved", progress: Progress) -> list[Epoch]:
        self.factorization.requires_grad_(True)
        with (
            pyro.validation_enabled(importance.VALIDATE),
            seeded(self._seed(0), self.device),
            _postponed_interrupt() as interrupted,
        ):
            set_random_state(self.random_state)
            distributed.must_agree("where the training starts", lambda: digest(*self.state()))
            stopped = False
            while len(self.epochs) < self.options.epochs:
                epoch = self._epoch(folder, progress, interrupted)
                self.epochs.append(epoch)
                self.step, self.elbo_sum, self.seconds = 0, 0.0, 0.0
                folder.save(self)
                progress.epoch(self.factorization.name, epoch, self.options.epochs)
                stopped = self._agreed(interrupted)
                if stopped and len(self.epochs) < self.options.epochs:
                    raise TrainingInterrupted(f"stopped after epoch {epoch.epoch} of {self.options.epochs}")
        folder.complete(self)
        if self.averaged:
            self.factorization.load_state_dict(self.kept.state_dict())
        if stopped:  # so that nothing else is begun
            raise TrainingInterrupted(
                f"stopped after the last of {self.options.epochs} epochs: this training is complete"
            )
        return self.epochs

    @property
    def averaged(self) -> bool:
        """Whether what is kept is an average of the weights of all steps."""
        return self.kept is not self.factorization

    @torch.no_grad()
    def _average(self) -> None:
        """Take the weights into the average, whose first is that of the first step alone (Kingma and Ba 2015, section 3)."""
        decay, steps = self.options.averaging, self._position()[0]
        for average, weight in zip(self.kept.parameters(), self.factorization.parameters()):
            average.lerp_(weight, (1 - decay) / (1 - decay**steps))

    def _epoch(self, folder, progress: Progress, interrupted) -> Epoch:
        number, start = len(self.epochs) + 1, time.monotonic() - self.seconds
        order = torch.randperm(len(self.training), generator=torch.Generator().manual_seed(self._seed(number)))
        batches = order.to(self.device).split(self.options.batch_size)
        every = LOOK_EVERY if self.device.type != "cpu" or distributed.processes() > 1 else 1
        unseen = torch.zeros((), device=self.device)  # sum over images since the last look
        attacked = self._attacked(number)
        while self.step < len(batches):
            x, y = self.training.batch(batches[self.step])
            x = augmented(x, self.options.augmentation)
            x = attacked(batches[self.step], x, y)
            self.inference.optim.lr = learning_rate(self.options, *self._position())
            elbo = self.inference.step(x, y, self._kl_weight())
            self.step += 1
            if self.averaged:
                self._average()
            unseen += elbo * len(x)
            if self.step % every and self.step < len(batches):
                continue
            seen, elbo = unseen.item(), elbo.item()
            self._check(seen, f"step {self.step}", folder)
            self.elbo_sum += seen
            unseen = torch.zeros_like(unseen)
            self.seconds = time.monotonic() - start
            progress.step(self.factorization.name, *self._position(), elbo)
            if self.step < len(batches) and self._agreed(interrupted):
                folder.save(self)
                raise TrainingInterrupted(f"stopped at step {self.step} of epoch {number} of {self.options.epochs}")
        elbo, kl, accuracy = self._validate()
        self._check(elbo, "the validation", folder)
        return Epoch(
            epoch=number,
            elbo=self.elbo_sum / len(self.training),
            validation_elbo=elbo,
            validation_kl=kl,
            validation_accuracy=accuracy,
            collapsed=collapsed(self.kept, kl, accuracy),
            lr=self.inference.optim.lr,
            seconds=time.monotonic() - start,
        )

    def _attacked(self, epoch: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Of a batch (indices, x, y) the images to train on: PGD's against the classifier as it is then, or x itself."""
        eps, mine = adversarial_eps(self.factorization, self.options), distributed.mine()
        if not eps:
            return lambda indices, x, y: x
        steps, seed = self.options.adversarial_steps or ADVERSARIAL_STEPS, self._seed(epoch)
        warmup = self.options.adversarial_warmup
        pgd = PGD(steps=steps, random_start=steps > 1, seed=seed)
        classifier = BayesClassifier(self.factorization, self.options.train_particles, seed=seed)

        def attacked(indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
            if len(y[mine]):
                now = eps * self._ramp(ADVERSARIAL_WARMUP if warmup is None else warmup)
                x[mine] = pgd(classifier.for_images(indices[mine]), x[mine], y[mine], now, indices=indices[mine])
            return x

        return attacked

    def _agreed(self, interrupted: Callable[[], bool]) -> bool:
        """Whether any process was interrupted: then all stop at the same step."""
        anyone = torch.tensor(float(interrupted()), device=self.device)
        distributed.add_up(anyone)
        return anyone.item() > 0

    def _check(self, elbo: float, where: str, folder: "_Folder | _Unsaved") -> None:
        if not math.isfinite(elbo):
            raise NonFiniteELBO(
                f"the ELBO is {elbo} at {where} of epoch {len(self.epochs) + 1}: training has broken down; "
                f"try a smaller learning rate (lr is {self.options.lr:g}). {folder.kept(self)}"
            )

    def _position(self) -> tuple[int, int]:
        """Steps taken, and steps of the whole run."""
        return len(self.epochs) * self.steps_per_epoch + self.step, self.options.epochs * self.steps_per_epoch

    def _ramp(self, share: float) -> float:
        """What rises to 1 over the first share of the run, linearly."""
        step, steps = self._position()
        return min(1.0, (step + 1) / (share * steps)) if share else 1.0

    def _kl_weight(self) -> float:
        """The weight of the KL term: rises to 1 with the fourth power of time, so that z is of use before it costs."""
        return self._ramp(self.options.kl_warmup) ** 4

    @torch.no_grad()
    def _validate(self) -> tuple[float, float, float]:
        """ELBO and KL in nats per image, and accuracy, over the first validation images."""
        data = self.validation.head(min(VALIDATION_IMAGES, len(self.validation)))
        classifier = BayesClassifier(self.kept, particles=10, noise="fixed", seed=self.options.seed)
        elbo, kl, correct = 0.0, 0.0, 0
        for _, x, y in data.batches(50):
            estimate = classifier.estimate(x)
            elbo += estimate.log_weights.mean(0)[y, torch.arange(len(y), device=y.device)].sum().item()
            correct += (estimate.log_joint.argmax(1) == y).sum().item()
            kl += latent_kl(self.kept, x, y).sum().item()
        return elbo / len(data), kl / len(data), correct / len(data)

    # Randomness: the order of an epoch's images follows from (seed, epoch); the particles come from torch's
    # generator, whose state is part of the checkpoint.

    def _seed(self, epoch: int) -> int:
        return (self.options.seed * 100_003 + epoch) % 2**63

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """All that is needed to go on, as tensors and metadata."""
        tensors = {f"weights.{name}": value for name, value in self.factorization.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in self.inference.optim.state().items()}
        tensors |= {f"random.{name}": value for name, value in random_state(self.device).items()}
        if self.averaged:
            tensors |= {f"average.{name}": value for name, value in self.kept.state_dict().items()}
        place = {"step": self.step, "elbo_sum": self.elbo_sum, "seconds": self.seconds}
        return tensors, {"epochs": json.dumps([vars(epoch) for epoch in self.epochs]), "place": json.dumps(place)}

    def restore(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """Take over what :meth:`state` gave, except the weights."""
        self.inference.optim.restore(_under("optimizer.", tensors))
        self.random_state = _under("random.", tensors)
        if self.averaged:
            self.kept.load_state_dict(_under("average.", tensors))
        self.epochs = [Epoch(**epoch) for epoch in json.loads(metadata["epochs"])]
        for name, value in json.loads(metadata["place"]).items():
            setattr(self, name, value)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def adversarial_eps(factorization: DeepBayes | type[DeepBayes], options: TrainingOptions) -> float:
    """The bound of the attack that a model is trained under, 0 for none; :class:`InputError` if more is said of none."""
    eps = factorization.adversarial_eps if options.adversarial_eps is None else options.adversarial_eps
    for name in ("adversarial_steps", "adversarial_warmup"):
        if getattr(options, name) and not eps:
            raise InputError(
                f"{name.replace('_', ' ')} says how to attack, but the adversarial eps of {factorization.name} is 0: give one, or "
                "leave it out"
            )
    return eps


def learning_rate(options: TrainingOptions, step: int, steps: int) -> float:
    """The learning rate of step `step`, from 0, of `steps`.

    `one-cycle` rises from lr/25 to lr over the first 30% and falls to lr/250,000, both along a cosine
    (Smith and Topin 2019, with the defaults of torch.optim.lr_scheduler.OneCycleLR); `cosine` falls from lr to 0.
    """

    def along_cosine(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    if options.schedule == "constant":
        return options.lr
    if options.schedule == "cosine":
        return along_cosine(options.lr, 0.0, step / steps)
    top = max(1, round(0.3 * steps))
    if step < top:
        return along_cosine(options.lr / 25, options.lr, step / top)
    return along_cosine(options.lr, options.lr / 250_000, (step - top) / max(1, steps - 1 - top))


def augmented(x: Tensor, how: str | None) -> Tensor:
    """Images [B, channels, height, width], each moved at random by up to two pixels, and mirrored at random if so asked.

    What is moved in from outside is 0.
    """
    if how is None:
        return x
    if how == "shift-flip":
        x = x.flip(3).where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x)
    height, width = x.shape[2:]
    down, right = torch.randint(2 * SHIFT + 1, (2, len(x), 1), device=x.device)
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    larger, image = F.pad(x, (SHIFT,) * 4), torch.arange(len(x), device=x.device)[:, None, None]
    return larger.movedim(1, 3)[image, (rows + down)[:, :, None], (columns + right)[:, None]].movedim(3, 1)


class Inference(SVI):
    """Pyro's `SVI` of one factorization, with one optimizer for all parameters, whose steps never wait for the device.

    The noise of z is drawn for the whole batch by every process, which then takes its share of the images: several
    processes do what one would.
    """

    def __init__(self, factorization: DeepBayes, options: TrainingOptions):
        self.factorization = factorization
        particles = options.train_particles
        self._pairs = bool(options.antithetic)
        self._noise_shape = (particles // 2 if self._pairs else particles,) if particles > 1 else ()
        self._noise: Tensor | None = None  # of z in the step that is under way
        fused = next(factorization.parameters()).device.type in ("cpu", "cuda")
        adam = torch.optim.Adam(factorization.parameters(), lr=options.lr, fused=fused)
        bound = _ImportanceWeighted if options.bound == "importance-weighted" else _ELBO
        elbo = bound(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
        super().__init__(factorization.model, self._guide, _OneOptimizer(adam), elbo)

    def step(self, x: Tensor, y: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Climb the ELBO of a batch of images [B, channels, height, width] of classes [B]: nats per image, a scalar."""
        shape = (*self._noise_shape, len(x), self.factorization.latent)
        noise = torch.randn(shape, device=x.device, dtype=x.dtype)
        if self._pairs:  # what is linear in it cancels in their mean
            noise = torch.cat([noise, -noise])
        mine = distributed.mine()
        self._noise = noise[..., mine, :]
        if len(y[mine]):
            with LatentWeight(kl_weight):
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
    """`Trace_ELBO` of a reparameterized guide, whose loss is a tensor: `Trace_ELBO` itself makes numbers of it."""

    def loss_and_grads(self, model, guide, images: int, *args) -> Tensor:
        """The loss of a part of a batch of so many images, in nats per image of the batch."""
        (model_trace, guide_trace), *_ = self._get_traces(model, guide, args, {})
        loss = -self.bound(model_trace, guide_trace) / images
        loss.backward()
        return loss.detach()

    def bound(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Tensor:
        """The sum over images of the mean log weight of their particles."""
        return (model_trace.log_prob_sum() - guide_trace.log_prob_sum()) / self.num_particles


class _ImportanceWeighted(_ELBO):
    """The bound of Burda et al. (2016), equation 8: the log of the particles' mean weight. The ELBO where there is one."""

    def bound(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Tensor:
        log_weights = importance.log_prob(model_trace) - importance.log_prob(guide_trace)  # [K, B]
        return (log_weights.logsumexp(0) - math.log(self.num_particles)).sum()


class LatentWeight(Messenger):
    """Scales the log-probability of site z, in model and guide alike, and so the KL term of the ELBO.

    A weight that rises from 0 to 1 keeps the posterior from collapsing at the start (Bowman et al. 2016).
    """

    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg):
        if msg["name"] == "z":
            msg["scale"] = msg["scale"] * self.weight


def latent_kl(factorization: DeepBayes, x: Tensor, y: Tensor) -> Tensor:
    """log q(z|x, y) - log p(z|...) at one z ~ q(z|x, y) for each image, [B] nats; 0 without a z."""
    guide = poutine.trace(factorization.guide).get_trace(x, y)
    if "z" not in guide:
        return torch.zeros(len(x), device=x.device)
    model = poutine.trace(poutine.replay(factorization.model, trace=guide)).get_trace(x, y)
    sites = [trace.nodes["z"] for trace in (guide, model)]
    log_q, log_p = (site["fn"].log_prob(site["value"]) for site in sites)
    return log_q - log_p


def collapsed(factorization: DeepBayes, kl: float, accuracy: float) -> bool:
    """Whether the posterior q(z|x, y) has collapsed, by its KL divergence in nats per image and the accuracy.

    Where the model's own p(z|...) doesn't see x, that is a divergence near zero. Where it does (D.X), a small
    divergence is as it should be; there the model has collapsed when it is also no better than chance.
    """
    if factorization.comparator:  # nothing is approximated
        return False
    chance = accuracy < 1.5 / factorization.num_classes
    return kl < COLLAPSED and ("x" not in factorization.parents()["z"] or chance)


class _OneOptimizer(PyroOptim):
    """One torch optimizer for all parameters, where Pyro makes one for each (a fifth to a half of a step here)."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        super().__init__(type(optimizer), {})
        self.optimizer = optimizer

    def __call__(self, params=None, *args, **kwargs) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradients(self) -> list[Tensor]:
        """The gradients of all parameters, zero where there is none."""
        parameters = self.optimizer.param_groups[0]["params"]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return [parameter.grad for parameter in parameters]

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        self.optimizer.param_groups[0]["lr"] = value

    def state(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


class _Unsaved:
    """Where a training goes that nobody wants to keep."""

    def save(self, run: _Run) -> None: ...

    def complete(self, run: _Run) -> None: ...

    def kept(self, run: _Run) -> str:
        return "Nothing was saved, since no folder was given."


class _Folder:
    """The folder of a run, locked while it is trained in.

    `resume.safetensors` is written first and holds the configuration too: from the moment that it is there, the run
    can be resumed, whatever of the other files is missing or still of a run that it replaces.
    """

    def __init__(self, path: Path, config: Config, tensorboard: bool):
        self.path, self.config = path, config
        self.owner = {"model": config.model, "config": config.identity}
        self._tensorboard = tensorboard
        self._writes = distributed.rank() == 0  # of several processes one does
        self._writer = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> "_Folder":
        if self._writes:
            self._held.enter_context(locked(self.path, "is being trained in by another process; choose another folder"))
        return self

    def __exit__(self, *failure) -> None:
        if self._writer:
            self._writer.close()
        self._held.close()

    def prepare(self, run: _Run, resume: bool, overwrite: bool) -> None:
        """Take up the run that is there, or see that there is none."""
        if self._tensorboard and not importlib.util.find_spec("tensorboard"):
            raise InputError("TensorBoard files need the package tensorboard: pip install tensorboard")
        if resume:
            check_same_config(saved_config(self.path), self.config, self.path)
            tensors, metadata = read_tensors(self.path / RESUME)
            run.factorization.load_state_dict(_under("weights.", tensors))
            run.restore(tensors, metadata)
        elif not overwrite:
            check_no_run(self.path)
        if self._tensorboard and self._writes:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.path / "tensorboard")

    def save(self, run: _Run) -> None:
        if not self._writes:
            return
        tensors, metadata = run.state()
        if not all(value.isfinite().all() for name, value in tensors.items() if name.startswith("weights.")):
            raise NonFiniteELBO(f"weights are not finite after epoch {len(run.epochs)}: training has broken down")
        save_tensors(self.path / RESUME, tensors, metadata | self.owner | {"configuration": self.config.text()})
        if run.step == 0:
            self.publish(run)
            if self._writer:
                for name, value in vars(run.epochs[-1]).items():
                    self._writer.add_scalar(name, value, run.epochs[-1].epoch)
                self._writer.flush()

    def publish(self, run: _Run) -> None:
        """Write what others read: weights, configuration and metrics after the last complete epoch."""
        if not self._writes:
            return
        trained = {"epoch": str(len(run.epochs))}
        save_tensors(self.path / MODEL, run.kept.state_dict(), self.owner | trained)
        write_atomically(self.path / CONFIG, self.config.text())
        write_atomically(self.path / METRICS, self._metrics(run))

    @staticmethod
    def _metrics(run: _Run) -> str:
        return "".join(json.dumps(vars(epoch)) + "\n" for epoch in run.epochs)

    def complete(self, run: _Run) -> None:
        """Publish what isn't there, of a run that was killed between its last writes."""
        try:
            _, metadata = read_tensors(self.path / MODEL)
            there = Config.read(self.path) == self.config and (self.path / METRICS).read_text() == self._metrics(run)
            published = there and metadata == self.owner | {"epoch": str(len(run.epochs))}
        except (InputError, OSError, ValueError):
            published = False
        if not published:
            self.publish(run)

    def kept(self, run: _Run) -> str:
        return (
            f"{self.path} keeps the weights after epoch {len(run.epochs)}." if run.epochs else "Nothing was saved yet."
        )


def begun(path: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (path / RESUME).exists() or (path / CONFIG).exists()


def check_no_run(path: Path) -> None:
    """Refuse a folder that holds a run."""
    if begun(path):
        raise InputError(
            f"{path} already holds a run: go on with it (--resume), replace it (--overwrite), or choose another folder"
        )


def check_same_config(saved: Config, wanted: Config, path: Path) -> None:
    """Refuse to go on with the run at `path` with another configuration than its own."""
    if saved != wanted:
        what = saved.differences(wanted)
        raise InputError(
            f"the run in {path} can't be resumed with another configuration: there, {what}; take another folder for it"
        )


def saved_config(path: Path) -> Config:
    """The configuration of the run in a folder that training can go on with; :class:`InputError` if there is none."""
    _, metadata = read_tensors(path / RESUME)
    try:
        return Config.parse(metadata["configuration"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / RESUME} was written by another version: {error}; train the model again (--overwrite)"
        ) from error


@contextlib.contextmanager
def _postponed_interrupt() -> Iterator[Callable[[], bool]]:
    """Let a first Ctrl-C wait until the step is done: yields whether there was one. A second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals belong to the main thread
        return
    pressed = threading.Event()

    def handle(number, frame):
        pressed.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
