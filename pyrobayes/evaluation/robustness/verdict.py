"""A verdict on robustness: a suite of attacks, the worst of them image by image, and a sheet of checks.

An image counts as broken at an eps if any attack of the suite has it misclassified. What was found is judged again under
further draws of the noise, and twelve checks (:mod:`pyrobayes.evaluation.robustness.checks`) say which numbers to doubt.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrobayes import attacks, distributed, evaluation
from pyrobayes.attacks import Attack, Problem
from pyrobayes.attacks.base import worst
from pyrobayes.attacks.losses import margin
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError
from pyrobayes.evaluation import diagnostics
from pyrobayes.evaluation.images import map_images
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.robustness import checks
from pyrobayes.evaluation.robustness.checks import FAIL, GRADIENT_FREE, ITERATIVE, SINGLE_STEP, Broken, Check
from pyrobayes.factorizations import build, parse_formula
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.options import Networks, RobustnessOptions, TrainingOptions
from pyrobayes.progress import Progress, shows_progress
from pyrobayes.tensor_files import Unreadable, digest, read_tensors, save_tensors
from pyrobayes.training.fit import fit
from pyrobayes.version import __version__

REDRAWS = NoiseStream.REDRAWS
GREY = 0.5  # eps where every image can be made the same
BROKEN_EPS = 0.3  # of the single-step training of a model known to be broken
BROKEN_NETWORKS = Networks(channels=16, hidden=100)
BROKEN_TRAINING = TrainingOptions(epochs=10, adversarial_eps=BROKEN_EPS, adversarial_steps=1, adversarial_warmup=0.0)
BROKEN_IMAGES = 6000
WORST = "worst case"
MIXTURE = {"estimator": "mixture", "prune": None}
EOT = 2, 4, 8  # estimates whose mean a check has PGD's gradient be of
MORE = 2, 4  # times as many particles as the defender's that it has gradients be of
SNAPSHOT = "apgd, snapshot"
CLIMBING = (SNAPSHOT, "pgd", "apgd, margin")  # the iterative attacks, of which the checks are about the strongest
SQUARE_EOT = 4  # draws by which it judges an image that it tries, of a random classifier
TERM_PARTICLES = 100  # of an attack on p(y|...) alone, as Tramer et al. (2020) had them


@dataclass(frozen=True)
class Step:
    """One attack of a suite.

    Attributes:
        attack: the attack.
        attacker: options that the classifier has otherwise for the attacker than for the defender.
        kind: SINGLE_STEP, ITERATIVE, or GRADIENT_FREE for one that follows no gradient of the classifier attacked.
    """

    attack: Attack
    attacker: Mapping = dataclasses.field(default_factory=dict)
    kind: str = ITERATIVE

    def changed(self, **options) -> "Step":
        """The same with other options of the attack."""
        return dataclasses.replace(self, attack=dataclasses.replace(self.attack, **options))


@dataclass(frozen=True)
class Verdict:
    """What is known of a classifier's robustness, and what is doubtful about it.

    Attributes:
        model, generative, data, images: what was attacked, on how many images of what.
        eps: [E] the bounds, L-infinity.
        clean_accuracy: share of the clean images classified correctly.
        success: [E] share of all images that end up misclassified, by attack.
        worst: [E] the same of the worst attack of each image.
        share_of_draws: [E] mean over all images of the share of further, fresh draws under which the worst adversarial
            image of each is misclassified; None for a classifier that draws nothing. Which is the worst is told by
            draws of its own, so that no luck is counted.
        broken_in_most: [E] share of all images that stay so in most of those draws; None likewise.
        options: of the attacks, by name.
        kinds: of the attacks, SINGLE_STEP, ITERATIVE or GRADIENT_FREE.
        checks: the sheet.
        approximation, gradient_signs: as in :class:`pyrobayes.evaluation.AttackResult`.
        broken: [E] the places in the data set of the images that end up misclassified, by attack.
        redrawn: [E][N] the share of the further draws for each image; None as above.
    """

    model: str
    generative: bool
    data: str
    images: int
    eps: tuple[float, ...]
    clean_accuracy: Rate
    success: dict[str, list[Rate]]
    worst: list[Rate]
    share_of_draws: list[float] | None
    broken_in_most: list[Rate] | None
    options: dict[str, dict]
    kinds: dict[str, str]
    checks: list[Check]
    approximation: Rate | None = None
    gradient_signs: Rate | None = None
    broken: dict[str, list[list[int]]] = dataclasses.field(default_factory=dict)
    redrawn: list[list[float]] | None = None
    DERIVED = {"doubts": lambda self: {row: self.doubts(row) for row in self.rows}}

    @property
    def rows(self) -> dict[str, list[Rate]]:
        """[E] success rates of every attack, and of the worst case."""
        return self.success | {WORST: self.worst}

    def doubts(self, row: str) -> list[int]:
        """The numbers of the failed checks that put a row of success rates in doubt."""
        kind = self.kinds.get(row, ITERATIVE)
        return [check.number for check in self.checks if check.status == FAIL and kind in check.concerns]

    @property
    def failed(self) -> list[int]:
        """The numbers of the checks that failed."""
        return [check.number for check in self.checks if check.status == FAIL]

    @property
    def clean_doubted(self) -> bool:
        """Whether another draw changes too many predictions on clean images: check 10."""
        return 10 in self.failed


class ResultCache:
    """What has been computed, each part in a file of its own, so that an interrupted run goes on where it stopped."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self._asked_for: set[str] = set()
        self._kept: dict[str, dict[str, Tensor]] = {}

    def get(self, key: Mapping, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of a part: from its file or from memory, or made now and saved."""
        name = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:20]
        self._asked_for.add(name)
        part = self._kept.get(name) or self._read(name)
        if part is None:
            part = make()
            if self.folder and distributed.rank() == 0:
                save_tensors(self._path(name), part, {})
        if self.folder is None or distributed.processes() > 1:  # others may not see yet what the first has written
            self._kept[name] = part
        return part

    def remove(self) -> None:
        """Delete the files of the parts that were asked for, and the folder if nothing else is in it."""
        for name in self._asked_for:
            self._path(name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _read(self, name: str) -> dict[str, Tensor] | None:
        if self.folder is None or not self._path(name).is_file():
            return None
        try:
            return read_tensors(self._path(name))[0]
        except Unreadable:
            raise
        except InputError:  # damaged: it is made anew
            self._path(name).unlink(missing_ok=True)
            return None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


@shows_progress
def assess(
    classifier: BayesClassifier,
    data: Images,
    training: Images,
    options: RobustnessOptions = RobustnessOptions(),
    *,
    sources: Sequence[BayesClassifier] = (),
    parts: ResultCache | None = None,
    progress: Progress | bool | None = True,
) -> Verdict:
    """Run the suite on a classifier, and the checks on the suite.

    Args:
        classifier: such as :func:`pyrobayes.load` gives; it defends itself with its own particles, noise and seed.
        data: labelled test images.
        training: training images, of which the models known to be broken are made.
        options: see :class:`pyrobayes.options.RobustnessOptions`.
        sources: other classifiers, for attacks by transfer.
        parts: keeps what was computed.
        progress: True shows a bar on a terminal and in a notebook, False or None shows nothing; a
            :class:`pyrobayes.Progress` is called after every batch.
    """
    few = data.head(options.images)
    return RobustnessRun(classifier, few, options, sources, parts or ResultCache(), progress, test=data).verdict(
        training
    )


def suite(
    classifier: BayesClassifier, options: RobustnessOptions, sources: Sequence[BayesClassifier]
) -> dict[str, Step]:
    """The attacks of the suite, by the names of their rows."""
    steps, parents = {"steps": options.steps}, parse_formula(classifier.factorization.formula())
    pgd = attacks.get("pgd", **steps)
    found = {"fgsm": Step(attacks.get("fgsm"), kind=SINGLE_STEP), "pgd": Step(pgd)}
    if classifier.random:
        # What else was tried finds less, or as much at twice the cost and more: see docs/robustness.md.
        found[SNAPSHOT] = Step(attacks.get("apgd", snapshot=True, **steps), {"prune": None})
    else:
        found["apgd, margin"] = Step(attacks.get("apgd", loss="margin", **steps))
    if not options.brief:
        if _mixes(classifier):
            found["pgd, mixture"] = Step(pgd, MIXTURE)
        found["pgd, logit matching"] = Step(attacks.get("pgd", loss="logit-matching", **steps))
        if "z" in (given := parents.get("y", ())):
            # Nothing is decoded for it, so that many particles cost little; but where it sees the image itself.
            particles = (
                classifier.options.particles if "x" in given else max(TERM_PARTICLES, classifier.options.particles)
            )
            found["pgd, p(y|...) alone"] = Step(dataclasses.replace(pgd, term="y"), {"particles": particles})
    found["uniform noise"] = Step(attacks.get("uniform", draws=options.steps), kind=GRADIENT_FREE)
    if not classifier.random:
        found["square"] = Step(square(options), kind=GRADIENT_FREE)
    if sources:
        found["transfer"] = Step(attacks.get("transfer", sources=tuple(sources), **steps), kind=GRADIENT_FREE)
    return found


def square(options: RobustnessOptions, eot: int = 1) -> Attack:
    """The attack without any gradient, of as many queries as ten times the steps of the others."""
    return attacks.get("square", steps=10 * options.steps, eot=eot)


def _mixes(classifier: BayesClassifier) -> bool:
    """Whether the mixture estimator is one more way to see the gradient."""
    if classifier.options.estimator == "mixture":
        return False
    try:
        classifier.replaced(**MIXTURE)
    except InputError:
        return False
    return True


class RobustnessRun:
    """One classifier under the suite: every measurement is a method, and a part of its own."""

    def __init__(self, classifier, data: Images, options, sources, parts: ResultCache, progress: Progress, test=None):
        self.classifier, self.data, self.options, self.parts = classifier, data, options, parts
        self.test = test or data  # of which the images are the first
        self.few = data.head(min(options.checked_images, len(data)))
        self.name, self.progress = classifier.factorization.name, progress
        self.labels = data.labels.cpu()
        self.latent = "z" in parse_formula(classifier.factorization.formula())
        self.random = classifier.random
        self.steps = suite(classifier, options, sources)
        self.eps = options.eps

    @cached_property
    def middle(self) -> float:
        """The eps that the checks are at: where PGD breaks nearest to half of the images, so that another may find more or less."""
        broken = self.attacked("pgd", self.steps["pgd"], self.data, self.eps)["predictions"] != self.labels
        distance = dict(zip(self.eps, (broken.double().mean(1) - 0.5).abs().tolist()))
        return min(filter(None, distance), key=distance.get)

    def verdict(self, training: Images) -> Verdict:
        found = {name: self.attacked(name, step, self.data, self.eps) for name, step in self.steps.items()}
        broken = {name: part["predictions"] != self.labels for name, part in found.items()}
        worst = torch.stack(list(broken.values())).any(0)
        redrawn = self.redrawn(found) if self.latent else None
        most = redrawn > 0.5 if redrawn is not None else None
        return Verdict(
            model=self.name,
            generative=self.classifier.factorization.generative,
            data=self.data.name,
            images=len(self.data),
            eps=self.eps,
            clean_accuracy=Rate.of(found["pgd"]["clean"] == self.labels),
            success={name: [Rate.of(each) for each in rows] for name, rows in broken.items()},
            worst=[Rate.of(each) for each in worst],
            share_of_draws=None if redrawn is None else redrawn.double().mean(1).tolist(),
            broken_in_most=None if most is None else [Rate.of(each) for each in most],
            options={
                name: step.attack.described() | {"name": step.attack.name, "attacker": dict(step.attacker)}
                for name, step in self.steps.items()
            },
            kinds={name: step.kind for name, step in self.steps.items()},
            checks=self.checks(found, broken, training),
            approximation=diagnostics.approximation(self.classifier, self.few, self.options.batch_size),
            gradient_signs=diagnostics.gradient_signs(self.classifier, self.few, self.options.batch_size),
            broken={name: [each.nonzero()[:, 0].tolist() for each in rows] for name, rows in broken.items()},
            redrawn=None if redrawn is None else redrawn.tolist(),
        )

    def checks(self, found: dict[str, dict[str, Tensor]], broken: dict[str, Tensor], training: Images) -> list[Check]:
        """The sheet, from what the suite found, and the images [E, N] that it broke."""
        few, middle = len(self.few), self.middle
        at_middle = {name: rows[self.eps.index(middle)][:few] for name, rows in broken.items()}
        blind = {name: each for name, each in at_middle.items() if self.steps[name].kind == GRADIENT_FREE}
        if self.random:
            # Random search against one draw of the noise would find what that draw falls for, and no other.
            blind["square"] = self.broken(
                "square", Step(square(self.options, eot=SQUARE_EOT), kind=GRADIENT_FREE), middle
            )
        seeing = {name: at_middle[name] for name, step in self.steps.items() if step.kind != GRADIENT_FREE}
        pgd, at = self.steps["pgd"].attack, self.eps.index(middle)
        clean = found["pgd"]["clean"] != self.labels

        def with_clean(rows: Tensor) -> Tensor:
            return torch.cat([clean[None], rows])

        strength = {name: self.strength(name, found[name], at) for name in CLIMBING if name in found}
        strongest = max(strength, key=lambda name: strength[name].double().mean())
        doubled = {name: self.strength(name, self.on_few(name, step)) for name, step in self.doubled(strongest).items()}
        fixed, fresh = self.fixed_noise() if self.latent else (None, None)
        zero, undefined, saturated = self.gradients()
        return [
            checks.iterative_at_least_as_strong(self.eps, broken["fgsm"], broken["pgd"]),
            checks.never_falls((0.0, *self.eps), {name: with_clean(rows) for name, rows in broken.items()}),
            checks.reaches_chance(self.broken("pgd at 0.5", Step(pgd), GREY), len(self.data.classes), GREY),
            checks.converged(strength[strongest], doubled, middle, of=strongest),
            checks.white_box_strongest(seeing, blind, middle),
            checks.plateaus(self.more_estimates(strength) if self.random else {}, strength[strongest], middle),
            checks.holds_when_fresh(fixed, fresh, middle, concerned=not self.random),
            checks.gradients_exist(zero, undefined, saturated),
            checks.loss_settled(self.losses(strongest), middle),
            checks.stable_when_clean(self.changed() if self.latent else None),
            checks.breaks_what_is_broken(self.known_broken(training), BROKEN_EPS),
            checks.same_in_other_batches(
                *(self.other_batches(name, found[name]["predictions"]) for name in ("fgsm", "pgd")),
                self.few.labels.cpu(),
            ),
        ]

    # Measurements.

    def doubled(self, name: str) -> dict[str, Step]:
        """An iterative attack with twice the steps, and with two starts."""
        step = self.steps[name]
        return {
            "twice the steps": step.changed(steps=2 * step.attack.steps),
            "twice the restarts": step.changed(restarts=2),
        }

    @cached_property
    def weights(self) -> str:
        return digest(self.classifier.factorization.state_dict(), {})

    def key(self, what: str, **more) -> dict:
        """Names a part by everything that it depends on."""
        classifier = self.classifier
        return {
            "what": what,
            "weights": self.weights,
            "classifier": dataclasses.asdict(classifier.options),
            "version": __version__,
            "data": [self.data.name, self.data.split, self.data.sha256],
        } | more

    def attacked(self, name: str, step: Step, data: Images, eps: Sequence[float], classifier=None, batch_size=None):
        """Clean predictions [N], and predictions [E, N] and adversarial images [E, N, ...] of an attack."""
        classifier, batch_size = classifier or self.classifier, batch_size or self.options.batch_size
        sources = getattr(step.attack, "sources", ())
        key = self.key(
            "attack",
            attack=step.attack.name,
            options=step.attack.described(),
            sources=[(digest(s.factorization.state_dict(), {}), dataclasses.asdict(s.options)) for s in sources],
            attacker=dict(step.attacker),
            eps=list(eps),
            images=len(data),
            noise=classifier.options.noise,
            batch_size=batch_size,
            **({"references": len(self.test)} if step.attack.matching else {}),
        )

        def make() -> dict[str, Tensor]:
            result = evaluation.attack(
                classifier,
                self.test,
                eps,
                by=self.made_against(step.attack, data, eps) if step.attack.name == "transfer" else step.attack,
                attacker=step.attacker,
                images=len(data),
                batch_size=batch_size,
                examples=None,
                checked=0,
                progress=_Labelled(self.progress, name),
            )
            return {
                "clean": result.clean_log_joint.argmax(1),
                "predictions": result.log_joint.argmax(2),
                "adversarial": result.examples,
            }

        return self.parts.get(key, make)

    def made_against(self, transfer: Attack, data: Images, eps: Sequence[float]) -> Attack:
        """The same attack with the images that PGD makes for the verdicts on its sources, instead of making them again."""
        others = [RobustnessRun(each, data, self.options, (), self.parts, self.progress) for each in transfer.sources]
        made = [other.attacked("pgd", other.steps["pgd"], data, eps)["adversarial"] for other in others]
        return _Made(made=torch.stack(made))

    def on_few(self, name: str, step: Step) -> dict[str, Tensor]:
        """The same of the few images that checks look at, at one eps."""
        return self.attacked(name, step, self.few, (self.middle,))

    def broken(self, name: str, step: Step, eps: float) -> Tensor:
        """Which of the few images that checks look at an attack breaks, [N]."""
        return self.attacked(name, step, self.few, (eps,))["predictions"][0] != self.few.labels.cpu()

    def strength(self, name: str, found: dict[str, Tensor], at: int = 0) -> Tensor:
        """How an attack did on each of the few images at one of its eps, [N]: the share of further draws, which one draw's
        luck has no part in; or, of a classifier that isn't random, whether it broke it."""
        if self.random:
            return self.share_of_draws(f"{name} redrawn", found["adversarial"][at][: len(self.few)], self.few)
        return found["predictions"][at][: len(self.few)] != self.few.labels.cpu()

    def redrawn(self, found: dict[str, dict[str, Tensor]]) -> Tensor:
        """The share of further draws under which the worst adversarial image of each is misclassified, [E, N].

        Which is the worst is told by the share of other draws, half as many, and of equal ones by their mean margin.
        """
        first = REDRAWS + self.options.redraws
        telling = range(first, first + math.ceil(self.options.redraws / 2))
        each, shares = torch.arange(len(self.data)), []
        for i, eps in enumerate(self.eps):
            made = torch.stack([part["adversarial"][i] for part in found.values()])  # [A, N, channels, height, width]
            margins = torch.stack(
                [
                    self.over_draws(f"{name} redrawn at {eps:g}", "margins", margin, images, self.data, telling)
                    for name, images in zip(found, made)
                ]
            ).nan_to_num(nan=-math.inf)  # [A, draws, N]
            told = (margins > 0).double().mean(1)
            most = told == told.amax(0)
            worst = made[margins.mean(1).where(most, -math.inf).argmax(0), each]
            shares.append(self.share_of_draws(f"worst redrawn at {eps:g}", worst, self.data))
        return torch.stack(shares)

    def share_of_draws(self, name: str, images: Tensor, data: Images) -> Tensor:
        """The share of further draws under which images [N, ...] are misclassified, [N]."""
        draws = range(REDRAWS, REDRAWS + self.options.redraws)
        return self.over_draws(name, "misclassified", misclassified, images, data, draws).double().mean(0)

    def over_draws(self, name: str, what: str, measure: Callable, images: Tensor, data: Images, draws: range) -> Tensor:
        """What `measure(log_joint, y)` gives for images [N, ...] under draws of the noise, [draws, N]."""
        checksum, fresh = hashlib.sha256(images.numpy().tobytes()).hexdigest(), self.classifier.replaced(noise="fresh")
        key = self.key(name, images=checksum, draws=[draws.start, draws.stop], measured=what)

        def measured(indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
            adversarial = images[indices].to(x.device)
            return torch.stack([measure(fresh.for_images(indices, draw)(adversarial), y) for draw in draws], dim=1)

        return self.parts.get(key, lambda: {what: self.map_images(name, data, measured)})[what].T

    def more_estimates(self, known: dict[str, Tensor]) -> dict[str, list[tuple[int, Tensor]]]:
        """How PGD does when its gradient is of more estimates, or of more particles, than one and the defender's.

        What it does with these is known, and what Auto-PGD on every particle's own joint does.
        """
        particles, plain = self.classifier.options.particles, self.steps["pgd"]

        def row(name: str, first: int, strength: Tensor, more: Mapping[int, Step]) -> list[tuple[int, Tensor]]:
            return [(first, strength)] + [
                (n, self.strength(f"{name} {n}", self.on_few(f"{name} {n}", step))) for n, step in more.items()
            ]

        return {
            "EOT": row("EOT", 1, known["pgd"], {n: plain.changed(eot=n) for n in EOT}),
            "particles": row(
                "particles",
                particles,
                known["pgd"],
                {k * particles: Step(plain.attack, {"particles": k * particles}) for k in MORE},
            ),
            "particles of the snapshot": row(
                "snapshot",
                particles,
                known[SNAPSHOT],
                {k * particles: self.steps[SNAPSHOT].changed(eot=k) for k in MORE},
            ),
        }

    def fixed_noise(self) -> tuple[Tensor, Tensor]:
        """What PGD breaks under fixed noise, and the share of fresh draws under which it stays broken, [N] each."""
        fixed = self.classifier.replaced(noise="fixed")
        found = self.attacked("pgd, fixed noise", self.steps["pgd"], self.few, (self.middle,), classifier=fixed)
        fresh = self.share_of_draws("fixed noise redrawn", found["adversarial"][0], self.few)
        return found["predictions"][0] != self.few.labels.cpu(), fresh

    def gradients(self) -> tuple[Rate, Rate, Rate]:
        """How many gradients are zero, or not finite, and are zero of the plain cross-entropy."""

        def looked_at(indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
            pinned = self.classifier.for_images(indices, NoiseStream.ATTACKER)
            _, gradient = Problem(self.steps["fgsm"].attack, pinned, x, y, indices).raw_gradient(x)
            zero, undefined = checks.zero_or_undefined(gradient)
            return torch.stack([zero, undefined, checks.zero_or_undefined(plain_gradient(pinned, x, y))[0]], dim=1)

        key = self.key("gradients", images=len(self.few))
        found = self.parts.get(key, lambda: {"found": self.map_images("gradients", self.few, looked_at)})["found"]
        return tuple(Rate.of(each) for each in found.T)

    def losses(self, name: str) -> Tensor:
        """The loss at every step of an iterative attack, [steps, N]."""
        pgd, seen = self.steps[name].attack, self.classifier.replaced(**self.steps[name].attacker)

        def followed(indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
            problem = _Followed(pgd, seen, x, y, indices)
            pgd.perturb(problem, self.middle)
            return torch.stack(problem.losses, dim=1)

        key = self.key("losses", options=pgd.described(), eps=self.middle, images=len(self.few))
        return self.parts.get(key, lambda: {"losses": self.map_images("losses", self.few, followed)})["losses"].T

    def changed(self) -> Rate:
        """How many predictions on clean images change with another draw, be it that a fixed one is drawn anew."""
        fresh, label = self.classifier.replaced(noise="fresh"), _Labelled(self.progress, "clean")

        def make() -> dict[str, Tensor]:
            return {"changed": diagnostics.changed(fresh, self.data, self.options.batch_size, self.name, label)}

        return Rate.of(self.parts.get(self.key("changed", images=len(self.data)), make)["changed"])

    def other_batches(self, name: str, predictions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Classes [N] predicted after an attack, as in the suite (predictions [E, N]), and in batches of another size.

        None where there is no other.
        """
        possible = min(len(self.few), self.options.batch_size, self.classifier.images_at_once)
        if possible == 1:
            return None
        size = min(7, possible - 1)
        label = f"{name} in batches of {size}"
        other = self.attacked(label, self.steps[name], self.few, (self.middle,), batch_size=size)
        return predictions[self.eps.index(self.middle)][: len(self.few)], other["predictions"][0]

    def known_broken(self, training: Images) -> dict[str, Broken]:
        """The success of the suite's PGD and Auto-PGD on a CNN trained in a single step, and on one with
        saturated logits; the least of them.

        The one is masked where FGSM leaves most images, the other where the plain cross-entropy has no gradient for most.
        """
        chosen = [self.steps[name].attack for name in CLIMBING if name in self.steps]
        models = {}
        for name in ("single-step-trained CNN", "CNN with saturated logits"):
            key = {
                "what": name,
                "version": __version__,
                "networks": dataclasses.asdict(BROKEN_NETWORKS),
                "training": dataclasses.asdict(BROKEN_TRAINING) | {"images": BROKEN_IMAGES},
                "images": [training.sha256, self.data.sha256, len(self.few)],
                "attacks": [by.described() for by in chosen],
            }

            def make(name=name) -> dict[str, Tensor]:
                cnn = known_broken_model(training, saturated="saturated" in name, device=self.device)
                victim = BayesClassifier(cnn, 1)

                def broken(by: Attack) -> Tensor:
                    label = _Labelled(self.progress, "known")
                    result = evaluation.attack(victim, self.few, BROKEN_EPS, by=by, examples=0, progress=label)
                    return result.log_joint.argmax(2)[0] != self.few.labels.cpu()

                def blind(indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
                    return checks.zero_or_undefined(plain_gradient(victim, x, y))[0]

                return {
                    "broken": min((broken(by) for by in chosen), key=torch.count_nonzero),
                    "single": broken(self.steps["fgsm"].attack),
                    "flat": self.map_images("known", self.few, blind),
                }

            part = {what: Rate.of(each) for what, each in self.parts.get(key, make).items()}
            if "saturated" in name:
                sign, masked = ("plain gradient zero", part["flat"]), part["flat"].share > 0.5
            else:
                sign, masked = ("FGSM", part["single"]), part["single"].share < 0.7
            models[name] = Broken(part["broken"], sign, masked)
        return models

    @property
    def device(self) -> torch.device:
        return next(self.classifier.factorization.parameters()).device

    def map_images(self, label: str, data: Images, measure: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """What `measure(indices, x, y)` gives for every image, [N, ...], on the CPU."""
        size = min(self.options.batch_size, self.classifier.images_at_once)
        progress = _Labelled(self.progress, label)
        return map_images(measure, data.to(self.device), size, self.name, progress)


def misclassified(log_joint: Tensor, y: Tensor) -> Tensor:
    """Whether another class than y [B] is predicted from log p(x, y) [B, C], as everywhere else."""
    return log_joint.argmax(1) != y


def plain_gradient(classifier: BayesClassifier, x: Tensor, y: Tensor) -> Tensor:
    """That of the cross-entropy as it is usually computed, which underflows where the classifier is sure."""
    inputs = x.clone().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(classifier(inputs), y, reduction="sum")
        return torch.autograd.grad(loss, inputs)[0]


def known_broken_model(training: Images, saturated: bool, device: torch.device | str = "cpu"):
    """A CNN whose robustness is none: trained in a single step, or with logits that leave no plain gradient.

    Single-step adversarial training learns to mask its gradient (catastrophic overfitting, Wong, Rice and Kolter 2020).
    """
    few = training.head(min(BROKEN_IMAGES, len(training)))
    cnn = build("cnn", BROKEN_NETWORKS, image_shape=few.image_shape, num_classes=len(few.classes)).to(device)
    plain = dataclasses.replace(BROKEN_TRAINING, adversarial_eps=0.0, adversarial_steps=None, adversarial_warmup=None)
    fit(cnn, few, plain if saturated else BROKEN_TRAINING, progress=False)
    cnn.eval().requires_grad_(False)
    if saturated:
        last = cnn.p_y.network.layers[-1]
        last.weight.mul_(1000), last.bias.mul_(1000)
    return cnn


@dataclass(frozen=True)
class _Made(Attack):
    """Of images made before, [S, E, N, channels, height, width] of a whole data set, each one's own with the highest loss."""

    made: Tensor = None
    follows_gradient: ClassVar[bool] = False

    def perturb_all(self, problem: Problem, eps: Sequence[float]) -> Tensor:
        given = self.made[:, :, problem.indices.cpu()].to(problem.x.device)
        return torch.stack([worst((images, problem.loss(images)) for images in each) for each in given.transpose(0, 1)])

    def described(self) -> dict:
        return super().described() | {"made": len(self.made)}


class _Followed(Problem):
    """A problem that keeps the losses [B] at which gradients were taken."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.losses: list[Tensor] = []

    def gradient(self, images: Tensor, draw: int = 0) -> tuple[Tensor, Tensor]:
        loss, gradient = super().gradient(images, draw)
        self.losses.append(loss)
        return loss, gradient


class _Labelled(Progress):
    """Says beside the model which part is under way."""

    def __init__(self, progress: Progress, label: str):
        self.progress, self.label = progress, label

    def images(self, model: str, done: int, images: int) -> None:
        self.progress.images(f"{model}, {self.label}", done, images)
