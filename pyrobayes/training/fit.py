"""Training by stochastic variational inference. It can be stopped at any instant and goes on with the same weights.

It maximises the ELBO per image, E over q(z|x, y) of log p(x, z, y) - log q(z|x, y), with Pyro's `SVI` and `Trace_ELBO`,
or the importance-weighted bound of several particles. Processes that `torchrun` started share every batch.
"""

import contextlib
import copy
import math
import os
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
from pyrobayes.devices import tf32
from pyrobayes.errors import InputError, PyrobayesError, check_flag
from pyrobayes.factorizations import DeepBayes
from pyrobayes.factorizations.conditionals import DataClasses
from pyrobayes.inference import importance
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.interrupts import Interrupted, postponed
from pyrobayes.options import TrainingOptions
from pyrobayes.progress import Progress, shows_progress
from pyrobayes.randomness import check_random_state, random_state, seeded, set_random_state
from pyrobayes.tensor_files import check_tensors, digest
from pyrobayes.training.batches import AttackedBatches, adversarial_eps, augmented
from pyrobayes.training.bounds import Inference, collapsed, latent_kl, learning_rate
from pyrobayes.training.checkpoint import Config
from pyrobayes.training.metrics import Epoch
from pyrobayes.training.run_folder import FinishedRun, Place, RunFolder, TrainingState, check_no_run

TRAINING_TF32 = False  # on a GPU; to be chosen by the table that `make gpu` measures
VALIDATION_IMAGES = 500  # classified after every epoch
LOOK_EVERY = 50  # steps between reads of the ELBO where a read makes the host wait for the device
_TRAINING = threading.RLock()


class NonFiniteELBO(PyrobayesError, ArithmeticError):
    """The ELBO, or a weight, became infinite or not a number."""


class TrainingInterrupted(Interrupted):
    """A signal such as Ctrl-C stopped a training, after it was saved to its folder; `complete` if nothing of it is left."""

    def __init__(self, message: str, number: int, complete: bool = False):
        super().__init__(message, number)
        self.complete = complete


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
    progress: Progress,
) -> list[Epoch]:
    """Train a factorization; returns one record an epoch.

    Args:
        factorization: with fresh weights; trained in place, on the device that it is on.
        data: training images; a twelfth of them is held out for validation, and with `all_images` trained on too.
        options: see :class:`pyrobayes.TrainingOptions`; the model's own where left out.
        out: the run's folder, saved after every epoch; nothing is saved where it is left out.
        resume: go on with the run in `out`; it must have the same configuration.
        overwrite: train although `out` holds a run, and replace it after the first epoch.
        tensorboard: write TensorBoard event files to `out/tensorboard` too (needs the package tensorboard).
        progress: True shows a bar, False or None nothing; a :class:`pyrobayes.Progress` is called after every step.

    Raises:
        InputError: the arguments don't fit each other, or the folder can't be used.
        NonFiniteELBO: training broke down; the last good checkpoint is kept.
        TrainingInterrupted: Ctrl-C, SIGTERM or SIGHUP stopped it; the run is saved where it stood.
    """
    _check_arguments(factorization, data, options, out)
    for name, value in (("resume", resume), ("overwrite", overwrite), ("tensorboard", tensorboard)):
        check_flag(name, value)
    options = TrainingOptions.of(factorization.name) if options is None else options
    adversarial_eps(factorization, options)
    if resume and (overwrite or out is None):
        raise InputError("resume needs the folder of a run (out), and excludes overwrite")
    training = _Training(factorization, data, options)
    config = Config.of(factorization.name, factorization.networks, data, options)
    place = None if out is None else Path(out)
    with _alone_in_process(), RunFolder(place, config, tensorboard and out is not None) as folder:
        if resume:
            folder.resume(training.restore, training.finish)
        elif out is not None and not overwrite:
            check_no_run(folder.path)
        return training.run(folder, progress)


@contextlib.contextmanager
def _alone_in_process() -> Iterator[None]:
    """Refuse a training while another thread trains: torch's random state and Pyro's handlers are those of the process."""
    if not _TRAINING.acquire(blocking=False):
        raise InputError("another thread of this process is training: train after it, or in a process of its own")
    try:
        yield
    finally:
        _TRAINING.release()


