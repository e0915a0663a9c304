"""What is reported of a classifier, clean and attacked, as plain records."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from pyrobayes import attacks, distributed
from pyrobayes.attacks import Attack, Problem
from pyrobayes.attacks.base import lengths
from pyrobayes.attacks.losses import log_odds_against
from pyrobayes.classifier import ATTACKER, DEFENDER, REFERENCES, SECOND, BayesClassifier
from pyrobayes.data import Images
from pyrobayes.options import EPS, LARGEST_BATCH, InputError, checked_eps, whole
from pyrobayes.progress import Progress, silent
from pyrobayes.randomness import splitmix, uniforms

CHECKED = 200  # clean images on which it is looked at what noise and approximations change
UNSAVED = ("clean_log_joint", "log_joint", "examples")  # of an attack's result, in its file
LOOKED_AT = ("changed", "approximation", "gradient_signs")
NORMAL_95 = 1.959963984540054  # 95% of a normal distribution are within so many standard deviations


def in_percent(share: float, interval: tuple[float, float]) -> str:
    """A share and its interval in per cent, as in `82.4 [81.7, 83.2]`."""
    low, high = interval
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class Rate:
    """A share of images: `count` of `total`."""

    count: int
    total: int

    @classmethod
    def of(cls, which: Tensor) -> "Rate":
        """The share of images that `which` [N] is true of."""
        return cls(int(which.sum()), len(which))

    @classmethod
    def of_share(cls, share: float, total: int) -> "Rate":
        """Of so many, where only the share is known."""
        return cls(round(share * total) if total else 0, total)

    @property
    def share(self) -> float:
        """From 0 to 1; NaN of no images."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of Wilson (1927); NaN of no images."""
        if not self.total:
            return math.nan, math.nan
        z, n, p = NORMAL_95, self.total, self.share
        centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        # Exact at both ends, where rounding would leave something over.
        low = (centre - spread) / scale if self.count else 0.0
        return low, (centre + spread) / scale if self.count < n else 1.0

    def percent(self) -> str:
        """The share and its interval in per cent, as in `82.4 [81.7, 83.2]`; `-` of no images."""
        return in_percent(self.share, self.interval) if self.total else "-"

    def sentence(self) -> str:
        """The same, as it is read within a sentence."""
        return self.percent().replace(" ", "% ", 1)

    def as_dict(self) -> dict:
        """The count, the total, the share and its interval; the last two are None of no images."""
        known = self.total > 0
        return dataclasses.asdict(self) | {
            "share": self.share if known else None,
            "interval_95": list(self.interval) if known else None,
        }


@dataclass(frozen=True)
class Evaluation:
    """How a classifier does on clean images.

    Attributes:
        model, data, images: what was evaluated on what.
        accuracy: share of the images classified correctly.
        changed: share of the images whose predicted class changes with another draw of the noise, a fresh one where it is fixed.
        negative_log_likelihood: mean of -log p(y|x), nats.
        calibration_error: expected calibration error of the predicted class's posterior, 15 equal bins
            (Guo et al. 2017), from 0 to 1.
        log_evidence: mean log p(x), nats; None for a model without p(x|...).
        effective_sample_size: mean over images and classes, from 1 to the particles that serve each class.
        confusion: [C][C] counts, true class by predicted class.
        approximation: share of the predicted classes that lower precision or pruning changes, with the same noise;
            None where the classifier's options ask for neither.
    """

    model: str
    data: str
    images: int
    accuracy: Rate
    changed: Rate
    negative_log_likelihood: float
    calibration_error: float
    log_evidence: float | None
    effective_sample_size: float
    confusion: list[list[int]]
    approximation: Rate | None = None

    def cells(self) -> list[str]:
        """For a table: accuracy (%), changed (%), negative log-likelihood, calibration error, log p(x), effective sample size."""
        return [
            self.accuracy.percent(),
            self.changed.percent(),
            f"{self.negative_log_likelihood:.3f}",
            f"{self.calibration_error:.3f}",
            "-" if self.log_evidence is None else f"{self.log_evidence:.2f}",
            f"{self.effective_sample_size:.2f}",
        ]

    def as_dict(self) -> dict:
        """As plain JSON values."""
        rates = {name: value.as_dict() for name, value in vars(self).items() if isinstance(value, Rate)}
        return dataclasses.asdict(self) | rates


