"""The images of a batch as training sees them: moved, mirrored, noisy, attacked."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrobayes import distributed
from pyrobayes.attacks import PGD
from pyrobayes.errors import InputError
from pyrobayes.factorizations import DeepBayes
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.options import TrainingOptions

ADVERSARIAL_STEPS = 10
ADVERSARIAL_WARMUP = 0.5
SHIFT = 2  # pixels


def augmented(x: Tensor, how: str | None, sigma: float | None = None) -> Tensor:
    """Images [B, channels, height, width], each moved by up to two pixels, and for `shift-flip` mirrored, at random.

    For `gaussian` they have normal noise of standard deviation `sigma` instead, and leave [0, 1]: a classifier that is to be
    smoothed is trained as it will be used (Cohen et al. 2019, section 3.3).
    """
    if how is None:
        return x
    if how == "gaussian":
        return x + sigma * torch.randn_like(x)
    if how == "shift-flip":
        x = x.flip(3).where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x)
    height, width = x.shape[2:]
    down, right = torch.randint(2 * SHIFT + 1, (2, len(x), 1), device=x.device)
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    larger, image = F.pad(x, (SHIFT,) * 4), torch.arange(len(x), device=x.device)[:, None, None]
    return larger.movedim(1, 3)[image, (rows + down)[:, :, None], (columns + right)[:, None]].movedim(3, 1)


def adversarial_eps(factorization: DeepBayes | type[DeepBayes], options: TrainingOptions) -> float:
    """The eps of the attack that a model is trained under, 0 for none; other options of an attack are an error then."""
    eps = factorization.adversarial_eps if options.adversarial_eps is None else options.adversarial_eps
    for name in ("adversarial_steps", "adversarial_warmup"):
        if getattr(options, name) and not eps:
            told = f"{name.replace('_', ' ')} says how to attack, but the adversarial eps of {factorization.name} is 0"
            raise InputError(f"{told}: give one, or leave it out")
    if eps and options.augmentation == "gaussian":
        raise InputError(
            f"{factorization.name} would be attacked with eps {eps:g} on images that noise has moved out of [0, 1]: take "
            "augmentation gaussian or an adversarial eps, not both"
        )
    return eps


class AttackedBatches:
    """Attacks the batches of an epoch by PGD on the current classifier; leaves them unchanged where eps is 0.

    `warmup` is the share of the run over which eps is to rise.
    """

    def __init__(self, factorization: DeepBayes, options: TrainingOptions, seed: int):
        self._eps = adversarial_eps(factorization, options)
        given = options.adversarial_warmup
        self.warmup = ADVERSARIAL_WARMUP if given is None else given
        if self._eps:
            steps = options.adversarial_steps or ADVERSARIAL_STEPS
            self._pgd = PGD(steps=steps, random_start=steps > 1, seed=seed)
            self._classifier = BayesClassifier(factorization, options.train_particles, seed=seed)

    def __call__(self, indices: Tensor, x: Tensor, y: Tensor, share: float) -> Tensor:
        """Attack this process's share of the images [B, channels, height, width] of classes [B] with a fraction of eps."""
        mine = distributed.mine()
        if self._eps and len(y[mine]):
            classifier = self._classifier.for_images(indices[mine])
            x[mine] = self._pgd(classifier, x[mine], y[mine], self._eps * share, indices=indices[mine])
        return x
