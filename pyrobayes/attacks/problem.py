"""The problem that an attack solves for one batch: the loss to increase, the ball to stay in, the numbers to draw."""

import contextlib
import copy
import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyrobayes.attacks.base import EACH, LEAST, Attack, lengths
from pyrobayes.attacks.losses import LOSSES, MATCHING, check_classes
from pyrobayes.attacks.norms import shortened
from pyrobayes.errors import InputError
from pyrobayes.inference import capture
from pyrobayes.inference.classifier import check_range
from pyrobayes.inference.interface import Classifier
from pyrobayes.inference.modules import as_classifier, described, warn
from pyrobayes.inference.noise import NoiseStream, Purpose, key_of, normals_of_images, splitmix, uniforms
from pyrobayes.options import ClassifierOptions

LARGE = 1e30  # nats
PRUNED = 10.0  # nats; classes that are less likely by so much get few of the particles of a draw that judges


class Problem:
    """One batch to attack. The arguments are an attack, and those that it is called with.

    Attributes:
        x, y: the images [B, channels, height, width], and their true classes [B].
        target: [B] the classes to be predicted, or None. Images of that class already are left as they are.
        indices: [B] the images' places in their data set.
        references: images of other classes, like x, or None.
    """

    def __init__(self, attack: Attack, classifier: nn.Module, x: Tensor, y: Tensor, indices=None, references=None):
        _check_batch(attack, x, y, references)
        self.attack, self.y, self.target, self.references = attack, y.detach(), None, references
        self._classes = None  # that the loss sees, where it doesn't see all
        self._checked: set[int] = set()  # numbers of classes that y was found to be among
        self.x = x.clone() if x.is_inference() else x.detach()  # autograd takes no tensor of torch.inference_mode
        self.indices = _checked_indices(indices, len(x)).to(x.device).detach()
        self._attacked = self._with_noise(classifier, keep_pinned=True)
        self._classifier = self._seen(self._attacked)
        self._places = torch.arange(len(y), device=y.device)  # in the whole batch, of which `of` leaves some
        self._noted = y.new_zeros((2, len(y)), dtype=torch.bool)  # of the whole batch: see `_note`
        self._in_a_graph = False  # where a step or a gradient is captured as a whole
        if attack.target is not None and attack.target != EACH:
            self.target = torch.full_like(y, attack.target)

    def _with_noise(self, classifier: nn.Module, keep_pinned: bool) -> Classifier:
        """A classifier with the attacker's noise of the images' places."""
        classifier = as_classifier(classifier, self.x).unchecked()  # the images were checked, and stay in bounds
        if keep_pinned and classifier.pinned:
            return classifier
        return classifier.for_images(self.indices, NoiseStream.ATTACKER)

    def _seen(self, classifier: Classifier) -> Classifier:
        gradient = self.attack.gradient
        if not (self.attack.term or self.attack.snapshot or gradient != "path"):
            return classifier
        if not classifier.has_particles:
            raise InputError(f"term, snapshot and gradient need a BayesClassifier, got {classifier.name}")
        if self.attack.snapshot and classifier.options.prune is not None:
            raise InputError("snapshot needs all particles of every class: leave prune out")
        classifier = classifier.of_term(self.attack.term)
        return classifier if gradient == "path" else classifier.with_gradient(gradient)

    def against(self, classifier: nn.Module) -> "Problem":
        """This problem with another classifier, which has noise of its own for each image."""
        other = copy.copy(self)
        other._classifier = self._seen(self._with_noise(classifier, keep_pinned=False))
        return other

    def towards(self, target: int) -> "Problem":
        """This problem with a target for all images."""
        other = copy.copy(self)
        other.target = torch.full_like(self.y, target)
        return other

    def by(self, attack: Attack, particles: int | None = None, classes: Tensor | None = None) -> "Problem":
        """This problem as another attack of the same norm and target sees it.

        Of a Bayes classifier it sees so many particles; all where None. Its loss sees the classes [M, B] alone, or all.
        """
        other = copy.copy(self)
        other.attack, other._classes, seen = attack, classes, self._attacked
        if seen.has_particles:
            seen = seen if particles is None else seen.replaced(particles=particles)
            seen = seen if classes is None else seen.of_classes(classes)
        other._classifier = other._seen(seen)
        return other

    def of(self, kept: Tensor) -> "Problem":
        """This problem for some images alone, by their places; their noise stays theirs."""
        other = copy.copy(self)
        other.x, other.y, other.indices = self.x[kept], self.y[kept], self.indices[kept]
        other.target, other.references = (
            each if each is None else each[kept] for each in (self.target, self.references)
        )
        seen = self._attacked
        other._attacked = seen.for_some(kept)
        other._classifier, other._places = other._seen(other._attacked), self._places[kept]
        other._classes = None
        return other

    @torch.no_grad()
    def over_draws(self, images: Tensor, draws: range) -> tuple[Tensor, Tensor, Tensor]:
        """How draws of the classifier judge images.

        Returns:
            The share of the draws that misclassify each image (give it the target), [B], the mean margin, [B], and the mean
            log posterior, [B, C].
        """
        judge = self._attacked
        if judge.has_particles:
            judge = judge.replaced(**pruning(judge.options))
        log_joint = torch.stack([judge.resampled(draw)(images) for draw in draws])
        margins = torch.stack([self._named_loss("margin", each) for each in log_joint])
        return (margins > 0).float().mean(0), margins.mean(0), log_joint.log_softmax(2).mean(0)

    @property
    def random(self) -> bool:
        """True if the loss depends on the draw."""
        return self._classifier.random

    @property
    def blind(self) -> Tensor:
        """The images without any gradient: one was computed, and never had a finite value other than zero; [B]."""
        asked, felt = self._noted[:, self._places]
        return asked & ~felt

    def warn_of_no_gradient(self) -> None:
        """Warn if more than 1% of the images, correct so far, have no gradient: an attack leaves them as they are."""
        left = self.blind & (self.y != self.attack.target)
        if left.any() and (none := int((left & (self.margin(self.x) <= 0)).sum())) > 0.01 * len(self.x):
            warn(
                f"the classifier gave {self.attack.name} no gradient other than zero for {none} of {len(self.x)} images, which "
                "says nothing about their robustness: attack without gradients too, such as by square"
            )

    @torch.no_grad()
    def margin(self, images: Tensor) -> Tensor:
        """The margin loss, [B] nats, whichever loss the attack increases: above 0 where an image is misclassified.

        Draw 0 of a random classifier's noise judges all images.
        """
        return self._named_loss("margin", self._attacked.resampled(0)(images))

    def log_posterior(self, images: Tensor, draw: int) -> Tensor:
        """log p(x, y), [B, C], or the log of the mean of `eot` independent posteriors."""
        seen = self._estimates(draw)
        if len(seen) == 1:
            return seen[0](images)
        # Classes that were left out have -inf: a mean of them alone has no gradient.
        posteriors = torch.stack([each(images).log_softmax(1).clamp_min(-LARGE) for each in seen])
        return posteriors.logsumexp(0) - math.log(len(seen))

    def _estimates(self, draw: int) -> list[Classifier]:
        """The classifier with each of the `eot` draws of noise that the attacker averages at `draw`."""
        n = self.attack.eot
        return [self._classifier.resampled(n * draw + i) for i in range(n)]

    def gradient(self, images: Tensor, draw: int = 0) -> tuple[Tensor, Tensor]:
        """The loss [B], and its gradient in the images, 0 where it isn't finite.

        A random classifier has other noise for another `draw`.
        """
        loss, gradient = self.raw_gradient(images, draw)
        gradient = gradient.where(gradient.isfinite(), 0)
        felt = gradient.flatten(1).any(1)
        self._note(torch.stack([torch.ones_like(felt), felt]))
        return loss, gradient

    def _note(self, gradients: Tensor) -> None:
        """Keep in mind which images a gradient was computed for, and which had one other than zero; [2, B]."""
        self._noted[:, self._places] |= gradients

    def raw_gradient(self, images: Tensor, draw: int = 0) -> tuple[Tensor, Tensor]:
        """The loss [B], and its gradient in the images, finite or not."""
        self._check_climbable()
        return self._replayed("gradient", Problem._gradient, images.detach(), draw)

    def _check_climbable(self) -> None:
        if torch.is_inference_mode_enabled():
            raise InputError("torch.inference_mode leaves no gradient to climb: attack outside of it")
        if any(each.is_inference() for each in self._classifier.parameters()):
            raise InputError(
                "the classifier was made in torch.inference_mode, and leaves no gradient to climb: make it outside of it"
            )

    def step(self, function: Callable, *given: Tensor | float) -> tuple[Tensor, ...]:
        """A step of an attack, by one of its methods, of this problem and what is given; a CUDA device replays it as one graph.

        The method gives tensors [B, ...], and looks at no values. Numbers reach it as tensors without dimensions there. Of
        the problem it may use all but `margin` and `over_draws`.
        """
        self._check_climbable()
        return self._replayed((function.__func__, function.__self__), function, *given)

    def precisely(self) -> contextlib.AbstractContextManager[None]:
        """A context in which gradients have the precision of the classifier's options."""
        return self._classifier.precisely()

    def _gradient(self, images: Tensor, draw: int | Tensor) -> tuple[Tensor, Tensor]:
        images = images.detach().requires_grad_(True)
        with torch.enable_grad(), self.precisely():
            loss = self._loss(images, draw)
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
        return self._replayed("loss", Problem._loss, images.detach(), draw)

    def _replayed(self, name: Hashable, function: Callable, *given: Tensor | float) -> Any:
        """The result of a function of this problem; on a CUDA device by a graph that problems of equal shapes share.

        Its name, and the attack, decide what the function computes.
        """
        served = not self._in_a_graph and capture.serves(*given, self.y)
        graph = self._graph(name, function) if served else None
        if graph is None or graph.failed:
            return function(self, *given)
        self._check_classes(self._classifier.num_classes)  # a graph can't
        indices, classes = self._classifier.buffers_of_images
        classes = self._classes if classes is None else classes
        noted, *result = graph(self.x, self.y, self.target, self.indices, indices, classes, *given)
        self._note(noted)
        return result[0] if len(result) == 1 else tuple(result)

    def _graph(self, name: Hashable, function: Callable) -> capture.Captured | None:
        """The graph of a function; None where it can't be captured."""
        attack, key = self.attack, self._classifier.graph_key
        if attack.evade is not None or attack.matching or key is None:
            return None
        key = name, attack, self.target is None, key
        try:
            hash(key)
        except TypeError:  # an option of a user's attack
            return None
        return self._classifier.graphs.of(key, partial(self._captured, function))

    def _captured(self, function: Callable) -> capture.Captured:
        """The function of a problem as one of the tensors that differ between batches; it gives what is to be noted too."""
        like = copy.copy(self)
        like._in_a_graph = True
        like.x = like.references = like._attacked = None  # of this batch, which a graph mustn't keep

        def compute(x, y, target, places, indices, classes, *given):
            other = copy.copy(like)
            other.x, other.y, other.target, other.indices, other._classes = x, y, target, places, classes
            other._places = torch.arange(len(y), device=y.device)
            other._noted = y.new_zeros((2, len(y)), dtype=torch.bool)
            other._classifier = like._classifier.on_buffers(indices, classes)
            result = function(other, *given)
            return other._noted, *(result if isinstance(result, tuple) else (result,))

        return capture.Captured(compute, "an attack")

    def _loss(self, images: Tensor, draw: int) -> Tensor:
        if self.attack.matching:
            return -self._mismatch(images, draw)
        if not self.attack.snapshot:
            return self._loss_of(self.log_posterior(images, draw))
        by_particle = [
            self._loss_of(log_weights.T.to(images.device))  # of one particle, [C, B]
            for seen in self._estimates(draw)
            for log_weights in seen.estimate(images).log_weights
        ]
        return torch.stack(by_particle).mean(0)

    def _loss_of(self, log_joint: Tensor) -> Tensor:
        if self._classes is not None:
            left_out = torch.ones_like(log_joint, dtype=torch.bool).scatter(1, self._classes.T, False)
            log_joint = log_joint.masked_fill(left_out, -math.inf)
        loss = self._named_loss(self.attack.loss, log_joint)
        return loss if self.attack.evade is None else loss - self.attack.evade_weight * self.attack.evade(log_joint)

    def _named_loss(self, name: str, log_joint: Tensor) -> Tensor:
        self._check_classes(log_joint.shape[1])
        return LOSSES[name](log_joint, self.y, self.target)

    def _check_classes(self, classes: int) -> None:
        """Refuse true classes and targets that are not among so many classes; the values are looked at once."""
        if classes in self._checked:
            return
        target = self.attack.target
        if isinstance(target, int) and target >= classes:
            raise InputError(
                f"target must be one of the classifier's {classes} classes, 0 to {classes - 1}, got {target}"
            )
        check_classes(self.y, classes)
        self._checked.add(classes)

    def _mismatch(self, images: Tensor, draw: int) -> Tensor:
        """The mean squared difference from the references, [B], over `eot` draws; images and references share a draw."""
        features, differences = MATCHING[self.attack.loss], []
        for seen in self._estimates(draw):
            with torch.no_grad():
                wanted = features(seen, self.references)
            differences.append((features(seen, images) - wanted).square().mean(1))
        return torch.stack(differences).mean(0)

    def project(self, images: Tensor, eps: float) -> Tensor:
        """The images, brought into the ball of radius eps around x and into [0, 1].

        L-infinity gives the nearest images there. L2 and L1 shorten the change, and then cut the pixels to [0, 1], which may
        shorten it further. L0 keeps the largest changes. An attack by area chooses its pixels itself; they are only cut to [0, 1].
        """
        if self.attack.norm == "area":
            return images.clamp(0, 1)
        if self.attack.norm == "linf":
            return images.clamp((self.x - eps).clamp(0, 1), (self.x + eps).clamp(0, 1))
        return (self.x + shortened(images - self.x, self.attack.norm, eps)).clamp(0, 1)

    def ascend(self, gradient: Tensor) -> Tensor:
        """The step of length 1 in the attack's norm that increases a linear loss with this gradient most."""
        if self.attack.norm == "linf":
            return gradient.sign()
        return gradient / lengths(gradient).clamp_min(LEAST)

    def normals(self, draw: int) -> Tensor:
        """Standard normal numbers, shaped like x; they follow from the attack's seed, the image's place and `draw`."""
        return normals_of_images(self._keys(draw), self.x.shape[1:]).to(self.x.dtype)

    def uniforms(self, draw: int) -> Tensor:
        """Uniform numbers from 0 to 1, shaped like x; they follow from the attack's seed, the image's place and `draw`."""
        n = torch.arange(self.x[0].numel(), device=self.x.device)
        return uniforms(self._keys(draw)[:, None], n).reshape_as(self.x).to(self.x.dtype)

    def _keys(self, draw: int) -> Tensor:
        return splitmix(key_of(self.attack.seed, Purpose.ATTACK, draw), self.indices)

    def in_ball(self, draw: int, eps: float) -> Tensor:
        """Images drawn uniformly from the ball of radius eps around x, not yet in [0, 1]."""
        if self.attack.norm == "linf":
            return self.x + eps * (2 * self.uniforms(draw) - 1)
        direction = self.normals(2 * draw)
        radius = self.uniforms(2 * draw + 1)[:, :1, :1, :1] ** (1 / self.x[0].numel())
        return self.x + eps * radius * direction / lengths(direction)