def _check_arguments(factorization, data, options, out) -> None:
    for name, given, kind, expected in (
        ("factorization", factorization, DeepBayes, "a model as pyrobayes.build makes it"),
        ("data", data, Images, "pyrobayes.Images, as pyrobayes.load_data gives them"),
        ("options", options, TrainingOptions | None, "pyrobayes.TrainingOptions"),
    ):
        if not isinstance(given, kind):
            raise InputError(f"{name} must be {expected}, got {type(given).__name__}")
    if not isinstance(out, str | os.PathLike | None):
        raise InputError(f"out must be the path of a folder, got {out!r}")
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        raise InputError("training needs gradients: call fit outside torch.no_grad and torch.inference_mode")
    if any(parameter.is_inference() for parameter in factorization.parameters()):
        raise InputError(f"this {factorization.name} was built in torch.inference_mode: build it outside, to train it")
    factorization.check()
    if factorization.image_shape != data.image_shape or factorization.num_classes != len(data.classes):
        raise InputError(
            f"{factorization.name} was built for images {list(factorization.image_shape)} of "
            f"{factorization.num_classes} classes, but {data.name} has {list(data.image_shape)} of {len(data.classes)}"
        )
    if len(data) < 2:
        raise InputError(f"training takes at least two images, one of them for validation, got {len(data)}")
    if data.split != "train":
        raise InputError(f"training takes training images, got the split '{data.split}' of {data.name}")


