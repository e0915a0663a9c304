"""Classifiers that are known to be broken although they look robust to a weak attack: a good suite breaks them."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrobayes import distributed, evaluation
from pyrobayes.attacks import Attack
from pyrobayes.data.images import Images
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.robustness.suite import CLIMBING
from pyrobayes.factorizations import DeepBayes, build
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.inference.interface import Classifier
from pyrobayes.options import Networks, TrainingOptions
from pyrobayes.training.fit import fit
from pyrobayes.version import __version__

EPS = 0.3  # of the single-step training, and of the attacks on both classifiers
NETWORKS = Networks(channels=16, hidden=100)
TRAINING = TrainingOptions(epochs=6, adversarial_eps=EPS, adversarial_steps=1, adversarial_warmup=0.0)
IMAGES = 6000
SINGLE_STEP_TRAINED, SATURATED = "single-step-trained CNN", "CNN with saturated logits"


@dataclass(frozen=True)
class KnownBroken:
    """How the suite did on a classifier that is known to be broken: the success rate of its weakest attack.

    A sign of the masked gradient comes with the share of images that show it, and with what it says.
    """

    success: Rate
    sign: tuple[str, Rate]
    masked: bool


def attack_known_broken(run) -> dict[str, KnownBroken]:
    """The weakest success of a run's iterative attacks on two CNNs, by the CNN's name.

    The gradient of the single-step-trained CNN is masked where FGSM leaves most images. The other CNN's is masked where
    the plain cross-entropy has no gradient on most images.

    Args:
        run: a :class:`pyrobayes.evaluation.robustness.measurements.RobustnessRun`.
    """
    by_steps, saturated = (_measured(run, model) for model in (SINGLE_STEP_TRAINED, SATURATED))
    flat, single = saturated["flat"], by_steps["single"]
    return {
        SINGLE_STEP_TRAINED: KnownBroken(by_steps["broken"], ("FGSM", single), single.share < 0.7),
        SATURATED: KnownBroken(saturated["broken"], ("plain gradient zero", flat), flat.share > 0.5),
    }


def _measured(run, model: str) -> dict[str, Rate]:
    """The images broken by the weakest iterative attack, and by FGSM; and those without a plain gradient."""
    chosen = [run.suite[name].attack for name in CLIMBING if name in run.suite]
    key = {
        "what": model,
        "version": __version__,
        "networks": dataclasses.asdict(NETWORKS),
        "training": dataclasses.asdict(TRAINING) | {"images": IMAGES},
        "images": [run.training.sha256, run.data.sha256, len(run.few)],
        "attacks": [by.described() for by in chosen],
    }

    def make() -> dict[str, Tensor]:
        victim = BayesClassifier(known_broken_model(run.training, model == SATURATED, run.device), 1)

        def broken(by: Attack) -> Tensor:
            result = evaluation.attack(victim, run.few, EPS, by=by, examples=0, progress=run.labelled("known"))
            return result.log_joint.argmax(2)[0] != run.few.labels.cpu()

        def flat(indices: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"flat": zero_or_undefined(plain_gradient(victim, x, y))[0]}

        return {
            "broken": min((broken(by) for by in chosen), key=torch.count_nonzero),
            "single": broken(run.suite["fgsm"].attack),
        } | run.map_images("known", run.few, flat)

    return {name: Rate.of(chosen) for name, chosen in run.cache.get(key, make).items()}


def known_broken_model(training: Images, saturated: bool, device: torch.device | str = "cpu") -> DeepBayes:
    """A CNN that was trained in a single step, or with logits so large that no plain gradient is left.

    Single-step adversarial training learns to mask its gradient (catastrophic overfitting, Wong, Rice and Kolter 2020).
    The first process trains it alone and hands it to the others, so that it does not depend on their number.
    """
    few = dataclasses.replace(training.head(min(IMAGES, len(training))), split="train")  # any images do
    cnn = build("cnn", NETWORKS, image_shape=few.image_shape, num_classes=len(few.classes)).to(device)
    plain = dataclasses.replace(TRAINING, adversarial_eps=0.0, adversarial_steps=None, adversarial_warmup=None)
    if distributed.processes() == 1 or distributed.rank() == 0:
        with distributed.alone():
            fit(cnn, few, plain if saturated else TRAINING, progress=False)
    distributed.copy_from_first(cnn.state_dict().values())
    cnn.eval().requires_grad_(False)
    if saturated:
        last = cnn.p_y.network.layers[-1]
        last.weight.mul_(1000), last.bias.mul_(1000)
    return cnn


def plain_gradient(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the cross-entropy as it is usually computed, which underflows where the classifier is sure."""
    inputs = x.clone().requires_grad_()
    with torch.enable_grad(), classifier.precisely():
        loss = F.cross_entropy(classifier(inputs), y, reduction="sum")
        return torch.autograd.grad(loss, inputs)[0]


def zero_or_undefined(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """True where a gradient of [N, ...] is zero, and where it isn't finite, [N] each."""
    flat = gradients.flatten(1)
    return (flat == 0).all(1), ~torch.isfinite(flat).all(1)
