"""Every choice a user can make, as frozen records with defaults.

One record serves the Python call, the command's options and the configuration saved with the result.
Nothing here imports torch, so that a command line can be parsed, or refused, at once.
"""

import math
import numbers
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pyrobayes.errors import (
    LARGEST_BATCH,
    LARGEST_SEED,
    InputError,
    check_eps,
    check_flag,
    check_fraction,
    check_integer,
    check_positive,
    choice,
    plain_numbers,
)

LIKELIHOODS = ("gaussian", "bernoulli", "laplace", "discretized-logistic")
SCHEDULES = ("one-cycle", "cosine", "constant")
BOUNDS = ("elbo", "importance-weighted")
AUGMENTATIONS = ("shift", "shift-flip")
NOISES = ("fresh", "fixed")
ESTIMATORS = ("per-class", "mixture")
PRECISIONS = ("fp32", "bf16")
MODELS = ("gfz", "gfy", "gbz", "gby", "dfx", "dfz", "dbx")
COMPARATORS = ("cnn", "cnn-at", "bnn")
TERMS = ("x", "y", "z")
DETECTION_TESTS = ("marginal", "logit", "kl")
DEVICES = ("auto", "cpu", "cuda", "mps")
DATASETS = ("fashion-mnist", "mnist", "kmnist", "cifar10", "fashion-mnist-mini")
MINI = "fashion-mnist-mini"
SUBSETS = {MINI: "fashion-mnist"}  # its training images are some of those of the other, and its test images too
PRETRAINED = (
    Path(__file__).parent / "resources" / "pretrained"
)  # models that come with the package, as a folder of runs


def option(default: Any, help: str | None = None, choices=None, **more) -> Any:
    """A field of an options record, or of an attack.

    Args:
        default: the value where the user gives none.
        help: the help text on the command line, which offers no field without one.
        choices: the values that are allowed.
        more: what else is declared of the field, such as `check`, a function of its name and value that refuses a bad
            value, and `none_means`, the words that stand for a default of None in the help text.
    """
    declared = {"help": help, "choices": choices} | more
    return field(default=default, metadata={name: value for name, value in declared.items() if value is not None})


@dataclass(frozen=True)
class Networks:
    """Sizes of the networks, and the likelihood of the pixels.

    The defaults are the configuration `paper`: Li et al. (2019), appendix on the MNIST architectures.
    """

    latent: int = option(64, "dimensions of z")
    hidden: int = option(500, "units of every hidden layer")
    channels: int = option(64, "channels of the three 5x5 stride-2 convolutions")
    likelihood: str = option("gaussian", "p(x|...) of the pixels around the decoder's mean", LIKELIHOODS)
    variance: float = option(0.5, "variance of every pixel under the likelihood (not used by bernoulli)")

    def __post_init__(self):
        plain_numbers(self)
        for name in ("latent", "hidden", "channels"):
            check_integer(name, getattr(self, name), least=1)
        object.__setattr__(self, "likelihood", choice("likelihood", self.likelihood, LIKELIHOODS))
        check_positive("variance", self.variance, least=1e-6, most=1e6)


NETWORKS = {"paper": Networks(), "small": Networks(channels=32)}


# Models that are trained otherwise than the rest: chosen on validation images, see docs/training.md.
OWN_TRAINING = {name: {"epochs": 10, "lr": 2e-3, "batch_size": 128, "kl_warmup": 0.2} for name in ("dfx", "dfz")}


