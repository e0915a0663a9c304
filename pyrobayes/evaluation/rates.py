"""Shares of images, their 95% intervals, and how two shares of the same images differ."""

import functools
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrobayes.errors import check_integer

NORMAL_95 = 1.959963984540054  # 95% of a normal distribution lie within so many standard deviations
POINTS = 0.02  # the smallest difference of two shares that matters: two points


def in_percent(share: float, interval: tuple[float, float]) -> str:
    """A share and its interval in per cent, as in `82.4 [81.7, 83.2]`."""
    low, high = interval
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class Rate:
    """A share of images: `count` of `total`."""

    count: int
    total: int
    DERIVED = {
        "share": lambda self: self.share if self.total else None,
        "interval_95": lambda self: self.interval if self.total else None,
    }

    def __post_init__(self):
        check_integer("the total of a share", self.total, least=0, most=2**63)
        check_integer("the count of a share", self.count, least=0, most=self.total)

    @classmethod
    def of(cls, chosen: Tensor) -> "Rate":
        """The share of images for which `chosen` [N] is true."""
        return cls(int(chosen.sum()), len(chosen))

    @classmethod
    def among(cls, chosen: Iterable[bool]) -> "Rate":
        """The share of those that are true."""
        chosen = list(chosen)
        return cls(sum(chosen), len(chosen))

    @classmethod
    def of_share(cls, share: float, total: int) -> "Rate":
        """The nearest count of `total` images, where only the share is known."""
        return cls(round(share * total) if total else 0, total)

    @property
    def share(self) -> float:
        """The share, from 0 to 1; NaN without images."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of Wilson (1927); NaN without images."""
        return _wilson(self.count, self.total) if self.total else (math.nan, math.nan)

    def percent(self) -> str:
        """The share and its interval in per cent, as in `82.4 [81.7, 83.2]`; `-` without images."""
        return in_percent(self.share, self.interval) if self.total else "-"

    def sentence(self) -> str:
        """The share and its interval as they read within a sentence, `82.4% [81.7, 83.2]`."""
        return self.percent().replace(" ", "% ", 1)


@functools.lru_cache(maxsize=10_000)
def _wilson(count: int, total: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    low, high = binomtest(count, total).proportion_ci(method="wilson")
    return float(low), float(high)


@dataclass(frozen=True)
class Median:
    """The median of numbers, some of which may be infinite, and its 95% interval; NaN without numbers.

    The interval lies between two of the sorted numbers, and holds whatever their distribution (Conover 1999, section 3.2).
    Fewer than six numbers have none that is finite.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Iterable[float]) -> "Median":
        """The median of the numbers."""
        ordered = sorted(numbers)
        if not ordered:
            return cls(math.nan, math.nan, math.nan)
        from scipy.stats import binom

        rank = int(binom.ppf(0.025, len(ordered), 0.5))  # from 1; the median lies above the number of that rank
        low, high = (ordered[rank - 1], ordered[-rank]) if rank else (-math.inf, math.inf)
        return cls(statistics.median(ordered), low, high)

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def difference(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """By how much the share ours [N] exceeds theirs [N], and half the width of its 95% interval; the images are the same.

    The interval counts two more images, which together give each side one half (Agresti and Min 2005, for matched pairs).
    So it has a width where no image differs: with few images, a difference may not have shown yet.
    """
    change, n = ours.double() - theirs.double(), len(ours) + 2
    variance = (change.square().sum() + 1) / n - (change.sum() / n) ** 2
    return change.mean().item(), NORMAL_95 * math.sqrt(variance / n)


def larger(ours: Tensor, theirs: Tensor, comparisons: int = 1) -> bool:
    """True if ours [N] exceeds theirs [N] by more than chance, at a level of 5% over all comparisons.

    Broken images are compared by the exact test of McNemar (1947), shares of draws by the interval of the mean difference.
    """
    if ours.dtype != torch.bool or theirs.dtype != torch.bool:
        gap, half = difference(ours, theirs)
        return gap > half and gap > 0
    more, fewer = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    if more <= fewer:
        return False
    from scipy.stats import binomtest

    return bool(binomtest(more, more + fewer).pvalue * comparisons <= 0.05)


def matters(ours: Tensor, theirs: Tensor) -> bool:
    """True if ours [N] exceeds theirs [N] by two points, and by more than chance."""
    return larger(ours, theirs) and difference(ours, theirs)[0] >= POINTS


def points(ours: Tensor, theirs: Tensor) -> str:
    """By how many points the share ours [N] exceeds theirs [N], with the 95% interval."""
    gap, half = difference(ours, theirs)
    return f"{100 * gap:+.1f} ± {100 * half:.1f} points"


def percent(share: float | Tensor) -> str:
    """A share, or the mean of a tensor [N], in per cent."""
    return f"{100 * (share.double().mean().item() if isinstance(share, Tensor) else share):.1f}%"
