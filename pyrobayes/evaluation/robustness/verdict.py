"""A verdict on robustness: a suite of attacks, the worst of them image by image, and a sheet of checks.

An image counts as broken at an eps if any attack of the suite has it misclassified. Further draws of the noise judge
again what the attacks found, and the checks (:mod:`pyrobayes.evaluation.robustness.checks`) say which numbers to doubt.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pyrobayes.codec import saved
from pyrobayes.data.images import Images
from pyrobayes.devices import settled
from pyrobayes.evaluation.images import approximation, expect, gradient_signs, opened, validated_images
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.records import FINITE, Limits, Summarized, require, table
from pyrobayes.evaluation.robustness import checks
from pyrobayes.evaluation.robustness.cache import ResultCache
from pyrobayes.evaluation.robustness.checks import ALL, FAIL, CheckResult
from pyrobayes.evaluation.robustness.measurements import RobustnessRun
from pyrobayes.evaluation.robustness.suite import ITERATIVE
from pyrobayes.inference.interface import Classifier
from pyrobayes.options import RobustnessOptions
from pyrobayes.progress import Progress, shows_progress

WORST, RESAMPLING = "worst case", "further draws"
# Rows of the worst case against a random classifier, by how it is judged; the first is the headline.
IN_MOST, SHARE_OF_DRAWS = "worst case in most further draws", "share of further draws"
UPPER_BOUND = "upper bound: one draw is enough"


@dataclass(frozen=True)
class Budget:
    """How far the strongest iterative attack gets on the checked images as it may compute more gradients.

    Attributes:
        attack: its name.
        eps: where.
        images: how many were attacked.
        spent: the budget of the suite, one of `gradients`.
        gradients: [S] gradients of one particle of one class, for one image, in ascending order.
        shares: [S] the mean share of further draws under which an image is misclassified; without noise, the share of images.
    """

    attack: str
    eps: float
    images: int
    spent: int
    gradients: tuple[int, ...]
    shares: tuple[float, ...]

    def __post_init__(self):
        same = len(self.gradients) == len(self.shares) and self.spent in self.gradients
        require(same, "a budget must have a share for every number of gradients, and that of the suite among them")
        require(
            all(0 <= share <= 1 for share in self.shares), f"a budget's shares must be in [0, 1], got {self.shares}"
        )


@dataclass(frozen=True, repr=False)
class Verdict(Summarized):
    """A classifier's robustness: success rates of every attack and of the worst case, with the numbers in doubt.

    Other fields are told in :mod:`pyrobayes.evaluation.records`.

    Attributes:
        images: how many were attacked.
        clean_accuracy: share of the clean images classified correctly.
        success: [E] share of all images that end up misclassified, by attack.
        worst: [E] share of all images that any of the attacks has misclassified. Each attack is judged in one draw of a random
            classifier's noise, so that luck adds to it. Images that are broken in most further draws count too: it is an upper
            bound on what was found, see `headline`.
        share_of_draws: [E] mean over all images of the share of further, fresh draws under which an image's worst
            adversarial image is misclassified. Other draws choose the worst, so that no luck is counted. None for a
            classifier that draws nothing.
        broken_in_most: [E] share of all images that stay misclassified in most of those draws; None likewise.
        options, kinds: those of the attacks, by name; kinds are SINGLE_STEP, ITERATIVE and GRADIENT_FREE.
        checks: the sheet.
        broken: [E] the places in the data set of the images that end up misclassified, by attack.
        resampled: [E][N] the share of the further draws for each image; None as above.
        budget: what more gradients find; None in verdicts of earlier versions.
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
    budget: Budget | None = None
    caveats: tuple[str, ...] = dataclasses.field(default=(), metadata=saved(if_any=True))
    DERIVED = {"doubts": lambda self: {row: self.doubts(row) for row in (*self.success, WORST)}}

    LIMITS = {
        "eps": Limits("E", most=FINITE),
        "clean_accuracy": Limits(),
        "success": Limits("E"),
        "worst": Limits("E"),
        "share_of_draws": Limits("E"),
        "broken_in_most": Limits("E"),
        "broken": Limits("EB", below="images"),
        "resampled": Limits("EN"),
    }

    def __post_init__(self):
        super().__post_init__()
        for name in ("kinds", "options"):
            ours = getattr(self, name).keys()
            require(ours == self.success.keys(), f"{name} must have {len(self.success)} entries, those of success")
        require(set(self.kinds.values()) <= set(ALL), f"kinds of attacks must be among {', '.join(ALL)}")
        require(self.broken.keys() <= self.success.keys(), "broken has other attacks than success")
        for name, rates in self.success.items():
            least = all(rate.count <= worst.count for rate, worst in zip(rates, self.worst))
            require(least, f"{name} has broken more images than the worst case")
            places = self.broken.get(name, ())
            agree = all(len(each) == rate.count for each, rate in zip(places, rates))
            require(agree, f"{name} has other broken images than success")

    def _summary(self) -> tuple[str, list[list[str]]]:
        header, *rows = table("misclassified (%)", self.eps, self.rows)
        failed = f"{len(self.failed)} of {len(self.checks)} checks failed"
        title = f"{self.model} on {self.images:,} images of {self.data}, {failed}"
        return title, [[*header, "doubted by checks"], *([*row, self.doubted(row[0])] for row in rows)]

    @property
    def headline(self) -> list[Rate]:
        """[E] the share of all images that are broken in most further draws, which no luck decides.

        For a classifier that draws nothing it is that of the worst case.
        """
        return self.broken_in_most or self.worst

    @property
    def judged(self) -> dict[str, list[Rate] | list[float]]:
        """[E] the worst case in every way that it is judged, the headline first."""
        if self.broken_in_most is None:
            return {WORST: self.worst}
        return {IN_MOST: self.broken_in_most, SHARE_OF_DRAWS: self.share_of_draws, UPPER_BOUND: self.worst}

    @property
    def rows(self) -> dict[str, list[Rate] | list[float]]:
        """[E] success rates of every attack, then the worst case as in `judged`: the rows of every table."""
        return self.success | self.judged

    def doubts(self, row: str) -> list[int]:
        """The numbers of the failed checks that put a row of success rates in doubt."""
        kind = self.kinds.get(row, ITERATIVE)
        return [check.number for check in self.checks if check.status == FAIL and kind in check.concerns]

    def doubted(self, row: str) -> str:
        """These numbers as the cell of a table; `none` without any."""
        return ", ".join(map(str, self.doubts(row))) or "none"

    @property
    def failed(self) -> list[int]:
        """The numbers of the checks that failed."""
        return [check.number for check in self.checks if check.status == FAIL]

    @property
    def clean_doubts(self) -> list[int]:
        """The numbers of the failed checks that put the clean accuracy in doubt."""
        known = checks.CHECKS
        return [number for number in self.failed if number in known and known[number].doubts_clean]