@dataclass(frozen=True)
class AttackResult:
    """How a classifier does on adversarial images.

    Attributes:
        model, generative, attack, data: what was attacked, how, on what.
        options: of the attack, and of the classifier that the attacker saw where they differ from the defender's.
        eps: [E] the bounds.
        labels: [N] true classes.
        clean_predictions: [N] predicted classes of the clean images.
        predictions: [E][N] the same of the adversarial images.
        posteriors: [E][N] posteriors of those predicted classes.
        unmoved: images, not of the target class, for which no gradient that the attack asked for had a finite value
            other than zero. None of an attack that does without.
        distances: [N] L2 lengths of the least changes that an attack which looks for them found; infinite where the
            classifier didn't fall for it; None for other attacks.
        changed: as in :class:`Evaluation`, of the first clean images; None for a classifier that isn't random.
        approximation: as there, of the same images.
        gradient_signs: share of the pixels of these whose gradient has another sign than that without approximations,
            with the same noise; None where the attacker's options ask for none.
        clean_log_joint: [N, C] nats, of the clean images. This and what follows is None of a result read from its file.
        log_joint: [E, N, C] nats, of the adversarial images.
        examples: [E, M, channels, height, width] the first adversarial images.
    """

    model: str
    generative: bool
    attack: str
    options: dict
    data: str
    eps: tuple[float, ...]
    labels: list[int]
    clean_predictions: list[int]
    predictions: list[list[int]]
    posteriors: list[list[float]]
    unmoved: Rate
    distances: list[float] | None = None
    changed: Rate | None = None
    approximation: Rate | None = None
    gradient_signs: Rate | None = None
    clean_log_joint: Tensor | None = None
    log_joint: Tensor | None = None
    examples: Tensor | None = None

    @classmethod
    def of(cls, *, clean_log_joint: Tensor, log_joint: Tensor, **others) -> "AttackResult":
        """With the predictions and posteriors that the log joints give."""
        return cls(
            clean_log_joint=clean_log_joint,
            log_joint=log_joint,
            clean_predictions=clean_log_joint.argmax(1).tolist(),
            predictions=log_joint.argmax(2).tolist(),
            posteriors=log_joint.softmax(2).amax(2).tolist(),
            **others,
        )

    @property
    def images(self) -> int:
        """How many were attacked."""
        return len(self.labels)

    @property
    def clean_accuracy(self) -> Rate:
        """Share of the clean images classified correctly."""
        return Rate(sum(p == y for p, y in zip(self.clean_predictions, self.labels)), self.images)

    def success(self, index: int) -> Rate:
        """Success rate at `eps[index]`: share of all attacked images that end up misclassified."""
        return Rate(sum(p != y for p, y in zip(self.predictions[index], self.labels)), self.images)

    def flipped(self, index: int) -> Rate:
        """Share of the initially correct images that end up misclassified at `eps[index]`."""
        triples = zip(self.predictions[index], self.clean_predictions, self.labels)
        right = [p != y for p, clean, y in triples if clean == y]
        return Rate(sum(right), len(right))

    @property
    def median_distance(self) -> float | None:
        """Median of the distances over the initially correct images; infinite where most didn't fall for the attack.

        Images of the target class, which are left alone, are not among them; NaN if there are no others.
        """
        if self.distances is None:
            return None
        each = zip(self.distances, self.clean_predictions, self.labels, strict=True)
        right = [distance for distance, p, y in each if p == y != self.options.get("target")]
        return statistics.median(right) if right else math.nan

    def reached(self, index: int) -> Rate | None:
        """Share of the images of other classes that end up in the target class at `eps[index]`; None without one."""
        target = self.options.get("target")
        if not isinstance(target, int):
            return None
        others = [p == target for p, y in zip(self.predictions[index], self.labels) if y != target]
        return Rate(sum(others), len(others))

    def as_dict(self) -> dict:
        """As plain JSON values, without the example images and the log joints."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {name: value for name, value in values.items() if name not in UNSAVED}
        if self.distances is not None:
            plain["distances"] = [distance if math.isfinite(distance) else None for distance in self.distances]
        rates = [
            {"eps": eps, "success": self.success(i).as_dict(), "flipped": self.flipped(i).as_dict()}
            | ({"reached": reached.as_dict()} if (reached := self.reached(i)) else {})
            for i, eps in enumerate(self.eps)
        ]
        shares = {"clean_accuracy": self.clean_accuracy.as_dict(), "unmoved": self.unmoved.as_dict()}
        for name in LOOKED_AT:
            if rate := getattr(self, name):
                shares[name] = rate.as_dict()
        return plain | shares | {"rates": rates}


def evaluate(
    classifier: BayesClassifier,
    data: Images,
    *,
    images: int | None = None,
    batch_size: int = 100,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate a classifier on clean images, with its own particles, noise and seed.

    Args:
        classifier: such as :func:`pyrobayes.load` gives.
        data: labelled images.
        images: take only the first so many of them.
        batch_size: images at a time; changes memory and speed, not results.
        progress: called after every batch.
    """
    data = prepared(classifier, data, images, batch_size)
    batches, fresh = [], classifier.replaced(noise="fresh")
    with torch.no_grad():
        for indices, x, _ in distributed.share(data.batches(batch_size)):
            estimate = classifier.for_images(indices, DEFENDER).estimate(x)
            other = fresh.for_images(indices, SECOND)(x).argmax(1)
            batches.append([each.cpu() for each in (estimate.log_joint, estimate.effective_sample_size, other)])
            progress.images(classifier.factorization.name, int(indices[-1]) + 1, len(data))
    log_joint, sample_sizes, other = (torch.cat(parts) for parts in zip(*distributed.gather(batches)))
    labels = data.labels.cpu()
    predicted = log_joint.argmax(1)
    posterior = log_joint.log_softmax(1)
    classes = len(data.classes)
    confusion = (labels * classes + predicted).bincount(minlength=classes**2).reshape(classes, classes)
    models_images = classifier.factorization.models_images
    return Evaluation(
        model=classifier.factorization.name,
        data=data.name,
        images=len(data),
        accuracy=Rate.of(predicted == labels),
        changed=Rate.of(predicted != other),
        negative_log_likelihood=-posterior.gather(1, labels[:, None]).mean().item(),
        calibration_error=calibration_error(posterior.exp(), labels),
        log_evidence=log_joint.logsumexp(1).mean().item() if models_images else None,
        effective_sample_size=sample_sizes.mean().item(),
        confusion=confusion.tolist(),
        approximation=approximation(classifier, data, batch_size),
    )