@dataclass(frozen=True)
class TrainingOptions:
    """How a factorization is trained. What is best for most is the default; :meth:`of` knows a model's own."""

    epochs: int = option(20, "passes over the training images (dfx, dfz: 10)")
    lr: float = option(3e-3, "learning rate of Adam, the peak under a schedule (dfx, dfz: 0.002)")
    schedule: str = option("one-cycle", "course of the learning rate over the whole run", SCHEDULES)
    batch_size: int = option(64, "images per step (dfx, dfz: 128)")
    train_particles: int = option(1, "particles z ~ q(z|x, y) per image in the ELBO")
    kl_warmup: float = option(0.4, "share of the run over which the weight of the KL term rises to 1 (dfx, dfz: 0.2)")
    seed: int = option(0, "seed of the initial weights, the order of the images and the particles")
    adversarial_eps: float | None = option(
        None, "train on images that PGD moved by at most so much (Madry et al. 2018)  [default: 0, cnn-at 0.3]"
    )
    adversarial_steps: int | None = option(None, "its steps; one is single-step training  [default: 10]")
    adversarial_warmup: float | None = option(
        None, "share of the run over which its eps rises from 0  [default: 0.5; from the start, 0.3 is not learned]"
    )
    bound: str | None = option(
        None, "what is maximised: the ELBO, or a tighter bound of several train particles  [default: elbo]", BOUNDS
    )
    antithetic: bool | None = option(
        None, "draw the train particles in pairs around the mean of the guide, whose gradient has less noise"
    )
    averaging: float | None = option(
        None, "keep a running average of the weights, of which this share remains at every step, such as 0.999"
    )
    augmentation: str | None = option(
        None,
        "shift: move the training images at random by up to two pixels; shift-flip: mirror half of them too",
        AUGMENTATIONS,
    )

    @classmethod
    def of(cls, model: str, **changes) -> "TrainingOptions":
        """How a model is trained by default, but for some changes."""
        return cls(**OWN_TRAINING.get(model.lower(), {}) | changes)

    def __post_init__(self):
        plain_numbers(self)
        eps = self.adversarial_eps
        if eps is not None and (isinstance(eps, bool) or not isinstance(eps, numbers.Real) or not 0 <= eps <= 1):
            raise InputError(f"adversarial eps must be a number from 0 to 1, got {eps!r}")
        if self.adversarial_steps is not None:
            check_integer("adversarial steps", self.adversarial_steps, least=1)
        check_integer("epochs", self.epochs, least=1)
        check_positive("lr", self.lr)
        object.__setattr__(self, "schedule", choice("schedule", self.schedule, SCHEDULES))
        check_integer("batch size", self.batch_size, least=1, most=LARGEST_BATCH)
        check_integer("train particles", self.train_particles, least=1)
        for name, known in (("bound", BOUNDS), ("augmentation", AUGMENTATIONS)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, choice(name, getattr(self, name), known))
        if self.bound == "elbo":
            object.__setattr__(self, "bound", None)  # as in configurations from before there was a choice
        if self.bound == "importance-weighted" and self.train_particles == 1:
            raise InputError("with one particle the importance-weighted bound is the ELBO: give more train particles")
        if self.antithetic is not None:
            check_flag("antithetic", self.antithetic)
            object.__setattr__(self, "antithetic", self.antithetic or None)
        if self.antithetic and self.train_particles % 2:
            raise InputError(
                f"antithetic particles come in pairs: give an even number of train particles, got {self.train_particles}"
            )
        if self.antithetic and self.bound:
            raise InputError(
                "antithetic particles are for the ELBO: of pairs, the importance-weighted bound is another one"
            )
        if self.averaging is not None:
            check_fraction("averaging", self.averaging)
        for name in ("kl_warmup", "adversarial_warmup"):
            share = getattr(self, name)
            if share is not None and (not isinstance(share, numbers.Real) or not 0 <= share <= 1):
                raise InputError(f"{name.replace('_', ' ')} must be a share of the run from 0 to 1, got {share!r}")
        check_integer("seed", self.seed, least=0, most=LARGEST_SEED)


