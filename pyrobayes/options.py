"""Every choice a user can make, as frozen records with defaults.

One record serves the Python call, the command's options and the configuration saved with the result.
Nothing here imports torch, so that a command line can be parsed, or refused, at once.
"""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from pyrobayes import errors
from pyrobayes.device_options import BATCH_SIZE, MEMORY, PRECISIONS, SettledByDevice
from pyrobayes.errors import InputError, check_count, check_part_of_run, check_positive, check_seed

LIKELIHOODS = ("gaussian", "bernoulli", "laplace", "discretized-logistic")
ESTIMATORS = ("per-class", "mixture")
GRADIENTS = ("path", "fisher", "both")
MODELS = ("gfz", "gfy", "gbz", "gby", "dfx", "dfz", "dbx")
COMPARATORS = ("cnn", "cnn-at", "bnn")
DETECTION_TESTS = ("marginal", "logit", "kl")
PRETRAINED = Path(__file__).parent / "resources" / "pretrained"  # the package's models, as a folder of runs
EPS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
EPS_OF_NORM = {
    "l2": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    "l1": (0.0, 5.0, 10.0, 20.0, 40.0, 60.0),
    "l0": (0.0, 5.0, 10.0, 20.0, 40.0, 80.0),
}
SIGMA = 0.25  # standard deviation of Gaussian noise on the pixels


def option(default: Any, help: str | None = None, choices=None, **more) -> Any:
    """A field of an options record, or of an attack.

    Args:
        default: the value where the user gives none.
        help: the help text on the command line, which offers no field without one.
        choices: the values that are allowed.
        more: `check`, a function of name and value that refuses a bad value; `open`, where Python takes values beyond the
            choices; `none_means`, the words that stand for a default of None in the help text; `listed`, where a command line
            has several values as a comma list.
    """
    declared = {"help": help, "choices": choices} | more
    return field(default=default, metadata={name: value for name, value in declared.items() if value is not None})


def declaration(record: type, name: str) -> Mapping:
    """The help, choices and check of a field, from the class that declares them or the nearest one above it."""
    for cls in record.__mro__:
        declared = vars(cls).get("__dataclass_fields__", {}).get(name)
        if declared is not None and declared.metadata:
            return declared.metadata
    return {}


def check_fields(record) -> None:
    """Refuse values that the fields of a record don't allow, and spell choices as they are known.

    Numbers of numpy's become Python's, which JSON can hold. A field whose default is a tuple is left to the record.
    """
    for each in fields(record):
        value, declared = getattr(record, each.name), declaration(type(record), each.name)
        if isinstance(value, numbers.Number) and hasattr(value, "item"):
            value = value.item()
            object.__setattr__(record, each.name, value)
        if isinstance(each.default, tuple) or (value is None and "None" in str(each.type)):
            continue
        label = each.name.replace("_", " ")
        if (choices := declared.get("choices")) and "open" not in declared:
            object.__setattr__(record, each.name, errors.choice(label, value, choices))
        if check := declared.get("check", errors.check_flag if "bool" in str(each.type) else None):
            check(label, value)


@dataclass(frozen=True)
class Networks:
    """Sizes of the networks, and the likelihood of the pixels.

    The defaults are the configuration `paper`: Li et al. (2019), appendix on the MNIST architectures. For larger images take as many
    convolutions as halve the sides to about four: `channels=(32, 64, 128, 256)` for 64x64.
    """

    latent: int = option(64, "dimensions of z", check=check_count)
    hidden: int = option(500, "units of every hidden layer", check=check_count)
    channels: int | tuple[int, ...] = option(
        64,
        "channels of the three 5x5 stride-2 convolutions, or of each of so many, from the image on, as a comma list",
        listed=True,
        check=errors.check_channels,
    )
    likelihood: str = option("gaussian", "p(x|...) of the pixels around the decoder's mean", LIKELIHOODS)
    variance: float = option(
        0.5,
        "variance of every pixel under the likelihood (not used by bernoulli)",
        check=partial(check_positive, least=1e-6, most=1e6),
    )
    learned_variance: str | None = option(
        None,
        "learn the variance, from that on: one for all pixels, or one each  [default: it is fixed]",
        ("one", "each"),
    )
    encoder: str | None = option(None, check=errors.check_name)  # the class of the user's own
    decoder: str | None = option(None, check=errors.check_name)
    original: bool | None = None  # initialised as in the authors' program, with its number of layers and biases

    def __post_init__(self):
        if isinstance(self.channels, list):
            object.__setattr__(self, "channels", tuple(self.channels))
        check_fields(self)
        object.__setattr__(self, "original", self.original or None)
        if self.learned_variance and self.likelihood == "bernoulli":
            raise InputError("bernoulli has no variance that could be learned: take another likelihood")

    @property
    def convolutions(self) -> tuple[int, ...]:
        """The channels of every convolution, from the image on."""
        return self.channels if isinstance(self.channels, tuple) else (self.channels,) * 3