@shows_progress
def assess(
    classifier: Classifier | nn.Module,
    data: Images,
    training: Images,
    options: RobustnessOptions = RobustnessOptions(),
    *,
    name: str | None = None,
    sources: Sequence[Classifier | nn.Module] = (),
    cache: ResultCache | None = None,
    progress: Progress | bool | None = True,
) -> Verdict:
    """Run the suite on a classifier, and the checks on the suite.

    Args:
        classifier, data, name, progress: as in :func:`pyrobayes.attack`; progress is also told when another part begins.
        training: training images, for the classifiers known to be broken.
        options: see :class:`pyrobayes.options.RobustnessOptions`.
        sources: other classifiers, for attacks by transfer.
        cache: keeps what was computed.
    """
    expect("training images", training, Images)
    expect("options", options, RobustnessOptions)
    expect("sources", sources, Sequence)
    classifier = opened(classifier, data, name)
    sources = [opened(source, data, argument="source") for source in sources]
    options = settled(options, classifier.device)
    validated_images(classifier, data, options.images, options.batch_size)
    few, cache = data.head(options.images), cache or ResultCache()
    return verdict_of(RobustnessRun(classifier, few, options, sources, cache, progress, training=training, test=data))


def verdict_of(run: RobustnessRun) -> Verdict:
    """The verdict: every attack of the suite, then the further draws, then every check."""
    schedule = Schedule(run)
    for name in run.suite:
        with schedule.part(name):
            run.result(name)
    drawn = dict.fromkeys(("share_of_draws", "broken_in_most", "resampled"))
    worst = torch.stack(list(run.broken.values())).any(0)
    if run.latent:
        with schedule.part(RESAMPLING):
            shares = run.resampled
        drawn = {"share_of_draws": shares.double().mean(1).tolist(), "resampled": shares.tolist()}
        in_most = shares > 0.5
        drawn["broken_in_most"], worst = list(map(Rate.of, in_most)), worst | in_most
    sheet = []
    for number, check in checks.CHECKS.items():
        with schedule.part(f"check {number}"):
            sheet.append(check.judge(*check.measure(run)))
    gradients, shares = zip(*((spent, share.double().mean().item()) for spent, share in run.budget))
    budget = Budget(run.strongest, run.middle, len(run.few), run.spent, gradients, shares)
    diagnosed = (run.classifier, run.few, run.options.batch_size)
    return Verdict(
        model=run.name,
        generative=run.classifier.structure.generative,
        data=run.data.name,
        images=len(run.data),
        eps=run.eps,
        clean_accuracy=Rate.of(~run.misclassified_unchanged),
        success={name: list(map(Rate.of, rows)) for name, rows in run.broken.items()},
        worst=list(map(Rate.of, worst)),
        options={
            name: entry.attack.described() | {"name": entry.attack.name, "attacker": dict(entry.attacker)}
            for name, entry in run.suite.items()
        },
        kinds={name: entry.kind for name, entry in run.suite.items()},
        checks=sheet,
        approximation=approximation(*diagnosed),
        gradient_signs=gradient_signs(*diagnosed),
        broken={name: [each.nonzero()[:, 0].tolist() for each in rows] for name, rows in run.broken.items()},
        budget=budget,
        caveats=run.classifier.caveats,
        **drawn,
    )


class Schedule:
    """Tells the caller how much of a verdict is done, in passes of one image through the classifier.

    A part that was found in the cache is taken off the whole: it took no time, and tells nothing about the rest.
    """

    def __init__(self, run: RobustnessRun):
        self.run, self.done = run, 0.0
        images, few = len(run.data) * len(run.eps), len(run.few)
        self.work = {name: images * (entry.passes(*run.decoded) + 1) for name, entry in run.suite.items()}
        if run.latent:
            self.work[RESAMPLING] = images * run.options.redraws * (1 + len(run.suite) / 2)
        unit = 3 * few * run.options.steps  # of PGD, whose backward passes take twice as long as forward ones
        self.work |= {f"check {number}": check.work * unit for number, check in checks.CHECKS.items()}
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