def calibration_error(posterior: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3) of posteriors [N, C], with equal bins."""
    confidence, predicted = posterior.max(1)
    gap = (predicted == labels).float() - confidence
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return (torch.zeros(bins, device=gap.device).index_add(0, place, gap).abs().sum() / len(labels)).item()


def attack(
    classifier: BayesClassifier,
    data: Images,
    eps: float | Sequence[float] = EPS,
    *,
    by: Attack | str = "fgsm",
    attacker: Mapping = MappingProxyType({}),
    images: int | None = None,
    batch_size: int = 100,
    examples: int | None = 8,
    checked: int = CHECKED,
    progress: Progress = silent,
) -> AttackResult:
    """Attack a classifier on every image of a data set.

    Args:
        classifier: such as :func:`pyrobayes.load` gives; it defends itself with its own particles, noise and seed.
        data: labelled images.
        eps: bounds of the perturbation in the attack's norm.
        by: the attack, or its name.
        attacker: options that the classifier has otherwise for the attacker than for the defender, such as particles.
        images: take only the first so many images.
        batch_size: images at a time; changes memory and speed, not results.
        examples: how many adversarial images to keep; all where None.
        checked: how many clean images to look at for what noise and approximations change; none where 0.
        progress: called after every batch.
    """
    perturb = attacks.get(by) if isinstance(by, str) else by
    eps, seen = checked_eps(eps, perturb.norm), classifier.replaced(**attacker) if attacker else classifier
    # What is nearest has to be found before it is known how far it is; no image of [0, 1] is further than the last.
    bounds = (*eps, math.sqrt(data.pixels[0].numel())) if perturb.least_distance else eps
    everything = data
    data = prepared(classifier, data, images, batch_size)
    if isinstance(perturb.target, int):
        whole("target", perturb.target, least=0, most=len(data.classes) - 1)
    keep = len(data) if examples is None else min(examples, len(data))
    batches = []
    for indices, x, y in distributed.share(data.batches(min(batch_size, max(1, seen.images_at_once // perturb.eot)))):
        towards = of_other_classes(everything, indices, perturb.seed).to(x.device) if perturb.matching else None
        problem = Problem(perturb, seen.for_images(indices, ATTACKER), x, y, indices, towards)
        adversarial = perturb.solve(problem, bounds)
        defender = classifier.for_images(indices, DEFENDER)
        with torch.no_grad():
            clean = defender(x)
            # At eps 0 the image is the clean one, and so is its noise.
            attacked = torch.stack([defender(image) if e else clean for e, image in zip(bounds, adversarial)])
        last = attacked[-1].argmax(1)
        astray = last == perturb.target if isinstance(perturb.target, int) else last != y
        found = {
            "clean": clean,
            "attacked": attacked[: len(eps)].transpose(0, 1),
            "unmoved": problem.blind & (y != perturb.target) & perturb.follows_gradient,
            "distances": lengths(adversarial[-1] - x)[:, 0, 0, 0].where(astray, math.inf),
            "examples": adversarial[: len(eps), : max(0, keep - int(indices[0]))].transpose(0, 1),
        }
        batches.append({name: value.cpu() for name, value in found.items()})
        progress.images(classifier.factorization.name, int(indices[-1]) + 1, len(data))
    batches = distributed.gather(batches)
    found = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    return AttackResult.of(
        model=classifier.factorization.name,
        generative=classifier.factorization.generative,
        attack=perturb.name,
        options=perturb.described() | ({"attacker": dict(attacker)} if attacker else {}),
        data=data.name,
        eps=eps,
        labels=data.labels.tolist(),
        unmoved=Rate.of(found["unmoved"]),
        distances=found["distances"].tolist() if perturb.least_distance else None,
        clean_log_joint=found["clean"],
        log_joint=found["attacked"].transpose(0, 1),
        examples=found["examples"].transpose(0, 1),
        **looked_at(classifier, seen, data.head(min(checked, len(data))), batch_size) if checked else {},
    )


def caveats(results: Sequence, name: Callable[[str], str] = str.upper) -> list[str]:
    """Sentences on what the noise and approximations change of results of any kind, each said once; `name` writes a model's."""
    said = []
    for result in results:
        if (noise := getattr(result, "changed", None)) and not isinstance(result, Evaluation):  # which shows it
            said.append(
                f"{name(result.model)}: another draw of the noise changes {noise.sentence()} of the predictions on "
                f"{noise.total:,} clean images."
            )
        if result.approximation:
            said.append(
                f"{name(result.model)}: lower precision or pruning changes {result.approximation.sentence()} of "
                f"{result.approximation.total:,} predictions on clean images, with the same noise."
            )
        if signs := getattr(result, "gradient_signs", None):
            said.append(
                f"{name(result.model)}: approximations change the sign of the gradient at {100 * signs.share:.2g}% of the "
                "pixels of clean images, with the same noise."
            )
    return list(dict.fromkeys(said))


