"""The measurements of a verdict: one classifier under the suite, and all that its checks look at."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyrobayes import attacks, evaluation
from pyrobayes.attacks import Attack, Problem
from pyrobayes.attacks.base import worst
from pyrobayes.attacks.losses import margin
from pyrobayes.attacks.problem import pruning
from pyrobayes.data.images import Images
from pyrobayes.evaluation.images import Measure, flipped_by_resampling, map_images
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.robustness.cache import ResultCache
from pyrobayes.evaluation.robustness.known_broken import plain_gradient, zero_or_undefined
from pyrobayes.evaluation.robustness.suite import CLIMBING, EOT_MIM, SuiteEntry, resized, suite
from pyrobayes.inference.interface import Classifier
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.options import RobustnessOptions
from pyrobayes.progress import Progress
from pyrobayes.version import __version__

EOT = 2, 4  # how many estimates a gradient is averaged over, beside one; and how many particles a step sees
BUDGETS = 0.25, 0.5, 1, 4  # times the suite's steps, for the curve of the strongest attack


class RobustnessRun:
    """One classifier under the suite. Every measurement is a method, and is kept in the cache.

    Attributes:
        data: the attacked images.
        few: the first of them, which the checks attack again.
        test: the whole data set, from which a matching loss draws its references.
        training: training images for the known-broken classifiers.
        suite: the attacks by name.
        latent: whether the classifier draws anything.
        random: whether its noise is fresh at every draw.
    """

    def __init__(
        self,
        classifier: Classifier,
        data: Images,
        options: RobustnessOptions,
        sources: Sequence[Classifier],
        cache: ResultCache,
        progress: Progress,
        *,
        training: Images | None = None,
        test: Images | None = None,
    ):
        self.classifier, self.data, self.options, self.cache = classifier, data, options, cache
        self.test, self.training = test or data, training
        self.few = data.head(min(options.checked_images, len(data)))
        self.name, self.progress = classifier.name, progress
        self.labels, self.few_labels = data.labels.cpu(), self.few.labels.cpu()
        self.fresh = classifier.replaced(noise="fresh")
        self.latent, self.random = self.fresh.random, classifier.random
        self.suite = suite(classifier, options, sources)
        self.eps = options.eps
        self._results: dict[str, dict[str, Tensor]] = {}

    # The suite.

    def result(self, name: str) -> dict[str, Tensor]:
        """Clean predictions [N], predictions [E, N] and adversarial images [E, N, ...] of an attack of the suite."""
        if name not in self._results:
            self._results[name] = self.attacked(name, self.suite[name], self.data, self.eps)
        return self._results[name]

    @cached_property
    def broken(self) -> dict[str, Tensor]:
        """The images [E, N] that each attack has misclassified."""
        return {name: self.result(name)["predictions"] != self.labels for name in self.suite}

    @property
    def iterative(self) -> str:
        """The name of the suite's first iterative attack: eot-mim, or PGD on a classifier that isn't random."""
        return next(name for name in CLIMBING if name in self.suite)

    @cached_property
    def misclassified_unchanged(self) -> Tensor:
        """True for the images that are misclassified as they are, [N]."""
        return self.result(self.iterative)["clean"] != self.labels

    @cached_property
    def middle(self) -> float:
        """The eps of the checks: nearest to half of the images are broken there, which leaves room for more and for less."""
        broken = self.broken[self.iterative].double().mean(1)
        distance = dict(zip(self.eps, (broken - 0.5).abs().tolist()))
        return min(filter(None, distance), key=distance.get)

    def few_of(self, name: str) -> dict[str, Tensor]:
        """An attack of the suite on the few images at the checks' eps, as :meth:`on_few` has it."""
        at, found = self.eps.index(self.middle), self.result(name)
        return self._few(*(found[part][at][: len(self.few)] for part in ("predictions", "adversarial")))

    # One attack.

    @cached_property
    def weights(self) -> str:
        """The checksum of the weights."""
        return self.classifier.identity

    def key(self, what: str, **more) -> dict:
        """The key of a measurement in the cache: everything that it depends on."""
        return {
            "what": what,
            "weights": self.weights,
            "classifier": self.classifier.options.decisive,
            "version": __version__,
            "data": [self.data.name, self.data.split, self.data.sha256],
        } | more

    def attacked(
        self, name: str, entry: SuiteEntry, data: Images, eps: Sequence[float], classifier=None, batch_size=None
    ) -> dict[str, Tensor]:
        """Clean predictions [N], predictions [E, N] and adversarial images [E, N, ...] of an attack.

        Every eps is kept by itself, but for attacks that share their work between several.
        """
        shares_work = type(entry.attack).perturb_all is not Attack.perturb_all
        parts = [
            self._attacked_at(name, entry, data, each, classifier, batch_size)
            for each in ([eps] if shares_work else [[value] for value in eps])
        ]
        made = {part: torch.cat([each[part] for each in parts]) for part in ("predictions", "adversarial")}
        return {"clean": parts[0]["clean"], **made}

    def _attacked_at(self, name, entry, data, eps: Sequence[float], classifier, batch_size) -> dict[str, Tensor]:
        """As :meth:`attacked` has it, made at once."""
        classifier, sources = classifier or self.classifier, getattr(entry.attack, "sources", ())
        key = self.key(
            "attack",
            attack=entry.attack.name,
            options=entry.attack.described(),
            sources=[(s.identity, s.options.decisive) for s in sources],
            attacker=dict(entry.attacker),
            eps=list(eps),
            images=len(data),
            noise=classifier.options.noise,
            **({"references": len(self.test)} if entry.attack.matching else {}),
            **({"batch_size": batch_size} if batch_size else {}),
        )

        def make() -> dict[str, Tensor]:
            by = entry.attack
            if sources:  # the verdicts on them have the same images, so none is made twice
                others = [RobustnessRun(each, data, self.options, (), self.cache, self.progress) for each in sources]
                made = [
                    other.attacked(other.iterative, other.suite[other.iterative], data, eps)["adversarial"]
                    for other in others
                ]
                by = _Made(made=torch.stack(made))
            result = evaluation.attack(
                classifier,
                self.test,
                eps,
                by=by,
                attacker=entry.attacker,
                images=len(data),
                batch_size=batch_size or self.options.batch_size,
                examples=None,
                checked=0,
                progress=self.labelled(name),
            )
            clean, predictions = result.clean_log_joint.argmax(1), result.log_joint.argmax(2)
            return {"clean": clean, "predictions": predictions, "adversarial": result.examples}

        return self.cache.get(key, make)

    def on_few(self, name: str, entry: SuiteEntry, eps: float | None = None, **how) -> dict[str, Tensor]:
        """An attack on the few images at one eps, by default the checks': predictions, adversarial, and broken, [N, ...]."""
        found = self.attacked(name, entry, self.few, (eps or self.middle,), **how)
        return self._few(found["predictions"][0], found["adversarial"][0])

    def _few(self, predictions: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
        return {"predictions": predictions, "adversarial": adversarial, "broken": predictions != self.few_labels}

    # Further draws of the noise.

    def strength(self, name: str, found: Mapping[str, Tensor]) -> Tensor:
        """How well an attack did on each of the few images, [N].

        For a random classifier this is the share of further draws under which the image is misclassified, so that the
        luck of one draw has no part in it. For others it is whether the attack broke the image.
        """
        if self.random:
            return self.share_of_draws(f"{name} redrawn", found["adversarial"], self.few)
        return found["broken"]

    def strengths_of(self, label: str, entries: Mapping) -> dict[Any, Tensor]:
        """How well attacks that aren't in the suite do on each of the few images, [N]."""
        names = {key: f"{label} {key}".strip() for key in entries}
        return {key: self.strength(names[key], self.on_few(names[key], entry)) for key, entry in entries.items()}

    @cached_property
    def strengths(self) -> dict[str, Tensor]:
        """How well each iterative attack of the suite does on each of the few images, [N]."""
        return {name: self.strength(name, self.few_of(name)) for name in CLIMBING if name in self.suite}

    @property
    def strongest(self) -> str:
        """The name of the strongest iterative attack."""
        return max(self.strengths, key=lambda name: self.strengths[name].double().mean())

    @cached_property
    def resampled(self) -> Tensor:
        """The share of further draws under which the worst adversarial image of each is misclassified, [E, N].

        Half as many other draws tell which image is the worst; between equal ones their mean margin decides.
        """
        first = NoiseStream.REDRAWS + self.options.redraws
        telling = range(first, first + math.ceil(self.options.redraws / 2))
        pruned = self.fresh.replaced(**pruning(self.fresh.options))
        each, shares = torch.arange(len(self.data)), []
        made_by = {name: self.result(name)["adversarial"] for name in self.suite}
        for i, eps in enumerate(self.eps):
            made = torch.stack([adversarial[i] for adversarial in made_by.values()])  # [A, N, channels, height, width]
            labels = [f"{name} redrawn at {eps:g}" for name in made_by]
            margins = [
                self.over_draws(label, margin, ours, self.data, telling, pruned) for label, ours in zip(labels, made)
            ]
            margins = torch.stack(margins).nan_to_num(nan=-math.inf)  # [A, draws, N]
            told = (margins > 0).double().mean(1)
            most = told == told.amax(0)
            chosen = made[margins.mean(1).where(most, -math.inf).argmax(0), each]
            shares.append(self.share_of_draws(f"worst redrawn at {eps:g}", chosen, self.data))
        return torch.stack(shares)

    def share_of_draws(self, name: str, adversarial: Tensor, data: Images) -> Tensor:
        """The share of further draws under which images [N, ...] are misclassified, [N]."""
        draws = range(NoiseStream.REDRAWS, NoiseStream.REDRAWS + self.options.redraws)
        return self.over_draws(name, misclassified, adversarial, data, draws).double().mean(0)

    def over_draws(
        self, name: str, judge: Callable, adversarial: Tensor, data: Images, draws: range, classifier=None
    ) -> Tensor:
        """The values of `judge(log_joint, y)` for images [N, ...] under draws of the noise, [draws, N]."""
        fresh = classifier or self.fresh

        def measure(indices: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            ours = adversarial[indices].to(x.device)
            judged = [judge(fresh.for_images(indices, draw)(ours), y) for draw in draws]
            return {"judged": torch.stack(judged, dim=1)}

        checksum = hashlib.sha256(adversarial.numpy().tobytes()).hexdigest()
        key = {
            "images": checksum,
            "draws": [draws.start, draws.stop],
            "judge": judge.__name__,
            "prune": fresh.options.prune,
        }
        return self.measured(name, data, measure, **key)["judged"].T

    def measured(self, name: str, data: Images, measure: Measure, **key) -> dict[str, Tensor]:
        """The values of `measure(indices, x, y)` for every image, each [N, ...], which are kept under the key."""
        return self.cache.get(self.key(name, **key), lambda: self.map_images(name, data, measure))

    # What the checks look at.

    @cached_property
    def budget(self) -> list[tuple[int, Tensor]]:
        """How well the strongest attack does as its budget grows, on each of the few images, [N].

        The budget is a number of steps. It is told in gradients of one particle of one class for one image. The
        last is four times that of the suite, which is the one before.
        """
        entry = self.suite[self.strongest]
        others = {n: resized(entry, n) for n in BUDGETS if n != 1}
        found = {1: self.strengths[self.strongest]} | self.strengths_of("budget", others)
        return [(resized(entry, n).gradients(*self.decoded), found[n]) for n in BUDGETS]

    @property
    def spent(self) -> int:
        """The budget of the suite: how many gradients of one particle of one class its strongest attack takes for one image."""
        return self.suite[self.strongest].gradients(*self.decoded)

    @property
    def decoded(self) -> tuple[int, int]:
        """The defender's particles, and its classes; one of both where it gives logits alone, all of them at once."""
        seen = self.classifier
        return (seen.options.particles, seen.num_classes) if seen.has_particles else (1, 1)

    def restarted(self) -> dict[str, Tensor]:
        """How well the strongest attack does with two random starts, where it has any, on each of the few images, [N]."""
        entry = self.suite[self.strongest]
        if not getattr(entry.attack, "random_start", False):
            return {}
        return self.strengths_of("", {"twice the restarts": entry.with_options(restarts=2)})

    def equal_cost(self) -> dict[str, Tensor]:
        """How well other attacks do with as many gradients as the strongest has, on each of the few images, [N].

        Against a random classifier these are steps of one particle each, and Auto-PGD on every particle's own loss;
        against another they are steps with momentum.
        """
        particles, classes = self.decoded
        steps = max(1, self.spent // (particles * classes))
        if self.random:
            single = attacks.get("eot-mim", steps=max(1, self.spent // classes), rivals=0)
            others = {"one particle a step": SuiteEntry(single, {"prune": None})}
            if not isinstance(self.suite[self.strongest].attack, attacks.APGD):
                snapshot = self.classifier.has_particles
                family = attacks.get("apgd", snapshot=snapshot, steps=steps)
                others["apgd, snapshot" if snapshot else "apgd"] = SuiteEntry(family, {"prune": None})
        else:
            others = {"mim": SuiteEntry(attacks.get("mim", steps=steps))}
        return self.strengths_of("equal cost", others)

    def more_estimates(self) -> dict[str, list[tuple[int, Tensor]]]:
        """How well the suite's attack does as its gradients average over more estimates, or over more particles."""
        entry, one = self.suite[EOT_MIM], (1, self.strengths[EOT_MIM])
        rows = {"EOT": {n: entry.with_options(eot=n) for n in EOT}}
        if self.classifier.has_particles:
            rows["particles a step"] = {n: entry.with_options(step_particles=n) for n in EOT}
        return {row: [one, *self.strengths_of(row, entries).items()] for row, entries in rows.items()}

    @property
    def few_steps(self) -> SuiteEntry:
        """PGD with few gradients, for checks that need no strong attack; on a random classifier with one particle a step."""
        return SuiteEntry(attacks.get("pgd", steps=self.options.steps), {"particles": 1} if self.random else {})

    def fixed_noise(self) -> tuple[Tensor, Tensor]:
        """The few images that PGD breaks under fixed noise, and their share of fresh draws that misclassify, [N] each."""
        fixed = self.classifier.replaced(noise="fixed")
        found = self.on_few("pgd, fixed noise", SuiteEntry(self.few_steps.attack), classifier=fixed)
        return found["broken"], self.share_of_draws("fixed noise redrawn", found["adversarial"], self.few)

    def gradients(self) -> tuple[Rate, ...]:
        """How many gradients are zero, how many aren't finite, and how many of the plain cross-entropy are zero."""

        def measure(indices: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            pinned = self.classifier.for_images(indices, NoiseStream.ATTACKER)
            _, gradient = Problem(self.suite["fgsm"].attack, pinned, x, y, indices).raw_gradient(x)
            zero, undefined = zero_or_undefined(gradient)
            return {"zero": zero, "undefined": undefined, "plain": zero_or_undefined(plain_gradient(pinned, x, y))[0]}

        found = self.measured("gradients", self.few, measure, images=len(self.few))
        return tuple(Rate.of(found[name]) for name in ("zero", "undefined", "plain"))

    def losses(self, name: str) -> Tensor:
        """The loss at every step of an iterative attack, [steps, N] nats; of a single climb where it has several."""
        attack, seen = self.suite[name].attack, self.classifier.replaced(**self.suite[name].attacker)
        attack = dataclasses.replace(attack, rivals=0) if hasattr(attack, "rivals") else attack

        def measure(indices: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            problem = _Followed(attack, seen, x, y, indices)
            attack.perturb(problem, self.middle)
            return {"losses": torch.stack(problem.losses, dim=1)}

        key = {"options": attack.described(), "eps": self.middle, "images": len(self.few)}
        return self.measured("losses", self.few, measure, **key)["losses"].T

    def flipped(self) -> Rate:
        """The share of predictions on clean images that another draw changes; fixed noise is drawn anew for it."""

        told = (self.fresh, self.data, self.options.batch_size, self.name, self.labelled("clean"))
        key = self.key("changed", images=len(self.data))
        return Rate.of(self.cache.get(key, lambda: {"changed": flipped_by_resampling(*told)})["changed"])

    def other_batches(self, name: str, entry: SuiteEntry) -> tuple[Tensor, Tensor] | None:
        """Classes [N] predicted after an attack, and after the same in batches of another size.

        None where no other size is possible.
        """
        possible = min(len(self.few), self.options.batch_size, self.classifier.images_at_once)
        if possible == 1:
            return None
        size = min(7, possible - 1)
        other = self.on_few(f"{name} in batches of {size}", entry, batch_size=size)
        ours = self.few_of(name) if name in self.suite else self.on_few(name, entry)
        return ours["predictions"], other["predictions"]

    # Helpers.

    @property
    def device(self) -> torch.device:
        """The classifier's device."""
        return self.classifier.device

    def labelled(self, label: str) -> Progress:
        """The caller's progress, which names the measurement beside the model."""
        return _Labelled(self.progress, label)

    def map_images(self, label: str, data: Images, measure: Measure) -> dict[str, Tensor]:
        """The values of `measure(indices, x, y)` for every image, each [N, ...] on the CPU."""
        size = min(self.options.batch_size, self.classifier.images_at_once)
        return map_images(measure, data.to(self.device), size, self.name, self.labelled(label))


def misclassified(log_joint: Tensor, y: Tensor) -> Tensor:
    """True where a class other than y [B] is predicted from log p(x, y) [B, C]."""
    return log_joint.argmax(1) != y


@dataclass(frozen=True)
class _Made(Attack):
    """Chooses among images made before, [S, E, N, channels, height, width] for a whole data set, the one with the highest loss."""

    made: Tensor = None
    follows_gradient: ClassVar[bool] = False

    def perturb_all(self, problem: Problem, eps: Sequence[float]) -> Tensor:
        given = self.made[:, :, problem.indices.cpu()].to(problem.x.device)
        return torch.stack([worst((ours, problem.loss(ours)) for ours in each) for each in given.transpose(0, 1)])

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

    def step(self, function: Callable, *given: Tensor | float) -> tuple[Tensor, ...]:
        return function(self, *given)  # not by a graph, whose losses are seen by nobody


class _Labelled(Progress):
    """Names the measurement beside the model."""

    def __init__(self, progress: Progress, label: str):
        self.progress, self.label = progress, label

    def images(self, model: str, done: int, images: int) -> None:
        self.progress.images(f"{model}, {self.label}", done, images)