NETWORKS = {
    "paper": Networks(),
    "small": Networks(channels=32),
    "tiny": Networks(latent=32, hidden=200, channels=16),
    # The authors' program has these for CIFAR-10.
    "cifar": Networks(latent=128, hidden=1000, channels=(64, 128, 256)),
    "original": Networks(original=True),
}


# Models that are trained otherwise than the rest: chosen on validation images, see docs/training-choices.md.
OWN_TRAINING = {name: {"epochs": 10, "lr": 2e-3, "batch_size": 128, "kl_warmup": 0.2} for name in ("dfx", "dfz")}
check_batch = partial(errors.check_integer, least=1, most=errors.LARGEST_BATCH)


@dataclass(frozen=True)
class TrainingOptions:
    """How a factorization is trained. The defaults suit most models; :meth:`of` has those of each."""

    epochs: int = option(20, "passes over the training images (dfx, dfz: 10)", check=check_count)
    lr: float = option(3e-3, "learning rate of Adam, the peak under a schedule (dfx, dfz: 0.002)", check=check_positive)
    schedule: str = option("one-cycle", "course of the learning rate over the run", ("one-cycle", "cosine", "constant"))
    batch_size: int = option(64, "images per step (dfx, dfz: 128)", check=check_batch)
    train_particles: int = option(1, "particles z ~ q(z|x, y) per image in the ELBO", check=check_count)
    kl_warmup: float = option(
        0.4, "share of the run over which the weight of the KL term rises to 1 (dfx, dfz: 0.2)", check=check_part_of_run
    )
    seed: int = option(0, "seed of the initial weights, the order of the images and the particles", check=check_seed)
    adversarial_eps: float | None = option(
        None,
        "train on adversarial images of PGD with this eps (Madry et al. 2018)  [default: 0, cnn-at 0.3]",
        check=errors.check_part,
    )
    adversarial_steps: int | None = option(
        None, "steps of that PGD; one is single-step training  [default: 10]", check=check_count
    )
    adversarial_warmup: float | None = option(
        None,
        "share of the run over which that eps rises from 0  [default: 0.5; an eps of 0.3 from the start is not learned]",
        check=check_part_of_run,
    )
    bound: str | None = option(
        None,
        "objective: the ELBO, or a tighter bound of several train particles  [default: elbo]",
        ("elbo", "importance-weighted"),
    )
    antithetic: bool | None = option(
        None, "draw the train particles in pairs around the mean of the guide, which makes the gradient less noisy"
    )
    averaging: float | None = option(
        None,
        "keep a running average of the weights: the share of the old average in the new one, such as 0.999",
        check=errors.check_fraction,
    )
    augmentation: str | None = option(
        None,
        "shift: move the training images at random by up to two pixels; shift-flip: mirror half of them too; gaussian: add "
        "noise, without clipping",
        ("shift", "shift-flip", "gaussian"),
    )
    sigma: float | None = option(
        None,
        "standard deviation of the noise of augmentation gaussian, on pixels in [0, 1]  [default: 0.25]",
        check=errors.check_step_size,
    )
    all_images: bool | None = option(
        None, "train on all training images, the validation images too, whose figures then say nothing about new images"
    )

    @classmethod
    def of(cls, model: str, **changes) -> "TrainingOptions":
        """The defaults of a model, with some changes."""
        return cls(**OWN_TRAINING.get(model.lower(), {}) | changes)

    def __post_init__(self):
        check_fields(self)
        if self.bound == "elbo":
            object.__setattr__(self, "bound", None)  # as in configurations from before there was a choice
        for flag in ("antithetic", "all_images"):
            object.__setattr__(self, flag, getattr(self, flag) or None)
        if self.augmentation == "gaussian" and self.sigma is None:
            object.__setattr__(self, "sigma", SIGMA)
        if self.sigma is not None and self.augmentation != "gaussian":
            raise InputError(
                f"sigma is of augmentation gaussian, and the augmentation is {self.augmentation}: leave sigma out"
            )
        if self.bound and self.train_particles == 1:
            raise InputError("with one particle the importance-weighted bound is the ELBO: give more train particles")
        if self.antithetic and self.train_particles % 2:
            raise InputError(
                f"antithetic particles come in pairs: give an even number of train particles, got {self.train_particles}"
            )
        if self.antithetic and self.bound:
            raise InputError(
                "antithetic particles are for the ELBO: pairs change the importance-weighted bound; leave one of them out"
            )


