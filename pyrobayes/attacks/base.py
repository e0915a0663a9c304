"""What every attack is: its options, the loss it climbs, the ball it stays in, what it draws, and the registry."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pyrobayes.attacks.losses import LOSSES, MATCHING
from pyrobayes.errors import (
    LARGEST_SEED,
    InputError,
    check_eps,
    check_flag,
    check_integer,
    check_norm,
    check_positive,
    choice,
    is_number,
    numbers_in,
    plain_numbers,
)
from pyrobayes.inference.classifier import Logits, check_range
from pyrobayes.inference.noise import NoiseStream, Purpose, key_of, splitmix, standard_normals, uniforms
from pyrobayes.options import NORMS, TERMS

_REGISTRY: dict[str, type["Attack"]] = {}
EACH = "each"


@dataclass(frozen=True)
class Attack:
    """An attack in an eps ball: a subclass gives the perturbations, the base keeps them in bounds.

    A subclass is a frozen dataclass whose fields are its further options, and defines :meth:`perturb`.

    Args:
        norm: of the ball, `linf` or `l2`.
        loss: what is climbed, of :data:`pyrobayes.attacks.losses.LOSSES`; or, of
            :data:`pyrobayes.attacks.losses.MATCHING`, what is to become as it is for an image of another class.
        term: the term of the log weights that is attacked alone, see :meth:`pyrobayes.BayesClassifier.of_term`.
        snapshot: climb the mean of the losses of every particle's own log weights (Li et al. 2019, section 4.1).
        target: the class to be predicted, or `each`: all classes in turn, of which each image keeps the one whose
            log-odds against the true class are highest; None for any class but the true one.
        eot: how many independent estimates of the posterior the loss is taken of, at their mean (expectation over
            transformation, Athalye et al. 2018); with snapshot, how many times as many particles its mean is over. For a
            classifier with fresh noise.
        seed: of what the attack draws itself.
        evade: a function of log p(x, y) [B, C] that is to stay low, [B], besides: a detector's statistic, see
            :meth:`pyrobayes.evaluation.detection.Detector.evading`.
        evade_weight: lambda, by which it is taken off the loss.
    """

    norm: str = "linf"
    loss: str = "cross-entropy"
    term: str | None = None
    snapshot: bool = False
    target: int | str | None = None
    eot: int = 1
    seed: int = 0
    evade: Callable[[Tensor], Tensor] | None = None
    evade_weight: float = 1.0

    name: ClassVar[str] = "this attack"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    least_distance: ClassVar[bool] = False  # it looks for the nearest image, and eps only cuts that short
    follows_gradient: ClassVar[bool] = True  # of the classifier attacked, whose gradient it hopes for

    def __post_init__(self):
        plain_numbers(self)
        object.__setattr__(self, "norm", choice("norm", self.norm, NORMS))
        check_norm(self.name, self.norm, self.norms)
        object.__setattr__(self, "loss", choice("loss", self.loss, LOSSES | MATCHING))
        for option in ("target", "snapshot", "evade", *(["term"] if self.loss == "latent-matching" else [])):
            if self.matching and getattr(self, option) is not None and getattr(self, option) is not False:
                raise InputError(f"{self.loss} goes towards another image, and has no {option}: leave it out")
        if self.target is not None and self.target != EACH:
            check_integer("target", self.target, least=0)
        if self.term is not None:
            object.__setattr__(self, "term", choice("term", self.term, TERMS))
        check_flag("snapshot", self.snapshot)
        check_integer("eot", self.eot, least=1)
        if self.evade is not None and self.eot > 1 and not self.snapshot:
            raise InputError(
                "eot sees the mean of posteriors, which has no log p(x) to evade a test of: leave it out, or take a snapshot"
            )
        if self.evade is not None and self.term is not None:
            raise InputError(
                "a test to evade looks at all terms of log p(x, y), and term leaves one of them: leave it out"
            )
        check_integer("seed", self.seed, least=0, most=LARGEST_SEED)
        check_positive("evade weight", self.evade_weight)

    @property
    def matching(self) -> bool:
        """Whether it goes towards images of other classes."""
        return self.loss in MATCHING

    def described(self) -> dict:
        """The options as plain JSON values."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {"evade": self.evade and str(self.evade)}

    def perturb(self, problem: "Problem", eps: float) -> Tensor:
        """Adversarial images [B, channels, height, width] for one eps; the base keeps them in bounds."""
        raise TypeError(f"{type(self).__name__} must define perturb(problem, eps)")

    def perturb_all(self, problem: "Problem", eps: Sequence[float]) -> Tensor:
        """The same for several eps, [E, B, channels, height, width]; one at a time, unless a subclass knows better."""
        return torch.stack([self.perturb(problem, value) if value else problem.x for value in eps])

    def __call__(
        self,
        classifier: nn.Module,
        x: Tensor,
        y: Tensor,
        eps: float | Sequence[float],
        *,
        indices: Tensor | None = None,
        references: Tensor | None = None,
    ) -> Tensor:
        """Attack a classifier.

        Args:
            classifier: gives log p(x, y), or logits, [B, C], differentiably in x. The noise of one that is random
                follows from the images' places, unless it was made for images already
                (:meth:`pyrobayes.BayesClassifier.for_images`).
            x: images [B, channels, height, width] in [0, 1].
            y: their true classes [B].
            eps: bounds of the perturbation in the attack's norm; in L-infinity each in [0, 1].
            indices: [B] the images' places in their data set, which what the attack draws follows from; from 0 where
                left out.
            references: [B, channels, height, width] images of other classes that a matching loss goes towards.

        Returns:
            Adversarial images in [0, 1], none further than eps from its original:
            [E, B, channels, height, width] for E values of eps, without the first dimension for a single number.
        """
        single = is_number(eps)
        values = [float(eps)] if single else numbers_in(eps)
        adversarial = self.solve(Problem(self, classifier, x, y, indices, references), values)
        return adversarial[0] if single else adversarial

    def solve(self, problem: "Problem", eps: Sequence[float]) -> Tensor:
        """The adversarial images of one batch, [E, B, channels, height, width], for E values of eps."""
        check_eps(eps, self.norm)
        return self._to_each(problem, eps) if self.target == EACH else self._bounded(problem, eps)

    def _bounded(self, problem: "Problem", eps: Sequence[float]) -> Tensor:
        found = self.perturb_all(problem, eps).detach()
        if problem.target is not None:
            found = found.where((problem.target != problem.y)[:, None, None, None], problem.x)
        return torch.stack([problem.project(images, value) for images, value in zip(found, eps)])

    def _to_each(self, problem: "Problem", eps: Sequence[float]) -> Tensor:
        def towards(target: int) -> tuple[Tensor, Tensor]:
            found = self._bounded(problem.towards(target), eps)
            reached = torch.stack([problem.loss_of_truth(images) for images in found])
            return found, reached.where(problem.y != target, -torch.inf)

        return worst(towards(target) for target in range(problem.num_classes))


