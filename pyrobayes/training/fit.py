"""Training by stochastic variational inference, in a way that can be stopped at any instant and go on.

What is maximised is the ELBO, E over q(z|x, y) of log p(x, z, y) - log q(z|x, y), per image, with Pyro's
`SVI` and `Trace_ELBO`, or the importance-weighted bound of several particles. Processes that `torchrun` started share every batch.
"""

import contextlib
import copy
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyro
import torch
from torch import Tensor

from pyrobayes import distributed
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError
from pyrobayes.factorizations import DeepBayes
from pyrobayes.factorizations.conditionals import DataClasses
from pyrobayes.inference import importance
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.options import TrainingOptions
from pyrobayes.progress import Progress, shows_progress
from pyrobayes.randomness import random_state, seeded, set_random_state
from pyrobayes.tensor_files import digest
from pyrobayes.training.batches import ADVERSARIAL_WARMUP, AttackedBatches, adversarial_eps, augmented
from pyrobayes.training.bounds import Inference, collapsed, latent_kl
from pyrobayes.training.checkpoint import Config
from pyrobayes.training.metrics import Epoch
from pyrobayes.training.optimizer import learning_rate
from pyrobayes.training.run_folder import NonFiniteELBO, RunFolder, Unsaved

VALIDATION_IMAGES = 500  # looked at after every epoch
LOOK_EVERY = 50  # steps between looks at the ELBO where a look makes the host wait for the device


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted, and has been saved."""


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
        return run.train(Unsaved(), progress)
    with RunFolder(
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

    def train(self, folder: "RunFolder | Unsaved", progress: Progress) -> list[Epoch]:
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
        warmup = self.options.adversarial_warmup
        warmup = ADVERSARIAL_WARMUP if warmup is None else warmup
        unseen = torch.zeros((), device=self.device)  # sum over images since the last look
        attacked = AttackedBatches(self.factorization, self.options, self._seed(number))
        while self.step < len(batches):
            x, y = self.training.batch(batches[self.step])
            x = augmented(x, self.options.augmentation)
            x = attacked(batches[self.step], x, y, self._ramp(warmup))
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

    def _agreed(self, interrupted: Callable[[], bool]) -> bool:
        """Whether any process was interrupted: then all stop at the same step."""
        anyone = torch.tensor(float(interrupted()), device=self.device)
        distributed.add_up(anyone)
        return anyone.item() > 0

    def _check(self, elbo: float, where: str, folder: "RunFolder | Unsaved") -> None:
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
        """Take over what :meth:`state` gave."""
        self.factorization.load_state_dict(_under("weights.", tensors))
        self.inference.optim.restore(_under("optimizer.", tensors))
        self.random_state = _under("random.", tensors)
        if self.averaged:
            self.kept.load_state_dict(_under("average.", tensors))
        self.epochs = [Epoch(**epoch) for epoch in json.loads(metadata["epochs"])]
        for name, value in json.loads(metadata["place"]).items():
            setattr(self, name, value)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


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