def of_other_classes(data: Images, indices: Tensor, seed: int) -> Tensor:
    """One image of another class for each of those at `indices`, [B, channels, height, width], drawn from (seed, index)."""
    labels = data.labels.cpu()
    by_class, place = labels.sort(stable=True)
    label = labels[indices.cpu()]
    first, last = (torch.searchsorted(by_class, label, right=right) for right in (False, True))
    others = len(labels) - (last - first)
    if not others.all():
        raise InputError(f"{data.name} has images of one class only: a matching loss needs those of another")
    uniform = uniforms(splitmix(splitmix(seed, REFERENCES), indices.cpu()), torch.tensor(0))
    drawn = (uniform * others).long().clamp(max=others - 1)
    return data.batch(place[drawn + (drawn >= first) * (last - first)].to(data.labels.device))[0]


def looked_at(
    classifier: BayesClassifier, seen: BayesClassifier, data: Images, batch_size: int
) -> dict[str, Rate | None]:
    """What noise and approximations change of clean images, for a defender and what its attacker sees."""
    return {
        "changed": Rate.of(changed(classifier, data, batch_size)) if classifier.random else None,
        "approximation": approximation(classifier, data, batch_size),
        "gradient_signs": gradient_signs(seen, data, batch_size),
    }


def changed(
    classifier: BayesClassifier, data: Images, batch_size: int = 100, name: str = "", progress: Progress = silent
) -> Tensor:
    """Which of the predicted classes another draw of the noise changes, [N]; the arguments are those of :func:`evaluate`."""
    data = prepared(classifier, data, None, batch_size)

    def differs(indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
        first, second = (classifier.for_images(indices, draw)(x).argmax(1) for draw in (DEFENDER, SECOND))
        return first != second

    return over_images(differs, data, batch_size, name, progress)


def approximation(classifier: BayesClassifier, data: Images, batch_size: int = 100) -> Rate | None:
    """Share of the predicted classes that lower precision or pruning changes, with the same noise.

    None where the classifier's options ask for neither. The arguments are those of :func:`evaluate`.
    """
    if classifier.options.exact:
        return None
    data, exact = prepared(classifier, data, None, batch_size), classifier.exact()

    def differs(indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
        ours, theirs = (each.for_images(indices, DEFENDER)(x).argmax(1) for each in (classifier, exact))
        return ours != theirs

    return Rate.of(over_images(differs, data, batch_size))


def gradient_signs(classifier: BayesClassifier, data: Images, batch_size: int = 100) -> Rate | None:
    """Share of the pixels whose gradient of the cross-entropy has another sign than that without approximations.

    With the same noise. None where the classifier's options ask for no approximation. The arguments are those of
    :func:`evaluate`.
    """
    if classifier.options.exact and not classifier.options.negligible:
        return None
    data, exact = prepared(classifier, data, None, batch_size), classifier.exact()

    def differs(indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            inputs = x.clone().requires_grad_()
            losses = (log_odds_against(each.for_images(indices, ATTACKER)(inputs), y) for each in (classifier, exact))
            ours, theirs = (torch.autograd.grad(loss.sum(), inputs)[0].sign() for loss in losses)
        return ours != theirs

    return Rate.of(over_images(differs, data, min(batch_size, classifier.images_at_once)).flatten())


@torch.no_grad()
def over_images(
    measure: Callable[[Tensor, Tensor, Tensor], Tensor],
    data: Images,
    batch_size: int,
    name: str = "",
    progress: Progress = silent,
) -> Tensor:
    """What `measure(indices, x, y)` gives for every image, [N, ...], on the CPU; all processes share the work."""
    parts = []
    for indices, x, y in distributed.share(data.batches(batch_size)):
        parts.append(measure(indices, x, y).cpu())
        progress.images(name, int(indices[-1]) + 1, len(data))
    return torch.cat(distributed.gather(parts))


def prepared(classifier: BayesClassifier, data: Images, images: int | None, batch_size: int) -> Images:
    """The first images, on the classifier's device; refused where they or the batch size are none that it can take."""
    factorization = classifier.factorization
    whole("batch size", batch_size, least=1, most=LARGEST_BATCH)
    if factorization.image_shape != data.image_shape or factorization.num_classes != len(data.classes):
        raise InputError(
            f"{factorization.name} classifies images {list(factorization.image_shape)} into {factorization.num_classes} "
            f"classes, but {data.name} has {list(data.image_shape)} and {len(data.classes)}"
        )
    return data.head(images).to(next(factorization.parameters()).device)