def _check_batch(attack: Attack, x: Tensor, y: Tensor, references: Tensor | None) -> None:
    if not isinstance(x, Tensor) or x.dim() != 4 or x.dtype not in (torch.float32, torch.float64):
        raise InputError(
            "x must be images [B, channels, height, width], floats in [0, 1] of 32 or 64 bits (of fewer, rounding leaves the "
            f"ball), got {described(x)}"
        )
    if not len(x):
        raise InputError(f"x holds no image to attack, got {described(x)}")
    if not isinstance(y, Tensor) or y.shape != x.shape[:1] or y.dtype != torch.long:
        raise InputError(f"y must hold one class, a torch.long, for each of {len(x)} images, got {described(y)}")
    if attack.matching and (references is None or references.shape != x.shape):
        raise InputError(f"{attack.loss} needs references: an image of another class for each of {len(x)} images")
    for images in (x,) if references is None else (x, references):
        check_range(images)


def _checked_indices(indices: Tensor | None, images: int) -> Tensor:
    indices = torch.arange(images) if indices is None else torch.as_tensor(indices)
    counted = not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
    if not counted or indices.shape != (images,):
        raise InputError(f"indices must hold one whole number for each of {images} images, got {described(indices)}")
    return indices.to(torch.long)


def pruning(options: ClassifierOptions) -> dict:
    """Options by which a draw that needs no gradient takes about half of the time: hopeless classes get few particles.

    A classifier that prunes already does so as it was told.
    """
    return {"prune": PRUNED} if options.estimator == "per-class" and options.prune is None else {}
