"""A verdict on robustness: a suite of attacks, the worst of them image by image, and a sheet of checks.

An image counts as broken at an eps if any attack of the suite has it misclassified. Further draws of the noise judge
again what the attacks found, and the checks (:mod:`pyrobayes.evaluation.robustness.checks`) say which numbers to doubt.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pyrobayes.codec import saved
from pyrobayes.data.images import Images
from pyrobayes.evaluation import diagnostics
from pyrobayes.evaluation.images import expect, validated_images
from pyrobayes.evaluation.ranges import check_bounds, check_classes, check_lengths, check_range, require
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.robustness import checks  # noqa: F401  (they register themselves)
from pyrobayes.evaluation.robustness.cache import ResultCache
from pyrobayes.evaluation.robustness.measurements import RobustnessRun
from pyrobayes.evaluation.robustness.sheet import ALL, CHECKS, FAIL, CheckResult
from pyrobayes.evaluation.robustness.suite import ITERATIVE
from pyrobayes.evaluation.summary import Summarized, at_each
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.options import RobustnessOptions
from pyrobayes.progress import Progress, shows_progress

WORST = "worst case"


@dataclass(frozen=True, repr=False)
class Verdict(Summarized):
    """A classifier's robustness: success rates of every attack and of the worst case, with the numbers in doubt.

    Attributes:
        model, generative, data, images: the classifier, the data set, and how many of its images were attacked.
        eps: [E] the bounds, L-infinity.
        clean_accuracy: share of the clean images classified correctly.
        success: [E] share of all images that end up misclassified, by attack.
        worst: [E] share of all images that any of the attacks has misclassified.
        share_of_draws: [E] mean over all images of the share of further, fresh draws under which an image's worst
            adversarial image is misclassified. Other draws choose the worst, so that no luck is counted. None for a
            classifier that draws nothing.
        broken_in_most: [E] share of all images that stay misclassified in most of those draws; None likewise.
        options: the attacks' options, by name.
        kinds: the attacks' kinds, SINGLE_STEP, ITERATIVE or GRADIENT_FREE, by name.
        checks: the sheet.
        approximation, gradient_signs: as in :class:`pyrobayes.evaluation.AttackResult`.
        broken: [E] the places in the data set of the images that end up misclassified, by attack.
        resampled: [E][N] the share of the further draws for each image; None as above.
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
    checks: list[CheckResult]
    approximation: Rate | None = None
    gradient_signs: Rate | None = None
    broken: dict[str, list[list[int]]] = dataclasses.field(default_factory=dict)
    resampled: list[list[float]] | None = dataclasses.field(default=None, metadata=saved("redrawn"))
    DERIVED = {"doubts": lambda self: {row: self.doubts(row) for row in self.rows}}

    def __post_init__(self):
        check_bounds(self.eps)
        check_lengths(len(self.eps), self, "worst", "share_of_draws", "broken_in_most", "resampled")
        check_lengths(len(self.success), self, "kinds", "options")
        require(
            self.success.keys() == self.kinds.keys() == self.options.keys(), "attacks must have a kind and options each"
        )
        require(set(self.kinds.values()) <= set(ALL), f"kinds of attacks must be among {', '.join(ALL)}")
        everything = [[self.clean_accuracy], *self.success.values(), self.worst, self.broken_in_most or []]
        wrong = [rate for rates in everything for rate in rates if rate.total != self.images]
        require(not wrong, f"rates must be of {self.images} images, got {wrong}")
        for name, rates in self.success.items():
            require(len(rates) == len(self.eps), f"{name} must have {len(self.eps)} rates, got {len(rates)}")
            least = all(rate.count <= worst.count for rate, worst in zip(rates, self.worst))
            require(least, f"{name} has broken more images than the worst case")
        require(self.broken.keys() <= self.success.keys(), "broken has other attacks than success")
        for name, places in self.broken.items():
            counts = [len(each) for each in places]
            require(
                counts == [rate.count for rate in self.success[name]], f"{name} has other broken images than success"
            )
            check_classes(f"broken by {name}", [place for each in places for place in each], self.images)
        check_range("share_of_draws", self.share_of_draws or [])
        for shares in self.resampled or []:
            require(len(shares) == self.images, f"resampled must be of {self.images} images")
            check_range("resampled", shares)

    def _summary(self) -> tuple[str, list[list[str]]]:
        rows = [[name, *map(Rate.percent, rates), _listed(self.doubts(name))] for name, rates in self.rows.items()]
        title = f"{self.model} on {self.images:,} images of {self.data}, {len(self.failed)} of {len(self.checks)} checks failed"
        return title, [["misclassified (%)", *at_each(self.eps), "doubted by checks"], *rows]

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
    def clean_doubts(self) -> list[int]:
        """The numbers of the failed checks that put the clean accuracy in doubt."""
        return [number for number in self.failed if number in CHECKS and CHECKS[number].doubts_clean]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


