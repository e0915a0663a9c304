"""Checks that records make of their own values, so that a damaged file is never read as a result."""

import math
from collections.abc import Sequence
from typing import Any

from pyrobayes.errors import InputError


def require(holds: bool, message: str) -> None:
    """:class:`InputError` with the message unless it holds."""
    if not holds:
        raise InputError(message)


def check_lengths(length: int, record, *names: str) -> None:
    """Refuse a record unless each of its named fields that isn't None has this length."""
    for name in names:
        values = getattr(record, name)
        if values is not None and len(values) != length:
            raise InputError(f"{name} must have {length} entries, got {len(values)}")


def check_range(name: str, values: Sequence[float], most: float = 1.0, least: float = 0.0) -> None:
    """Refuse numbers that aren't from `least` to `most`; NaN is refused too."""
    for value in values:
        if not least <= value <= most:
            raise InputError(f"{name} must be from {least:g} to {most:g}, got {value}")


def check_classes(name: str, values: Sequence[int], classes: int | None) -> None:
    """Refuse numbers that aren't classes: whole, from 0, and below the number of classes where that is known."""
    if set(map(type, values)) - {int} or values and (min(values) < 0 or classes and max(values) >= classes):
        raise InputError(f"{name} must be classes from 0 to {classes - 1 if classes else 'their number less 1'}")


def check_finite(record, *names: str) -> None:
    """Refuse a record unless each of its named fields that isn't None is a finite number."""
    for name in names:
        value: Any = getattr(record, name)
        if value is not None and not math.isfinite(value):
            raise InputError(f"{name} must be a finite number, got {value}")


def check_bounds(eps: Sequence[float]) -> None:
    """Refuse sizes of a perturbation unless there are some, finite, from 0, and rising."""
    rising = all(one < other for one, other in zip(eps, eps[1:]))
    if not eps or not rising or not (eps[0] >= 0 and math.isfinite(eps[-1])):
        raise InputError(f"eps must be finite numbers from 0, in rising order, got {list(eps)}")