@dataclass(frozen=True)
class ClassifierOptions(SettledByDevice):
    """How a factorization classifies: see :class:`pyrobayes.BayesClassifier`."""

    particles: int = option(10, "particles K per class in the importance-sampled log p(x, y)", check=check_count)
    noise: str = option(
        "fresh", "draw the particles anew for each image, or share one table of draws", ("fresh", "fixed")
    )
    seed: int = option(0, "seed of the particles", check=check_seed)
    estimator: str = option(
        "per-class", "separate particles for each class, or for all from the mixture of the guides", ESTIMATORS
    )
    precision: str = option(
        "auto",
        "precision of the networks; log-probabilities stay in float32. tf32 is of CUDA devices alone, and auto is fp32",
        PRECISIONS,
    )
    prune: float | None = option(
        None,
        "after a fifth of the particles, leave out classes whose log p(x, y) is so many nats below the best",
        check=check_positive,
    )
    compile: bool = option(
        False, "generate code for the decoder: faster after half a minute once, needs a C++ compiler (Triton on a GPU)"
    )
    negligible: float = option(
        0.0,
        "leave particles out of an attack's gradient whose share in it is below this part of the image's largest",
        check=errors.check_negligible,
    )
    memory: int | None = option(
        None,
        "MiB that the networks' values may take; changes memory and speed, not results (except with --negligible)  [default: "
        f"{MEMORY}; on a GPU without --negligible by what is free]",
        check=check_count,
    )

    def __post_init__(self):
        check_fields(self)
        if self.prune is not None and self.estimator != "per-class":
            raise InputError("prune leaves out classes' own particles, which only the estimator per-class has")

    @property
    def exact(self) -> bool:
        """True if log p(x, y) comes from all particles without approximation, to the rounding of float32."""
        return self.precision == "fp32" and self.prune is None

    @property
    def decisive(self) -> dict:
        """The choices that results depend on. Memory matters where an attack's gradient leaves out the negligible."""
        idle = {"batch_size"} if self.negligible else {"batch_size", "memory"}
        return {name: value for name, value in vars(self).items() if name not in idle}


@dataclass(frozen=True)
class EvaluationOptions(ClassifierOptions):
    """How a trained model classifies a data set."""

    batch_size: int | None = option(
        None,
        "images at a time; changes memory and speed, not results  [default: "
        f"{BATCH_SIZE}; on a GPU up to 1000 by what is free]",
        check=check_batch,
    )
    images: int | None = option(None, "take only the first N test images", check=check_count)

    @property
    def classifier(self) -> ClassifierOptions:
        """The part of the options that concerns the classifier."""
        return ClassifierOptions(**{each.name: getattr(self, each.name) for each in fields(ClassifierOptions)})


@dataclass(frozen=True)
class RobustnessOptions(EvaluationOptions):
    """How a verdict on robustness is reached: see :mod:`pyrobayes.evaluation.robustness.verdict`."""

    images: int | None = option(1000, "take only the first N test images", check=check_count)
    eps: tuple[float, ...] = option((0.05, 0.1, 0.2, 0.3), "sizes in L-infinity, as a range or a comma list")
    steps: int = option(
        40, "steps of every iterative attack, draws of random noise, and a tenth of Square's queries", check=check_count
    )
    redraws: int = option(20, "draws of the noise that judge the adversarial images again", check=check_count)
    checked_images: int = option(200, "first images, for the checks that attack again", check=check_count)
    brief: bool = option(False, "leave out the attack on p(y|...) alone")
    autoattack: int | None = option(
        None,
        "add AutoAttack with so many steps, and fifty times as many queries: 100 are its authors' (pip install 'pyrobayes[attacks]')",
        check=check_count,
    )

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "eps", errors.check_eps(self.eps))
        if not any(self.eps):
            raise InputError("a verdict needs an eps above 0")


@dataclass(frozen=True)
class CertificationOptions(EvaluationOptions):
    """How images are certified by randomized smoothing: see :mod:`pyrobayes.evaluation.certification`."""

    batch_size: int = option(1000, "noisy copies at a time; changes memory and speed, not results", check=check_batch)
    images: int | None = option(500, "take only the first N test images", check=check_count)
    sigma: tuple[float, ...] = option(
        (SIGMA,), "standard deviations of the Gaussian noise, on pixels in [0, 1], as a comma list", listed=True
    )
    draws: int = option(
        100_000,
        "noisy copies of an image that bound its radius: fewer are faster, and bound it lower",
        check=check_count,
    )
    selection_draws: int = option(100, "noisy copies that choose the class to certify", check=check_count)
    alpha: float = option(0.001, "chance that a certificate is wrong", check=errors.check_fraction)

    def __post_init__(self):
        super().__post_init__()
        given = (self.sigma,) if errors.is_number(self.sigma) else self.sigma
        sigmas = errors.numbers_in(given, "sigma")
        if not sigmas:
            raise InputError("sigma is empty: give at least one standard deviation above 0")
        for sigma in sigmas:
            errors.check_step_size("sigma", sigma)
        object.__setattr__(self, "sigma", tuple(sorted(set(sigmas))))