def worst(candidates: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Of candidates ([..., channels, height, width], loss [...]) each image's own with the highest loss; at least one."""
    best = highest = None
    for images, loss in candidates:
        if best is None:
            best, highest = images, torch.full_like(loss, -torch.inf)
        best, highest = higher(images, loss, best, highest)
    return best


def higher(images: Tensor, loss: Tensor, best: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """Images and their losses where these are above the highest so far, and the best and theirs elsewhere."""
    better = loss > highest
    return images.where(better[..., None, None, None], best), loss.where(better, highest)


class Problem:
    """One batch to attack: what to climb, where to stay, and numbers to draw.

    The arguments are an attack, and those that it is called with.

    Attributes:
        x: the images [B, channels, height, width].
        y: their true classes [B].
        target: [B] the classes to be predicted, or None. Images of that class already are left as they are.
        indices: [B] the images' places in their data set.
        references: images of other classes, like x, or None.
    """

    def __init__(
        self,
        attack: Attack,
        classifier: nn.Module,
        x: Tensor,
        y: Tensor,
        indices: Tensor | None = None,
        references: Tensor | None = None,
    ):
        if not isinstance(x, Tensor) or x.dim() != 4 or x.dtype not in (torch.float32, torch.float64):
            raise InputError(
                "x must be images [B, channels, height, width], floats in [0, 1] of 32 or 64 bits (of fewer, rounding leaves the "
                f"ball), got {_described(x)}"
            )
        if not len(x):
            raise InputError(f"x holds no image to attack, got {_described(x)}")
        if not isinstance(y, Tensor) or y.shape != x.shape[:1] or y.dtype != torch.long:
            raise InputError(f"y must hold one class, a torch.long, for each of {len(x)} images, got {_described(y)}")
        if attack.matching and (references is None or references.shape != x.shape):
            raise InputError(f"{attack.loss} needs references: an image of another class for each of {len(x)} images")
        for images in (x,) if references is None else (x, references):
            check_range(images)
        indices = torch.arange(len(x)) if indices is None else torch.as_tensor(indices)
        counted = not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
        if not counted or indices.shape != (len(x),):
            raise InputError(
                f"indices must hold one whole number for each of {len(x)} images, got {_described(indices)}"
            )
        indices = indices.to(torch.long)
        classifier = _unwrapped(classifier)
        if hasattr(classifier, "for_images") and not classifier.pinned:
            classifier = classifier.for_images(indices, NoiseStream.ATTACKER)
        self.attack, self.x, self.y, self.target, self.references = attack, x.detach(), y, None, references
        self.indices, self._attacked, self._classifier = indices.to(x.device), classifier, self._seen(classifier)
        self._asked, self._felt = torch.zeros_like(y, dtype=torch.bool), torch.zeros_like(y, dtype=torch.bool)
        if attack.target is not None and attack.target != EACH:
            self.target = torch.full_like(y, attack.target)

    def _seen(self, classifier: nn.Module) -> nn.Module:
        if not (self.attack.term or self.attack.snapshot):
            return classifier
        if not hasattr(classifier, "of_term"):
            raise InputError(f"term and snapshot need a BayesClassifier, got {type(classifier).__name__}")
        if self.attack.snapshot and classifier.options.prune is not None:
            raise InputError("snapshot needs all particles of every class: leave prune out")
        return classifier.of_term(self.attack.term)

    def against(self, classifier: nn.Module) -> "Problem":
        """The same problem with another classifier, which has noise of its own for each image."""
        other, classifier = copy.copy(self), _unwrapped(classifier)
        if hasattr(classifier, "for_images"):
            classifier = classifier.for_images(self.indices, NoiseStream.ATTACKER)
        other._classifier = self._seen(classifier)
        return other

    def towards(self, target: int) -> "Problem":
        """The same problem with a target for all images."""
        other = copy.copy(self)
        other.target = torch.full_like(self.y, target)
        return other

    @property
    def random(self) -> bool:
        """Whether the loss depends on the draw."""
        return getattr(self._classifier, "random", False)

    @property
    def blind(self) -> Tensor:
        """For which images a gradient was asked for and none had a finite value other than zero, [B]."""
        return self._asked & ~self._felt

    @property
    def num_classes(self) -> int:
        """How many classes the classifier knows."""
        with torch.no_grad():
            return self.log_posterior(self.x, 0).shape[1]

    @torch.no_grad()
    def margin(self, images: Tensor) -> Tensor:
        """How far the images are astray, [B] nats, whatever is climbed: above 0 where they are misclassified.

        Judged by one draw of a random classifier's noise, number 0.
        """
        return LOSSES["margin"](resampled(self._attacked, 0)(images), self.y, self.target)

    def log_posterior(self, images: Tensor, draw: int) -> Tensor:
        """log p(x, y), [B, C], or the log of the mean of `eot` independent posteriors."""
        seen = self._estimates(draw)
        if len(seen) == 1:
            return seen[0](images)
        return torch.stack([each(images).log_softmax(1) for each in seen]).logsumexp(0) - math.log(len(seen))

    def _estimates(self, draw: int) -> list[nn.Module]:
        """The classifier under each of the `eot` draws that are the attacker's at `draw`."""
        n = self.attack.eot
        return [resampled(self._classifier, n * draw + i) for i in range(n)]

    def gradient(self, images: Tensor, draw: int = 0) -> tuple[Tensor, Tensor]:
        """The loss [B], and its gradient in the images, 0 where it isn't finite.

        Another `draw` is other noise of a random classifier.
        """
        loss, gradient = self.raw_gradient(images, draw)
        gradient = gradient.where(gradient.isfinite(), 0)
        self._asked.fill_(True)
        self._felt.logical_or_(gradient.flatten(1).any(1))
        return loss, gradient

    def raw_gradient(self, images: Tensor, draw: int = 0) -> tuple[Tensor, Tensor]:
        """The same as it is, finite or not."""
        if torch.is_inference_mode_enabled():
            raise InputError("torch.inference_mode leaves no gradient to climb: attack outside of it")
        images = images.detach().requires_grad_(True)
        with torch.enable_grad():
            loss = self._loss(images, draw, self.target)
            if not loss.requires_grad:
                raise InputError(
                    f"the term {self.attack.term} doesn't depend on the image here: leave it out"
                    if self.attack.term
                    else "what the classifier gives doesn't depend on the images differentiably: there is no gradient to climb"
                )
            return loss.detach(), torch.autograd.grad(loss.sum(), images)[0]

    @torch.no_grad()
    def loss(self, images: Tensor, draw: int = 0) -> Tensor:
        """The loss [B]."""
        return self._loss(images, draw, self.target)

    @torch.no_grad()
    def loss_of_truth(self, images: Tensor) -> Tensor:
        """The loss without a target [B]."""
        return self._loss(images, 0, None)

    def _loss(self, images: Tensor, draw: int, target: Tensor | None) -> Tensor:
        if self.attack.matching:
            return -self._mismatch(images, draw)
        if not self.attack.snapshot:
            return self._loss_of(self.log_posterior(images, draw), target)
        return torch.stack(
            [
                self._loss_of(log_weights.T.to(images.device), target)
                for seen in self._estimates(draw)
                for log_weights in seen.estimate(images).log_weights  # of one particle, [C, B]
            ]
        ).mean(0)

    def _loss_of(self, log_joint: Tensor, target: Tensor | None) -> Tensor:
        loss = LOSSES[self.attack.loss](log_joint, self.y, target)
        return loss if self.attack.evade is None else loss - self.attack.evade_weight * self.attack.evade(log_joint)

    def _mismatch(self, images: Tensor, draw: int) -> Tensor:
        """The mean squared difference from the references, [B], over `eot` draws of which each serves both."""
        features, differences = MATCHING[self.attack.loss], []
        for seen in self._estimates(draw):
            with torch.no_grad():
                wanted = features(seen, self.references)
            differences.append((features(seen, images) - wanted).square().mean(1))
        return torch.stack(differences).mean(0)

    def project(self, images: Tensor, eps: float) -> Tensor:
        """The images, brought into the ball of radius eps around x and into [0, 1].

        In L-infinity they become what is nearest to them there. In L2 the change is shortened, and then cut to [0, 1], which
        may shorten it further. What may change by area is known to the attack: of that only
        the range is seen to.
        """
        if self.attack.norm == "area":
            return images.clamp(0, 1)
        if self.attack.norm == "linf":
            return images.clamp((self.x - eps).clamp(0, 1), (self.x + eps).clamp(0, 1))
        change = images - self.x
        norm = lengths(change)
        return (self.x + change * (eps / norm.clamp_min(eps)).where(norm > eps, 1)).clamp(0, 1)

    def ascend(self, gradient: Tensor) -> Tensor:
        """The step of length 1 in the attack's norm along which a linear loss of this gradient grows most."""
        if self.attack.norm == "linf":
            return gradient.sign()
        return gradient / lengths(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)

    def normals(self, draw: int) -> Tensor:
        """Standard normal numbers like x, which follow from the attack's seed, the image and `draw`."""
        size = self.x[0].numel()
        n = torch.arange(math.ceil(size / 2), device=self.x.device)
        return standard_normals(self._keys(draw), n).flatten(1)[:, :size].reshape_as(self.x).to(self.x.dtype)

    def uniforms(self, draw: int) -> Tensor:
        """Numbers like x, uniform from 0 to 1, likewise."""
        n = torch.arange(self.x[0].numel(), device=self.x.device)
        return uniforms(self._keys(draw), n).reshape_as(self.x).to(self.x.dtype)

    def _keys(self, draw: int) -> Tensor:
        return splitmix(key_of(self.attack.seed, Purpose.ATTACK, draw), self.indices)[:, None]

    def in_ball(self, draw: int, eps: float) -> Tensor:
        """Images drawn uniformly from the ball of radius eps around x, not yet in [0, 1]."""
        if self.attack.norm == "linf":
            return self.x + eps * (2 * self.uniforms(draw) - 1)
        direction = self.normals(2 * draw)
        radius = self.uniforms(2 * draw + 1)[:, :1, :1, :1] ** (1 / self.x[0].numel())
        return self.x + eps * radius * direction / lengths(direction)


def lengths(images: Tensor) -> Tensor:
    """L2 norms, [B, 1, 1, 1]."""
    return images.flatten(1).norm(dim=1)[:, None, None, None]


def resampled(classifier: nn.Module, draw: int) -> nn.Module:
    """A random classifier with other noise for the same images; any other as it is."""
    return classifier.resampled(draw) if hasattr(classifier, "resampled") else classifier


def _unwrapped(classifier: nn.Module) -> nn.Module:
    """A classifier itself in place of its logits, which hide where its noise comes from."""
    return classifier.classifier if isinstance(classifier, Logits) else classifier


def _described(value) -> str:
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def register(name: str):
    """Class decorator: make an attack known under `name`, lower case."""

    def add(cls: type[Attack]) -> type[Attack]:
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return add


def names() -> list[str]:
    """The names of all registered attacks."""
    return list(_REGISTRY)


def options(name: str) -> set[str]:
    """The names of the options of an attack."""
    return {field.name for field in dataclasses.fields(_REGISTRY[choice("attack", name, _REGISTRY)]) if field.init}


def get(name: str, **given) -> Attack:
    """The attack registered under `name`, with its options.

    Raises:
        InputError: there is none, with the nearest name; or it has no such option.
    """
    name = choice("attack", name, _REGISTRY)
    if unknown := sorted(set(given) - options(name)):
        raise InputError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(sorted(options(name)))}")
    return _REGISTRY[name](**given)
