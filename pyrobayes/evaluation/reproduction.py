"""The poster's experiment beside ours: its published success rates, and its claims.

Delavande and Megdoud, "Are Generative Classifiers More Robust to Adversarial Attacks?", poster, Paris-Saclay, after
Li, Bradshaw and Sharma (2019): FGSM on all 10,000 test images of Fashion-MNIST.
"""

import csv
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.evaluation.rates import NORMAL_95, Rate, difference, in_percent
from pyrobayes.evaluation.records import FINITE, Limits, Record, require
from pyrobayes.evaluation.robustness.verdict import Verdict
from pyrobayes.training.metrics import Epoch

POSTER_IMAGES = 10_000  # of its success rates
OUTCOMES = ("holds", "fails", "not decided")
CLAIMED = (0.05, 0.3)  # eps from and to where the poster compares generative and discriminative models


def student_95(seeds: int) -> float:
    """The quantile at 97.5% of Student's t distribution for so many seeds, from 2."""
    from scipy.stats import t

    return float(t.ppf(0.975, seeds - 1))


@dataclass(frozen=True)
class Spread(Record):
    """A share of the same `images` that was measured for one or several training seeds."""

    shares: tuple[float, ...]
    images: int
    DERIVED = {"mean": lambda self: self.share, "interval_95": lambda self: self.interval}
    LIMITS = {"shares": Limits("S")}

    def __post_init__(self):
        super().__post_init__()
        require(self.images > 0 and len(self.shares) > 0, "a share needs images and a seed")

    @classmethod
    def of(cls, rates: Sequence[Rate]) -> "Spread":
        """Join the rates of all seeds."""
        return cls(tuple(rate.share for rate in rates), rates[0].total)

    @property
    def share(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.shares)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the mean: Wilson's for the choice of images, with Student's t for that of several seeds.

        The two are independent, so that their half widths add in squares.
        """
        low, high = Rate.of_share(self.share, self.images).interval
        seeds, half = len(self.shares), 0.0
        if seeds > 1:
            half = student_95(seeds) * statistics.stdev(self.shares) / math.sqrt(seeds)
        below, above = math.hypot(self.share - low, half), math.hypot(high - self.share, half)
        return max(0.0, self.share - below), min(1.0, self.share + above)

    def percent(self) -> str:
        """The mean in per cent with its interval, as in `82.4 [81.7, 83.2]`."""
        return in_percent(self.share, self.interval)


@dataclass(frozen=True)
class Comparison(Record):
    """The success rate of FGSM on one model at one eps: a published share where the poster has one, and ours of all seeds.

    On the fewer images of the verdicts, `worst` is their worst case and `judged` FGSM; None without verdicts at this eps.
    """

    model: str
    eps: float
    published: float | None
    ours: Spread
    worst: Spread | None = None
    judged: Spread | None = None

    LIMITS = {"eps": Limits(most=FINITE), "published": Limits()}

    @property
    def difference(self) -> tuple[float, float] | None:
        """Ours less the published, and half the width of its 95% interval; None where none is published."""
        if self.published is None:
            return None
        theirs = Rate.of_share(self.published, POSTER_IMAGES).interval
        halves = [(high - low) / 2 for low, high in (self.ours.interval, theirs)]
        return self.ours.share - self.published, math.hypot(*halves)


@dataclass(frozen=True)
class Claim(Record):
    """A claim of the poster, tested on a generative and a discriminative model, on the same images.

    Attributes:
        outcome: `holds` where it does for every seed and every eps from 0.05 to 0.3, beyond the interval of each; `fails`
            where it doesn't at any, beyond an interval that allows for as many comparisons (Bonferroni's); else
            `not decided`.
        seed, eps: where it fails, or comes closest to failing.
        gap: by how much the discriminative model fares worse there, a share of all images.
        half: half the width of the 95% interval of the gap.
    """

    statement: str
    generative: str
    discriminative: str
    outcome: str
    seed: int
    eps: float
    gap: float
    half: float

    LIMITS = {"eps": Limits(most=FINITE), "gap": Limits(least=-2, most=2), "half": Limits()}

    def __post_init__(self):
        super().__post_init__()
        require(self.outcome in OUTCOMES, f"outcome must be one of {', '.join(OUTCOMES)}, got {self.outcome!r}")


@dataclass(frozen=True)
class Reproduction:
    """The results of a recipe, for every seed: its folder, the epochs of its models by name, and their results in one order.

    Where the recipe takes other images than the poster, there are no comparisons and claims.
    """

    seeds: list[int]
    folders: list[Path]
    trained: list[dict[str, list[Epoch]]]
    evaluations: list[list[Evaluation]]
    attacks: list[list[AttackResult]]
    verdicts: list[list[Verdict]]
    comparisons: list[Comparison]
    claims: list[Claim]

    def summary(self) -> dict:
        """The fields of :class:`pyrobayes.results.store.SavedReproduction` that are measured, of all seeds together."""
        return {
            "data": self.attacks[0][0].data,
            "seeds": self.seeds,
            "images": self.attacks[0][0].images,
            "clean": {each[0].model: Spread.of([one.accuracy for one in each]) for each in zip(*self.evaluations)},
            "comparisons": self.comparisons,
            "claims": self.claims,
        }


def published() -> dict[str, dict[float, float]]:
    """The poster's success rates by model and eps, shares; GBY was not run."""
    text = (resources.files("pyrobayes") / "resources/published/fashion_mnist_fgsm.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        found.setdefault(row["model"].lower(), {})[float(row["eps"])] = float(row["success_percent"]) / 100
    return found


def compare(results: Sequence[Sequence[AttackResult]], verdicts: Sequence[Sequence[Verdict]] = ()) -> list[Comparison]:
    """Published and our success rates, from the results of FGSM for every seed, the same models in the same order.

    Verdicts likewise, whose worst cases stand beside FGSM.
    """
    theirs, judged = published(), {each[0].model: each for each in zip(*verdicts, strict=True)}

    def beside(rates: Callable[[Verdict], list[Rate]], model: str, eps: float) -> Spread | None:
        known = [dict(zip(verdict.eps, rates(verdict))).get(eps) for verdict in judged.get(model, ())]
        return Spread.of(known) if known and None not in known else None

    return [
        Comparison(
            model=(model := models[0].model),
            eps=eps,
            published=theirs.get(model, {}).get(eps),
            ours=Spread.of([result.success(i) for result in models]),
            worst=beside(lambda verdict: verdict.headline, model, eps),
            judged=beside(lambda verdict: verdict.success["fgsm"], model, eps),
        )
        for models in zip(*results, strict=True)
        for i, eps in enumerate(models[0].eps)
    ]


def claims(results: Sequence[Sequence[AttackResult]], seeds: Sequence[int]) -> list[Claim]:
    """The poster's two claims for every pair of a generative and a discriminative model.

    A generative model's success rate stays below a discriminative one's, and it rises less above that at eps 0.

    Args:
        results: of FGSM for every seed, the same models in the same order.
        seeds: of the trainings.
    """
    by_model = [dict(zip((result.model for result in each), each)) for each in results]
    generative, discriminative = ([each.model for each in results[0] if each.generative is g] for g in (True, False))
    found = []
    for statement, relative in (("success rate stays below", False), ("degradation is slower", True)):
        for ours, theirs in itertools.product(generative, discriminative):
            gaps = [
                (*difference(*(_broken(each[name], eps, relative) for name in (theirs, ours))), seed, eps)
                for seed, each in zip(seeds, by_model, strict=True)
                for eps in each[ours].eps
                if CLAIMED[0] <= eps <= CLAIMED[1]
            ]
            if gaps:
                outcome, (gap, half, seed, eps) = _outcome(gaps)
                found.append(Claim(statement, ours, theirs, outcome, seed, eps, gap, half))
    return found


def _outcome(gaps: Sequence[tuple[float, float, int, float]]) -> tuple[str, tuple[float, float, int, float]]:
    """The outcome of a claim, and the gap that decides it; each gap comes with half its 95% interval, seed and eps."""
    closest = min(gaps, key=lambda each: each[0] - each[1])
    if closest[0] > closest[1]:
        return "holds", closest
    from scipy.stats import norm

    wider = float(norm.ppf(1 - 0.025 / len(gaps))) / NORMAL_95
    worst = min(gaps, key=lambda each: each[0] + wider * each[1])
    return ("fails", worst) if worst[0] + wider * worst[1] < 0 else ("not decided", closest)


def _broken(result: AttackResult, eps: float, relative: bool) -> torch.Tensor:
    """1 for each image that is misclassified at an eps, [N]; less 1 if it is at eps 0 too and `relative` is asked for."""
    wrong, clean = (
        (torch.tensor(predicted) != torch.tensor(result.labels)).double()
        for predicted in (result.predictions[result.eps.index(eps)], result.clean_predictions)
    )
    return wrong - clean if relative else wrong
