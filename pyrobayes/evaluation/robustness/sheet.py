"""The sheet of checks: what a check is, the line that it gives, and the registry of all of them."""

from dataclasses import dataclass
from typing import ClassVar

from pyrobayes.errors import InputError
from pyrobayes.evaluation.robustness.suite import GRADIENT_FREE, ITERATIVE, SINGLE_STEP

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "not applicable"
BY_GRADIENT, ALL = (SINGLE_STEP, ITERATIVE), (SINGLE_STEP, ITERATIVE, GRADIENT_FREE)


@dataclass(frozen=True)
class CheckResult:
    """One line of the sheet.

    Attributes:
        number: the check's number, from 1.
        name: what should hold.
        status: `pass`, `fail` or `not applicable`.
        finding: the figures that it was judged by, or why it doesn't apply.
        doubts: the numbers that it puts in doubt where it fails, in words.
        concerns: the kinds of attacks whose success rates these are: SINGLE_STEP, ITERATIVE, GRADIENT_FREE.
    """

    number: int
    name: str
    status: str
    finding: str
    doubts: str
    concerns: tuple[str, ...]

    def __post_init__(self):
        if self.status not in (PASS, FAIL, NOT_APPLICABLE):
            raise InputError(f"a check's status must be {PASS}, {FAIL} or {NOT_APPLICABLE}, got {self.status!r}")
        if not set(self.concerns) <= set(ALL):
            raise InputError(f"a check concerns kinds of attacks, {', '.join(ALL)}, got {self.concerns!r}")


class Check:
    """One check. A subclass names itself, measures, and judges; :func:`register` puts it on the sheet."""

    number: ClassVar[int]
    name: ClassVar[str]  # what should hold
    doubts: ClassVar[str]  # the numbers in doubt where it fails, in words
    concerns: ClassVar[tuple[str, ...]]  # the kinds of attacks that they belong to
    doubts_clean: ClassVar[bool] = False  # the clean accuracy is in doubt too
    work: ClassVar[float] = 1.0  # how long it takes, in runs of PGD on the checked images at one eps

    def measure(self, run) -> tuple:
        """The arguments of :meth:`judge`, from a :class:`pyrobayes.evaluation.robustness.measurements.RobustnessRun`."""
        raise NotImplementedError

    def judge(self, *measured) -> CheckResult:
        """The check's line on the sheet."""
        raise NotImplementedError

    def result(self, passed: bool | None, finding: str, **changes) -> CheckResult:
        """A line of the sheet; `passed` is None where the check doesn't apply, and `changes` are other fields."""
        status = NOT_APPLICABLE if passed is None else PASS if passed else FAIL
        own = {name: getattr(self, name) for name in ("number", "name", "doubts", "concerns")}
        return CheckResult(**own | {"status": status, "finding": finding} | changes)

    def none_left(self, images: int, eps: float) -> CheckResult:
        """The line where no attack could find more."""
        return self.result(
            None,
            f"all of {images} images are broken at eps {eps:g}, so no attack can find more: take a smaller eps too",
        )


CHECKS: dict[int, Check] = {}  # by number, in order


def register(check: type[Check]) -> type[Check]:
    """Class decorator: put a check on the sheet of every verdict."""
    if check.number in CHECKS:
        raise InputError(f"there is a check {check.number} already: {CHECKS[check.number].name}")
    CHECKS[check.number] = check()
    return check