QUICK_ROBUSTNESS = dict(
    images=500, eps=(0.1, 0.2), steps=10, redraws=10, checked_images=100, brief=True, negligible=0.01
)
# The worst case that stands beside FGSM in a reproduction: of few images, since it takes hours of many.
BESIDE_FGSM = QUICK_ROBUSTNESS | {"images": 200, "eps": (0.05, 0.1, 0.2, 0.3), "checked_images": 50}


@dataclass(frozen=True)
class Recipe:
    """How all seven models are trained, evaluated, attacked by FGSM, and judged.

    Attributes:
        networks: `paper`, `small`, `tiny`, `cifar` or `original`.
        time: what it takes, for a person.
        training: fields of :class:`TrainingOptions` that differ from each model's own.
        apart: for single models, by name, fields of :class:`TrainingOptions` and :class:`Networks` that differ from that.
        evaluated, attacked: how many of the test images; all where None.
        verdict: fields of :class:`RobustnessOptions` that differ from its defaults.
        judged: the models that get a verdict; all where empty.
        threads: of PyTorch on a CPU; as many as it takes by itself where None.
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
    judged: tuple[str, ...] = ()
    threads: int | None = None

    def changes(self, model: str, record: type) -> dict:
        """Fields of :class:`TrainingOptions` or :class:`Networks` that differ for a model; the original held no images out."""
        known, original = (
            {each.name for each in fields(record)},
            {"all_images": True} if self.networks == "original" else {},
        )
        given = original | self.training | self.apart.get(model, {})
        return {name: value for name, value in given.items() if name in known}


# Chosen on validation images, see docs/training-choices.md: better than what `train` takes by itself, and mostly slower.
GENERATIVE = {"latent": 32, "epochs": 40, "train_particles": 2, "antithetic": True}
OWN = {
    **dict.fromkeys(("gfz", "gfy", "gbz", "gby"), GENERATIVE),
    **dict.fromkeys(("dfx", "dfz"), {"epochs": 60, "augmentation": "shift-flip"}),
    "dbx": {"train_particles": 10, "antithetic": True},
}
RECIPES = {
    "own": Recipe("small", "about three hours on two CPU cores", training={}, apart=OWN, attacked=1000),
    "poster": Recipe(
        "paper",
        "three to five hours on two CPU cores, better a GPU",
        training={"epochs": 20, "batch_size": 50, "lr": 1e-4, "schedule": "constant", "kl_warmup": 0.0},
        eps=(0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    ),
    "quick": Recipe(
        "tiny",
        "figure 1 after about four minutes, the rest within eight, on one CPU core",
        data="fashion-mnist-mini",
        training={"epochs": 2, "batch_size": 32, "lr": 3e-3, "kl_warmup": 0.2},
        apart={"dbx": {"epochs": 5, "kl_warmup": 0.4}},  # after two epochs it still classifies by chance
        eps=(0.0, 0.1, 0.2, 0.3),
        evaluated=200,
        attacked=100,
        verdict=BESIDE_FGSM | {"images": 20, "eps": (0.1,), "steps": 5, "redraws": 2, "checked_images": 5},
        judged=("gbz", "dfx"),  # one generative and one discriminative: a verdict takes longer than a training
        threads=1,  # of networks this small it is as fast as two, and several times faster where another core is busy
    ),
}


def parse_eps(text: str) -> tuple[float, ...]:
    """Read `START:STOP:STEP`, with STOP where the steps reach it, or a comma list. The norm limits the values later.

    >>> parse_eps("0:0.3:0.1")
    (0.0, 0.1, 0.2, 0.3)
    >>> parse_eps("0.05,0.1")
    (0.05, 0.1)
    """
    expected = "expected START:STOP:STEP such as 0:0.3:0.05, or a comma list such as 0.05,0.1"
    ranged = ":" in str(text)
    try:
        values = [float(part) for part in text.split(":" if ranged else ",")]
    except (AttributeError, ValueError):
        values = []
    if not values or (ranged and len(values) != 3):
        raise InputError(f"can't read the eps range {text!r}: {expected}")
    if not ranged:
        return errors.check_eps(values, "l2")
    start, stop, step = values
    if not all(map(math.isfinite, values)) or step <= 0 or stop < start:
        raise InputError(f"the eps range '{text}' is empty: STEP must be above 0 and STOP at least START; {expected}")
    errors.check_eps((start, stop), "l2")
    if (stop - start) / step > 10_000:
        raise InputError(f"the eps range '{text}' has more than 10,000 values: take a larger STEP")
    count = math.floor((stop - start) / step + 1e-6) + 1
    return errors.check_eps((min(stop, float(f"{start + i * step:.12g}")) for i in range(count)), "l2")
