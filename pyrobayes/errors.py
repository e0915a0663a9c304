"""Errors that users can mend, and the checks of users' values. Nothing here imports torch."""

import difflib
import functools
import itertools
import math
import numbers

LARGEST_SEED = 2**63 - 1
LARGEST_BATCH = 2**31 - 1
LARGEST = 1_000_000  # count, step size, or eps in L2, L1 and L0
UNBOUNDED = ("l2", "l1", "l0")  # norms in which an eps may exceed 1


class PyrobayesError(Exception):
    """An error whose message explains what went wrong."""


class InputError(PyrobayesError, ValueError):
    """Something the user gave can't be used; the message says what, what was expected, and what to do."""


def in_one_line(error: Exception) -> str:
    """An error of the user's code: its type, and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def choice(kind: str, given: str, known) -> str:
    """The one of `known` that `given` names, in any case; :class:`InputError` with the nearest name otherwise."""
    by_name = {name.lower(): name for name in known}
    asked = str(given).lower()
    if asked in by_name:
        return by_name[asked]
    hint = "".join(f"did you mean '{by_name[near]}'? " for near in difflib.get_close_matches(asked, by_name, n=1))
    raise InputError(f"unknown {kind} '{given}': {hint}known are {', '.join(by_name.values())}")


def check_integer(name: str, value, least: int, most: int = LARGEST) -> None:
    """Refuse a `value` of argument `name` that is no whole number from `least` up to `most`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if value > most:
        raise InputError(f"{name} must be at most {most}, got {value}")


def check_flag(name: str, value) -> None:
    """Refuse a `value` of argument `name` that is neither True nor False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")


def check_positive(name: str, value, least: float = 0.0, most: float = math.inf) -> None:
    """Refuse a `value` of argument `name` that is no finite number above 0, nor from `least` to `most`."""
    _check_number("a finite number above 0", lambda number: 0 < number < math.inf, name, value)
    if not least <= value <= most:
        raise InputError(f"{name} must be from {least:g} to {most:g}, got {value:g}")


def _check_number(expected: str, allowed, name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not allowed(value):
        raise InputError(f"{name} must be {expected}, got {value!r}")


def check_name(name: str, value) -> None:
    """Refuse a `value` of argument `name` that is no text."""
    if not isinstance(value, str) or not value:
        raise InputError(f"{name} must be a name, got {value!r}")


def check_channels(name: str, value) -> None:
    """Refuse a `value` that is neither a count of channels nor a tuple with one for each of up to ten convolutions."""
    if isinstance(value, tuple) and not 1 <= len(value) <= 10:
        raise InputError(f"{name} must be those of 1 to 10 convolutions, got {len(value)}")
    for each in value if isinstance(value, tuple) else (value,):
        check_integer(name, each, least=1)


# More checks of a `value` of argument `name`, called like those above.
check_count = functools.partial(check_integer, least=1)
check_count_from_zero = functools.partial(check_integer, least=0)
check_seed = functools.partial(check_integer, least=0, most=LARGEST_SEED)
check_step_size = functools.partial(check_positive, most=LARGEST)  # float32 images hold no larger steps
check_from_zero = functools.partial(_check_number, "a finite number from 0", lambda value: 0 <= value < math.inf)
check_part = functools.partial(_check_number, "a number from 0 to 1", lambda value: 0 <= value <= 1)
check_fraction = functools.partial(_check_number, "a share above 0 and below 1", lambda value: 0 < value < 1)
check_part_of_run = functools.partial(_check_number, "a share of the run from 0 to 1", lambda value: 0 <= value <= 1)
check_negligible = functools.partial(_check_number, "a part from 0 to below 1", lambda value: 0 <= value < 1)


def is_number(value) -> bool:
    """True if a value is one number: Python's, numpy's or a tensor without dimensions. True and False are none."""
    return not _is_flag(value) and (isinstance(value, numbers.Real) or getattr(value, "ndim", None) == 0)


def _is_flag(value) -> bool:
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def numbers_in(values, name: str = "eps") -> tuple[float, ...]:
    """The numbers of argument `name`, in their order; :class:`InputError` unless they are numbers."""
    try:
        if not isinstance(values, str) and not any(map(_is_flag, values := list(values))):
            return tuple(map(float, values))
    except (TypeError, ValueError):
        pass
    raise InputError(f"{name} must be a number, or a list of numbers, got {values!r}")


def check_eps(values, norm: str = "linf") -> tuple[float, ...]:
    """The perturbation sizes as an increasing tuple; :class:`InputError` unless each is possible in the norm."""
    values = (float(values),) if is_number(values) else numbers_in(values)
    if not values:
        raise InputError("eps is empty: give at least one perturbation size from 0 to 1")
    for value in values:
        if not 0 <= value <= (LARGEST if norm in UNBOUNDED else 1):
            in_norm = f", or in {norm.upper()} from 0 to {LARGEST:,}" if norm in UNBOUNDED else ""
            raise InputError(f"eps must lie in [0, 1], the range of a pixel{in_norm}, got {value!r}")
    values = sorted({abs(value) for value in values})  # and no -0.0
    for one, other in itertools.pairwise(values):
        if f"{one:g}" == f"{other:g}":
            raise InputError(f"eps {one!r} and {other!r} are as good as the same: leave one of them out")
    return tuple(values)