class _Training:
    """One training. The order of an epoch's images follows from (seed, epoch), the particles from torch's generator."""

    def __init__(self, factorization: DeepBayes, data: Images, options: TrainingOptions):
        self.factorization, self.options = factorization.eval(), options  # in training mode in a step alone
        self.device = next(factorization.parameters()).device
        training, validation = data.hold_out()
        training = data if options.all_images else training
        self.training, self.validation = training.to(self.device), validation.to(self.device)
        self.inference = Inference(factorization, options)
        self._count_classes(training)
        self.averaged = copy.deepcopy(factorization).requires_grad_(False) if options.averaging else factorization
        self.steps = math.ceil(len(training) / options.batch_size)  # of an epoch
        self.epochs, self.place = [], Place()
        self.random_state: dict[str, Tensor] = {}  # of a run that goes on; else it follows from the seed

    def _count_classes(self, training: Images) -> None:
        """Give p_D(y) the class frequencies of the training images."""
        frequencies = training.labels.bincount(minlength=len(training.classes)) / len(training)
        missing = ", ".join(name for name, share in zip(training.classes, frequencies) if not share)
        for module in self.factorization.modules():
            if isinstance(module, DataClasses):
                if missing:
                    told = f"{self.factorization.name} has p_D(y), the class frequencies of the training images"
                    raise InputError(f"{told}, and there is none of {missing}: train on images of every class")
                module.frequencies.copy_(frequencies)

    def run(self, folder: RunFolder, progress: Progress) -> list[Epoch]:
        """Train from the place that is reached to the end, and save to the folder."""
        self.factorization.requires_grad_(True)
        epochs, stopped = self.options.epochs, 0
        validated = pyro.validation_enabled(importance.VALIDATE)
        with validated, tf32(TRAINING_TF32, self.device), seeded(self._seed(0), self.device), postponed() as received:
            set_random_state(self.random_state)
            distributed.must_agree("where the training starts", lambda: digest(*self.state().encoded()))
            while len(self.epochs) < epochs:
                epoch = self._epoch(folder, progress, received)
                self.epochs.append(epoch)
                self.place = Place()
                self._save(folder)
                progress.epoch(self.factorization.name, epoch, epochs)
                stopped = self._stopped(received)
                if stopped and len(self.epochs) < epochs:
                    raise TrainingInterrupted(f"stopped after epoch {epoch.epoch} of {epochs}", stopped)
        folder.complete(self.epochs, self.averaged.state_dict())
        if self.options.averaging:
            self.factorization.load_state_dict(self.averaged.state_dict())
        if stopped:  # so that the caller starts nothing else
            told = f"stopped after the last of {epochs} epochs: this training is complete"
            raise TrainingInterrupted(told, stopped, complete=True)
        return self.epochs

    def _epoch(self, folder: RunFolder, progress: Progress, received: Callable[[], int]) -> Epoch:
        number, place, start = len(self.epochs) + 1, self.place, time.monotonic() - self.place.seconds
        order = torch.randperm(len(self.training), generator=torch.Generator().manual_seed(self._seed(number)))
        batches = order.to(self.device).split(self.options.batch_size)
        every = 1 if self.device.type == "cpu" else LOOK_EVERY
        unseen = torch.zeros((), device=self.device)  # sum over images since the last read
        attacked = AttackedBatches(self.factorization, self.options, self._seed(number))
        for indices, x, y in self.training.read(batches[place.step :], distributed.mine()):
            x = augmented(x, self.options.augmentation, self.options.sigma)
            x = attacked(indices, x, y, self._ramp(attacked.warmup))
            self.inference.optim.set_lr(lr := learning_rate(self.options, *self._position()))
            # The fourth power keeps the KL term small until z is of use.
            self.factorization.train()
            elbo = self.inference.step(x, y, self._ramp(self.options.kl_warmup) ** 4)
            self.factorization.eval()
            place.step += 1
            self._average()
            unseen += elbo * len(x)
            if place.step % every and place.step < len(batches):
                continue
            seen, elbo = unseen.item(), elbo.item()
            self._check(seen, f"step {place.step}", folder)
            place.elbo_sum += seen
            unseen = torch.zeros_like(unseen)
            place.seconds = time.monotonic() - start
            progress.step(self.factorization.name, *self._position(), elbo)
            if place.step < len(batches) and (stopped := self._stopped(received)):
                self._save(folder)
                where = f"step {place.step} of epoch {number} of {self.options.epochs}"
                raise TrainingInterrupted(f"stopped at {where}", stopped)
        elbo, kl, accuracy = self._validate()
        self._check(elbo, "the validation", folder)
        return Epoch(
            epoch=number,
            elbo=place.elbo_sum / len(self.training),
            validation_elbo=elbo,
            validation_kl=kl,
            validation_accuracy=accuracy,
            collapsed=collapsed(self.averaged, kl, accuracy),
            lr=lr,
            seconds=time.monotonic() - start,
        )

    @torch.no_grad()
    def _average(self) -> None:
        """Take the weights into their running average, which starts from the first step's (Kingma and Ba 2015, section 3)."""
        if not self.options.averaging:
            return
        decay, steps = self.options.averaging, self._position()[0]
        for average, weight in zip(self.averaged.parameters(), self.factorization.parameters()):
            average.lerp_(weight, (1 - decay) / (1 - decay**steps))
        for average, buffer in zip(self.averaged.buffers(), self.factorization.buffers()):
            average.copy_(buffer)

    def _stopped(self, received: Callable[[], int]) -> int:
        """The number of a signal that this or another process received, else 0: all processes stop at the same step."""
        anyone = torch.tensor(float(received() > 0), device=self.device)
        distributed.add_up(anyone)
        return (received() or signal.SIGTERM) if anyone.item() else 0

    def _check(self, elbo: float, where: str, folder: RunFolder) -> None:
        if not math.isfinite(elbo):
            raise NonFiniteELBO(
                f"the ELBO is {elbo} at {where} of epoch {len(self.epochs) + 1}: training has broken down; "
                f"try a smaller learning rate (lr is {self.options.lr:g}). {folder.kept(len(self.epochs))}"
            )

    def _position(self) -> tuple[int, int]:
        """Steps taken, and steps of the whole run."""
        return len(self.epochs) * self.steps + self.place.step, self.options.epochs * self.steps

    def _ramp(self, share: float) -> float:
        """A number that rises linearly to 1 over the first share of the run."""
        step, steps = self._position()
        return min(1.0, (step + 1) / (share * steps)) if share else 1.0

    @torch.no_grad()
    def _validate(self) -> tuple[float, float, float]:
        """ELBO and KL in nats per image, and accuracy, over the first validation images."""
        data = self.validation.head(min(VALIDATION_IMAGES, len(self.validation)))
        classifier = BayesClassifier(self.averaged, particles=10, noise="fixed", seed=self.options.seed)
        elbo, kl, correct = 0.0, 0.0, 0
        for _, x, y in data.batches(50):
            estimate = classifier.estimate(x)
            elbo += estimate.log_weights.mean(0)[y, torch.arange(len(y), device=y.device)].sum().item()
            correct += (estimate.log_joint.argmax(1) == y).sum().item()
            kl += latent_kl(self.averaged, x, y).sum().item()
        return elbo / len(data), kl / len(data), correct / len(data)

    def _seed(self, epoch: int) -> int:
        return (self.options.seed * 100_003 + epoch) % 2**63

    def state(self) -> TrainingState:
        """All that is needed to go on from here."""
        return TrainingState(
            weights=self.factorization.state_dict(),
            optimizer=self.inference.optim.state(),
            random=random_state(self.device),
            average=self.averaged.state_dict() if self.options.averaging else {},
            epochs=self.epochs,
            place=self.place,
        )

    def _save(self, folder: RunFolder) -> None:
        state = self.state()
        if not all(value.isfinite().all() for value in state.weights.values()):
            raise NonFiniteELBO(f"weights are not finite after epoch {len(self.epochs)}: training has broken down")
        folder.save(state, self.averaged.state_dict())

    def restore(self, state: TrainingState) -> None:
        """Go on from a saved state; ValueError, before anything is changed, if it isn't one of this training."""
        here = self.state()
        for name in ("weights", "optimizer", "average"):
            check_tensors(getattr(state, name), getattr(here, name))
        check_random_state(state.random)
        place = state.place
        if place.step >= self.steps or len(state.epochs) + bool(place.step) > self.options.epochs:
            raise ValueError(f"it is at step {place.step} after {len(state.epochs)} epochs")
        self.epochs, self.place, self.random_state = state.epochs, place, state.random
        self.factorization.load_state_dict(state.weights)
        self.inference.optim.restore(state.optimizer)
        if self.options.averaging:
            self.averaged.load_state_dict(state.average)

    def finish(self, run: FinishedRun) -> None:
        """Take over the weights and epochs of a run that is complete."""
        check_tensors(run.weights, self.averaged.state_dict())
        self.averaged.load_state_dict(run.weights)
        self.epochs = run.epochs