@dataclass(frozen=True)
class ClassifierOptions:
    """How a factorization classifies: see :class:`pyrobayes.BayesClassifier`."""

    particles: int = option(10, "particles K per class in the importance-sampled log p(x, y)")
    noise: str = option("fresh", "draw the particles anew for each image, or share one table of draws", NOISES)
    seed: int = option(0, "seed of the particles")
    estimator: str = option(
        "per-class", "particles for each class of its own, or for all from the mixture of the guides", ESTIMATORS
    )
    precision: str = option("fp32", "what the networks compute in; log-probabilities stay in float32", PRECISIONS)
    prune: float | None = option(
        None, "after a fifth of the particles, leave out classes whose log p(x, y) is so many nats below the best"
    )
    compile: bool = option(
        False, "generate code for the decoder: faster after half a minute once, needs a C++ compiler (Triton on a GPU)"
    )
    negligible: float = option(
        0.0, "leave out of an attack's gradient particles whose share in it is below this part of the image's largest"
    )
    memory: int = option(
        512, "MiB that the networks' values may take; changes memory and speed, not results (but for negligible)"
    )

    def __post_init__(self):
        plain_numbers(self)
        check_integer("particles", self.particles, least=1)
        object.__setattr__(self, "noise", choice("noise", self.noise, NOISES))
        check_integer("seed", self.seed, least=0, most=LARGEST_SEED)
        object.__setattr__(self, "estimator", choice("estimator", self.estimator, ESTIMATORS))
        object.__setattr__(self, "precision", choice("precision", self.precision, PRECISIONS))
        if self.prune is not None:
            check_positive("prune", self.prune)
            if self.estimator != "per-class":
                raise InputError("prune leaves out classes' own particles, which only the estimator per-class has")
        if not isinstance(self.negligible, numbers.Real) or not 0 <= self.negligible < 1:
            raise InputError(f"negligible must be a part from 0 to below 1, got {self.negligible!r}")
        check_integer("memory", self.memory, least=1)
        check_flag("compile", self.compile)

    @property
    def exact(self) -> bool:
        """Whether log p(x, y) is what its particles give, to the rounding of float32."""
        return self.precision == "fp32" and self.prune is None

    @property
    def decisive(self) -> dict:
        """The choices that results depend on. Memory matters where an attack's gradient leaves out the negligible."""
        idle = {"batch_size"} if self.negligible else {"batch_size", "memory"}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in idle}


@dataclass(frozen=True)
class EvaluationOptions(ClassifierOptions):
    """How a trained model classifies a data set."""

    batch_size: int = option(100, "images at a time; changes memory and speed, not results")
    images: int | None = option(None, "take only the first N test images")

    def __post_init__(self):
        super().__post_init__()
        check_integer("batch size", self.batch_size, least=1, most=LARGEST_BATCH)
        if self.images is not None:
            check_integer("images", self.images, least=1)

    @property
    def classifier(self) -> ClassifierOptions:
        """The part of the options that concerns the classifier."""
        return ClassifierOptions(**{field.name: getattr(self, field.name) for field in fields(ClassifierOptions)})


EPS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
EPS_IN_L2 = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


@dataclass(frozen=True)
class RobustnessOptions(EvaluationOptions):
    """How a verdict on robustness is reached: see :mod:`pyrobayes.evaluation.robustness.verdict`."""

    images: int | None = option(1000, "take only the first N test images")
    eps: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    steps: int = option(40, "steps of every iterative attack, draws of random noise, and a tenth of Square's queries")
    redraws: int = option(20, "draws of the noise by which what was found is judged again")
    checked_images: int = option(200, "the checks that attack again take the first N images")
    brief: bool = option(
        False,
        "leave out the mixture's gradient, logit matching and single terms",
    )

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "eps", check_eps(self.eps))
        if not any(self.eps):
            raise InputError("a verdict needs an eps above 0")
        for name in ("steps", "redraws", "checked_images"):
            check_integer(name.replace("_", " "), getattr(self, name), least=1)
        check_flag("brief", self.brief)


QUICK_ROBUSTNESS = {
    "images": 500, "eps": (0.1, 0.2), "steps": 10, "redraws": 10, "checked_images": 100, "brief": True,
    "negligible": 0.01,
}  # fmt: skip