@shows_progress
def assess(
    classifier: BayesClassifier,
    data: Images,
    training: Images,
    options: RobustnessOptions = RobustnessOptions(),
    *,
    sources: Sequence[BayesClassifier] = (),
    cache: ResultCache | None = None,
    progress: Progress | bool | None = True,
) -> Verdict:
    """Run the suite on a classifier, and the checks on the suite.

    Args:
        classifier: such as :func:`pyrobayes.load` gives; it defends itself with its own particles, noise and seed.
        data: labelled test images.
        training: training images, for the classifiers known to be broken.
        options: see :class:`pyrobayes.options.RobustnessOptions`.
        sources: other classifiers, for attacks by transfer.
        cache: keeps what was computed.
        progress: as in :func:`pyrobayes.attack`; it is also told when another part of the verdict begins.
    """
    expect("training images", training, Images)
    expect("options", options, RobustnessOptions)
    expect("sources", sources, Sequence)
    for source in sources:
        expect("source", source, BayesClassifier)
    validated_images(classifier, data, options.images, options.batch_size)
    few, cache = data.head(options.images), cache or ResultCache()
    return verdict_of(RobustnessRun(classifier, few, options, sources, cache, progress, training=training, test=data))


def verdict_of(run: RobustnessRun) -> Verdict:
    """The verdict: every attack of the suite, then the further draws, then every check."""
    schedule = Schedule(run)
    for name in run.suite:
        with schedule.part(name):
            run.result(name)
    if run.latent:
        with schedule.part(RESAMPLING):
            resampled = run.resampled
    sheet = []
    for number, check in CHECKS.items():
        with schedule.part(f"check {number}"):
            sheet.append(check.judge(*check.measure(run)))
    most = resampled > 0.5 if run.latent else None
    diagnosed = (run.classifier, run.few, run.options.batch_size)
    return Verdict(
        model=run.name,
        generative=run.classifier.factorization.structure.generative,
        data=run.data.name,
        images=len(run.data),
        eps=run.eps,
        clean_accuracy=Rate.of(run.result("pgd")["clean"] == run.labels),
        success={name: [Rate.of(each) for each in rows] for name, rows in run.broken.items()},
        worst=[Rate.of(each) for each in torch.stack(list(run.broken.values())).any(0)],
        share_of_draws=resampled.double().mean(1).tolist() if run.latent else None,
        broken_in_most=[Rate.of(each) for each in most] if run.latent else None,
        options={
            name: entry.attack.described() | {"name": entry.attack.name, "attacker": dict(entry.attacker)}
            for name, entry in run.suite.items()
        },
        kinds={name: entry.kind for name, entry in run.suite.items()},
        checks=sheet,
        approximation=diagnostics.approximation(*diagnosed),
        gradient_signs=diagnostics.gradient_signs(*diagnosed),
        broken={name: [each.nonzero()[:, 0].tolist() for each in rows] for name, rows in run.broken.items()},
        resampled=resampled.tolist() if run.latent else None,
    )


RESAMPLING = "further draws"


class Schedule:
    """Tells the caller how much of a verdict is done, in passes of one image through the classifier.

    A part that was found in the cache is taken off the whole: it took no time, and tells nothing about the rest.
    """

    def __init__(self, run: RobustnessRun):
        self.run, self.done = run, 0.0
        images, few = len(run.data) * len(run.eps), len(run.few)
        self.work = {name: images * (entry.passes + 1) for name, entry in run.suite.items()}
        if run.latent:
            self.work[RESAMPLING] = images * run.options.redraws * (1 + len(run.suite) / 2)
        unit = few * run.suite["pgd"].passes
        self.work |= {f"check {number}": check.work * unit for number, check in CHECKS.items()}
        self.whole = sum(self.work.values())

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Everything within is the part of this name."""
        number = list(self.work).index(name) + 1
        self.run.progress.part(f"{name}, {number} of {len(self.work)}", self.done, self.whole)
        made = self.run.cache.made
        yield
        if self.run.cache.made > made:
            self.done += self.work[name]
        else:
            self.whole -= self.work[name]
