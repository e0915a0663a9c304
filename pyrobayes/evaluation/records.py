"""Records of results: they refuse impossible values, so that no damaged file is read as a result, and show themselves.

Several records share fields. `model`, `attack` and `data` are names; `generative` says that nothing depends on the image
(:attr:`pyrobayes.factorizations.Structure.generative`); `eps` [E] are the bounds, in the attack's norm; `options` are the
attack's, and under `attacker` those of the classifier that the attacker overrides; `caveats` are sentences on the classifier,
such as that its noise can't be bound to an image, and what was found that would have spoiled the evaluation. Three are
diagnostics:

* `flipped_by_resampling`: share of the clean images whose predicted class another draw of the noise changes; fixed noise
  is drawn anew for it. None for a classifier that draws nothing anew.
* `approximation`: share of the predicted classes that lower precision or pruning changes, with the same noise. None where
  the classifier's options ask for neither.
* `gradient_signs`: share of the pixels whose gradient has another sign than that without approximations, with the same
  noise. None where the attacker's options ask for none.
"""

import html
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyrobayes.codec import saved
from pyrobayes.errors import InputError
from pyrobayes.evaluation.rates import Rate

FINITE = sys.float_info.max


@dataclass(frozen=True)
class Limits:
    """Shape and range of a field that may be None.

    Attributes:
        shape: a letter a dimension, E of eps, N of images, any other of any length.
        below: the attribute that counts the classes, where the numbers are classes; from 0 where the count is None.
        part: rates may be of a part of the images, and not of all.
        undefined: NaN is possible too.
    """

    shape: str = ""
    least: float = 0.0
    most: float = 1.0
    below: str | None = None
    part: bool = False
    undefined: bool = False


class Record:
    """A record of results. A subclass declares the limits of its fields; eps that are several must rise."""

    LIMITS: Mapping[str, Limits] = {}

    def __post_init__(self):
        if isinstance(eps := getattr(self, "eps", None), Sequence):
            rising = len(eps) > 0 and all(one < other for one, other in zip(eps, eps[1:]))
            require(rising, f"eps must be numbers in rising order, got {list(eps)}")
        for name, limits in self.LIMITS.items():
            self._check(name, getattr(self, name), limits, limits.shape)

    def _check(self, name: str, value, limits: Limits, shape: str) -> None:
        if value is None:
            return
        if isinstance(value, Mapping):
            for key, each in value.items():
                self._check(f"{name} {key}", each, limits, shape)
            return
        if shape:
            length = len(self.eps) if shape[0] == "E" else self.images if shape[0] == "N" else len(value)
            require(len(value) == length, f"{name} must have {length} entries, got {len(value)}")
        if len(shape) > 1:
            for each in value:
                self._check(name, each, limits, shape[1:])
        else:
            self._check_numbers(name, value if shape else [value], limits)

    def _check_numbers(self, name: str, values: Sequence, limits: Limits) -> None:
        least, most, classes = limits.least, limits.most, limits.below is not None
        if classes:
            most = (getattr(self, limits.below) or math.inf) - 1
        expected = f"{'classes ' * classes}from {least:g} to {most:g}"
        if most == FINITE:
            expected = "a finite number" if least < 0 else "a finite number from 0"
        for value in values:
            if isinstance(value, Rate):
                of_all = limits.part or value.total == self.images
                require(of_all, f"{name} must be of {self.images} images, got {value.total}")
            elif classes and type(value) is not int or not least <= value <= most:
                require(limits.undefined and math.isnan(value), f"{name} must be {expected}, got {value}")


class Summarized(Record):
    """A record whose `repr` is a title, a table of few lines, and its caveats. A subclass gives both, the table's header first."""

    def _summary(self) -> tuple[str, Sequence[Sequence[str]]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        title, rows = self._summary()
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([f"{type(self).__name__}: {title}", *lines, *getattr(self, "caveats", ())])

    def _repr_html_(self) -> str:
        title, (header, *rows) = self._summary()

        def line(cells: Sequence[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

        body = "".join(line(row, "td") for row in rows)
        shown = f"<p>{html.escape(title)}</p><table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
        return shown + "".join(f"<p>{html.escape(caveat)}</p>" for caveat in getattr(self, "caveats", ()))


def table(corner: str, eps: Sequence[float], rows: Mapping[str, Sequence[Rate | float]]) -> list[list[str]]:
    """A table of rates and shares in per cent: a column for each eps, a row for each name."""
    header = [corner, *(f"eps {value:g}" for value in eps)]
    return [header, *([name, *map(percent, rates)] for name, rates in rows.items())]


def percent(rate: Rate | float | None) -> str:
    """A rate in per cent with its interval, or a share alone; `-` for none. A spread over seeds reads like a rate."""
    if isinstance(rate, float):
        return f"{100 * rate:.1f}"
    return rate.percent() if rate else "-"


def require(holds: bool, message: str) -> None:
    """:class:`InputError` with the message unless it holds."""
    if not holds:
        raise InputError(message)


def null_for(stand_in) -> dict:
    """Metadata of a list of numbers or curves: JSON has null for those that are not finite, read as `stand_in`."""

    def known(value) -> bool:
        return math.isfinite(value[0] if isinstance(value, list) else value)

    return saved(
        encode=lambda values: values and [value if known(value) else None for value in values],
        decode=lambda values: values and [stand_in if value is None else value for value in values],
    )
