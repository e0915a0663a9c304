"""The poster's experiment beside ours: its published success rates, and its claims.

Delavande and Megdoud, "Are Generative Classifiers More Robust to Adversarial Attacks?", poster, Paris-Saclay, after
Li, Bradshaw and Sharma (2019): FGSM on all 10,000 test images of Fashion-MNIST.
"""

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import torch

from pyrobayes.checks import difference
from pyrobayes.evaluation import NORMAL_95, AttackResult, Evaluation
from pyrobayes.training import Epoch

CLAIMED = (0.05, 0.3)  # eps from and to where the poster compares generative and discriminative models
# Quantiles at 97.5% of Student's t distribution, for 2 to 10 seeds.
STUDENT_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def student_95(seeds: int) -> float:
    """The quantile at 97.5% of Student's t distribution for so many seeds, from 2."""
    if seeds - 2 < len(STUDENT_95):
        return STUDENT_95[seeds - 2]
    z, n = NORMAL_95, seeds - 1  # Abramowitz and Stegun (1964), 26.7.5
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)


@dataclass(frozen=True)
class Spread:
    """A share that was measured for several training seeds.

    Attributes:
        shares: of each seed.
    """

    shares: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.shares)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the mean by Student's t over the seeds; NaN for one seed."""
        seeds = len(self.shares)
        if seeds < 2:
            return math.nan, math.nan
        half = student_95(seeds) * statistics.stdev(self.shares) / math.sqrt(seeds)
        return max(0.0, self.mean - half), min(1.0, self.mean + half)

    def percent(self) -> str:
        """The mean in per cent, with its interval where there is one, as in `82.4 [81.7, 83.2]`."""
        low, high = self.interval
        return f"{100 * self.mean:.1f}" + ("" if math.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]")


@dataclass(frozen=True)
class Comparison:
    """The success rate of FGSM on one model at one eps, published and ours.

    Attributes:
        published: share, or None where the poster has none.
        ours: shares of all seeds.
    """

    model: str
    eps: float
    published: float | None
    ours: Spread

    def as_dict(self) -> dict:
        """As plain JSON values."""
        low, high = self.ours.interval
        known = not math.isnan(low)
        return asdict(self) | {"mean": self.ours.mean, "interval_95": [low, high] if known else None}


@dataclass(frozen=True)
class Claim:
    """A claim of the poster, tested on a generative and a discriminative model, on the same images.

    Attributes:
        statement: what is claimed.
        seed, eps: where it comes closest to failing, of all seeds (the place in their list) and all eps from 0.05 to 0.3.
        gap: by how much the discriminative model fares worse there, a share of all images.
        half: half the width of the 95% interval of the gap.
    """

    statement: str
    generative: str
    discriminative: str
    seed: int
    eps: float
    gap: float
    half: float

    @property
    def holds(self) -> bool:
        """Whether it does for every seed and every such eps, beyond the interval."""
        return self.gap > self.half

    def as_dict(self) -> dict:
        """As plain JSON values."""
        return asdict(self) | {"holds": self.holds}


@dataclass(frozen=True)
class Reproduction:
    """What a recipe gave, for every seed.

    Attributes:
        seeds: of the trainings.
        folders: of each seed's models and results.
        trained: the epochs of each seed's models, by name.
        evaluations, attacks: each seed's results, the same models in the same order.
        comparisons, claims: with what is published; none where the recipe takes other images.
    """

    seeds: list[int]
    folders: list[Path]
    trained: list[dict[str, list[Epoch]]]
    evaluations: list[list[Evaluation]]
    attacks: list[list[AttackResult]]
    comparisons: list[Comparison]
    claims: list[Claim]


def published() -> dict[str, dict[float, float]]:
    """The poster's success rates by model and eps, shares; GBY was not run."""
    text = (resources.files("pyrobayes") / "resources/published/fashion_mnist_fgsm.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        found.setdefault(row["model"].lower(), {})[float(row["eps"])] = float(row["success_percent"]) / 100
    return found


def compare(results: Sequence[Sequence[AttackResult]]) -> list[Comparison]:
    """Published and our success rates, from the results of FGSM for every seed, the same models in the same order."""
    theirs = published()
    return [
        Comparison(
            model=models[0].model,
            eps=eps,
            published=theirs.get(models[0].model, {}).get(eps),
            ours=Spread(tuple(result.success(i).share for result in models)),
        )
        for models in zip(*results, strict=True)
        for i, eps in enumerate(models[0].eps)
    ]


def claims(results: Sequence[Sequence[AttackResult]]) -> list[Claim]:
    """The poster's two claims for every pair of a generative and a discriminative model; arguments as :func:`compare`.

    A generative model's success rate stays below a discriminative one's, and it rises less above that at eps 0.
    """
    found = []
    generative, discriminative = (
        [result.model for result in results[0] if result.generative is g] for g in (True, False)
    )
    for statement, relative in (("success rate stays below", False), ("degradation is slower", True)):
        for ours in generative:
            for theirs in discriminative:
                gaps = [
                    (*_gap(_named(each, ours), _named(each, theirs), eps, relative), seed, eps)
                    for seed, each in enumerate(results)
                    for eps in each[0].eps
                    if CLAIMED[0] <= eps <= CLAIMED[1]
                ]
                if gaps:
                    gap, half, seed, eps = min(gaps, key=lambda found: found[0] - found[1])
                    found.append(Claim(statement, ours, theirs, seed, eps, gap, half))
    return found


def _named(results: Sequence[AttackResult], model: str) -> AttackResult:
    return next(result for result in results if result.model == model)


def _gap(ours: AttackResult, theirs: AttackResult, eps: float, relative: bool) -> tuple[float, float]:
    return difference(*(_broken(result, eps, relative) for result in (theirs, ours)))


def _broken(result: AttackResult, eps: float, relative: bool) -> torch.Tensor:
    """Which images are misclassified at an eps, [N]; less those that are at eps 0 if `relative`."""
    labels = torch.tensor(result.labels)
    broken = (torch.tensor(result.predictions[result.eps.index(eps)]) != labels).double()
    return broken - (torch.tensor(result.clean_predictions) != labels).double() if relative else broken