# The worst case that stands beside FGSM in a reproduction: of few images, since it takes hours of many.
BESIDE_FGSM = QUICK_ROBUSTNESS | {"images": 200, "eps": (0.05, 0.1, 0.2, 0.3), "checked_images": 50}


@dataclass(frozen=True)
class Recipe:
    """How all seven models are trained, evaluated, attacked by FGSM, and judged.

    Attributes:
        data: the data set.
        networks: `paper` or `small`.
        training: fields of :class:`TrainingOptions` that differ from each model's own.
        apart: of single models, by name, fields of :class:`TrainingOptions` and :class:`Networks` that differ from that.
        eps: of the attack.
        evaluated, attacked: how many of the test images; all where None.
        verdict: fields of :class:`RobustnessOptions` that differ from its defaults.
        time: what it takes, for a person.
    """

    networks: str
    time: str
    training: dict
    apart: dict = field(default_factory=dict)
    data: str = "fashion-mnist"
    eps: tuple[float, ...] = EPS
    evaluated: int | None = None
    attacked: int | None = None
    verdict: dict = field(default_factory=lambda: dict(BESIDE_FGSM))

    def changes(self, model: str, record: type) -> dict:
        """Fields of :class:`TrainingOptions` or :class:`Networks` that differ for a model."""
        known = {each.name for each in fields(record)}
        return {name: value for name, value in (self.training | self.apart.get(model, {})).items() if name in known}


# Chosen on validation images, see docs/training.md: better than what `train` takes by itself, and mostly slower.
OWN = {
    **dict.fromkeys(
        ("gfz", "gfy", "gbz", "gby"), {"latent": 32, "epochs": 40, "train_particles": 2, "antithetic": True}
    ),
    **dict.fromkeys(("dfx", "dfz"), {"epochs": 60, "augmentation": "shift-flip"}),
    "dbx": {"train_particles": 10, "antithetic": True},
}

RECIPES = {
    "own": Recipe(
        "small",
        "about three hours on two CPU cores",
        training={},
        apart=OWN,
        attacked=1000,
    ),
    "poster": Recipe(
        "paper",
        "three to five hours on two CPU cores, better a GPU",
        training={"epochs": 20, "batch_size": 50, "lr": 1e-4, "schedule": "constant", "kl_warmup": 0.0},
        eps=(0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    ),
    "quick": Recipe(
        "small",
        "about five minutes on two CPU cores",
        data=MINI,
        training={"epochs": 5, "batch_size": 32, "lr": 2e-3, "kl_warmup": 0.2},
        evaluated=200,
        attacked=200,
        verdict=BESIDE_FGSM | {"images": 40, "eps": (0.1, 0.2), "steps": 5, "redraws": 4, "checked_images": 8},
    ),
}


def parse_eps(text: str) -> tuple[float, ...]:
    """Read `START:STOP:STEP`, STOP included where the steps reach it, or a comma list; what is too much, the norm says.

    >>> parse_eps("0:0.3:0.1")
    (0.0, 0.1, 0.2, 0.3)
    >>> parse_eps("0.05,0.1")
    (0.05, 0.1)
    """
    expected = "expected START:STOP:STEP such as 0:0.3:0.05, or a comma list such as 0.05,0.1"
    try:
        if ":" not in text:
            return check_eps([float(part) for part in text.split(",")], "l2")
        start, stop, step = (float(part) for part in text.split(":"))
    except InputError:
        raise
    except ValueError:
        raise InputError(f"can't read the eps range '{text}': {expected}") from None
    if not all(math.isfinite(value) for value in (start, stop, step)) or step <= 0 or stop < start:
        raise InputError(f"the eps range '{text}' is empty: STEP must be above 0 and STOP at least START; {expected}")
    check_eps((start, stop), "l2")
    if (stop - start) / step > 10_000:
        raise InputError(f"the eps range '{text}' has more than 10,000 values: take a larger STEP")
    count = math.floor((stop - start) / step + 1e-6) + 1
    return check_eps((min(stop, float(f"{start + i * step:.12g}")) for i in range(count)), "l2")
