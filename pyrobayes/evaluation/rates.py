"""Shares of images, with their 95% intervals."""

import math
from dataclasses import dataclass

from torch import Tensor

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
    DERIVED = {
        "share": lambda self: self.share if self.total else None,
        "interval_95": lambda self: self.interval if self.total else None,
    }

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
