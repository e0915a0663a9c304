"""Checks of a verdict: signs of masked gradients, weak attacks and luck.

They follow Carlini et al. (2019), "On Evaluating Adversarial Robustness", section 3, and Tramer et al. (2020). A check is
one class: it measures on a run, judges what was measured, and names the numbers that it puts in doubt where it fails.
Arrays of broken images, or shares of draws, [N] or [E, N], are compared on the same images. A difference counts where it
is significant at 5%. Where a change should be small, it also has to reach two points. Check 4 asks for less: two points
count there, significant or not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from pyrobayes.attacks.problem import pruning
from pyrobayes.errors import InputError
from pyrobayes.evaluation.rates import POINTS, Rate, difference, larger, matters, percent, points
from pyrobayes.evaluation.records import require
from pyrobayes.evaluation.robustness import known_broken
from pyrobayes.evaluation.robustness.suite import GRADIENT_FREE, ITERATIVE, SINGLE_STEP, SuiteEntry, square, uniform

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "not applicable"
BY_GRADIENT, ALL = (SINGLE_STEP, ITERATIVE), (SINGLE_STEP, ITERATIVE, GRADIENT_FREE)
GREY = 0.5  # eps at which every image can be made the same grey
ALL_RATES, GRADIENT_RATES = ("all success rates", ALL), ("success rates of attacks by gradients", BY_GRADIENT)
ITERATIVE_RATES = ("success rates of iterative attacks", (ITERATIVE,))
SQUARE_EOT = 2  # draws by which Square judges an image against a random classifier


@dataclass(frozen=True)
class CheckResult:
    """One line of the sheet: `status` is `pass`, `fail` or `not applicable`, and `finding` the figures or the reason.

    Other fields are those of :class:`Check`.
    """

    number: int
    name: str
    status: str
    finding: str
    doubts: str
    concerns: tuple[str, ...]

    def __post_init__(self):
        states = PASS, FAIL, NOT_APPLICABLE
        require(self.status in states, f"a check's status must be one of {', '.join(states)}, got {self.status!r}")
        known = set(self.concerns) <= set(ALL)
        require(known, f"a check concerns kinds of attacks, {', '.join(ALL)}, got {self.concerns!r}")


@dataclass(frozen=True)
class Check:
    """One check. A subclass measures and judges; :func:`register` puts it on the sheet.

    Attributes:
        number: its number, from 1.
        name: what should hold.
        doubts: the numbers that it puts in doubt where it fails, in words.
        concerns: the kinds of attacks whose success rates these are: SINGLE_STEP, ITERATIVE, GRADIENT_FREE.
        doubts_clean: the clean accuracy is in doubt too.
        work: how long it takes, in runs of PGD on the checked images at one eps.
    """

    number: int
    name: str
    doubts: str
    concerns: tuple[str, ...]
    doubts_clean: bool = False
    work: float = 1.0

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
        broken = f"all of {images} images are broken at eps {eps:g}"
        return self.result(None, f"{broken}, so no attack can find more: take a smaller eps too")


CHECKS: dict[int, Check] = {}  # by number, in order


def register(number: int, *declared, **options) -> Callable[[type[Check]], type[Check]]:
    """Class decorator: put a check on the sheet of every verdict. The arguments are the attributes of :class:`Check`."""

    def registered(check: type[Check]) -> type[Check]:
        if number in CHECKS:
            raise InputError(f"there is a check {number} already: {CHECKS[number].name}")
        CHECKS[number] = check(number, *declared, **options)
        return check

    return registered


@register(1, "iterative at least as strong as single-step", *ITERATIVE_RATES, work=0.0)
class IterativeAtLeastAsStrong(Check):
    """Many steps that find less than one follow a gradient that misleads."""

    def measure(self, run) -> tuple:
        return run.eps, run.broken["fgsm"], run.broken[run.iterative], run.iterative

    def judge(self, eps: Sequence[float], single: Tensor, iterative: Tensor, attack: str = "pgd") -> CheckResult:
        gaps = [difference(s, i)[0] for s, i in zip(single, iterative)]
        at = max(range(len(eps)), key=lambda i: gaps[i])
        return self.result(
            not any(larger(s, i, len(eps)) for s, i in zip(single, iterative)),
            f"fgsm breaks {percent(single[at])} and {attack} {percent(iterative[at])} of {single.shape[1]} images at eps "
            f"{eps[at]:g}, where {attack} compares worst",
        )


@register(2, "success never falls as eps grows", "success rates at the larger eps", ALL, work=0.0)
class NeverFalls(Check):
    """A larger ball holds the smaller one, so that a search that finds less in it fails."""

    def measure(self, run) -> tuple:
        clean = run.misclassified_unchanged[None]
        return (0.0, *run.eps), {name: torch.cat([clean, rows]) for name, rows in run.broken.items()}

    def judge(self, eps: Sequence[float], broken: Mapping[str, Tensor]) -> CheckResult:
        if len(eps) < 2:
            return self.result(None, "needs two eps")
        pairs = [(name, i) for name in broken for i in range(1, len(eps))]

        def told(name: str, i: int) -> str:
            before, after = (percent(broken[name][j]) for j in (i - 1, i))
            return f"{name} falls from {before} at eps {eps[i - 1]:g} to {after} at {eps[i]:g}"

        falls = [(name, i) for name, i in pairs if larger(broken[name][i - 1], broken[name][i], len(pairs))]
        if falls:
            return self.result(False, "; ".join(told(*each) for each in falls))
        fall, name, i = max(
            ((int(broken[name][i - 1].sum() - broken[name][i].sum()), name, i) for name, i in pairs),
            key=itemgetter(0),
        )
        if fall <= 0:
            return self.result(True, f"no fall in {len(broken)} attacks")
        largest = f"{told(name, i)}, the largest, may be chance"
        return self.result(True, f"no significant fall in {len(broken)} attacks: {largest}")


@register(3, "success reaches that of guessing where every image can be made grey", *ALL_RATES)
class ReachesChance(Check):
    """Where every image can be made the same, nothing is left to classify by."""

    def measure(self, run) -> tuple:
        return run.on_few("pgd at 0.5", run.few_steps, GREY)["broken"], len(run.data.classes), GREY

    def judge(self, broken: Tensor, classes: int, eps: float = GREY) -> CheckResult:
        rate, chance = Rate.of(broken), 1 - 1 / classes
        return self.result(
            rate.share >= chance,
            f"PGD breaks {percent(rate.share)} of {rate.total} images",
            name=f"success reaches at least {percent(chance)}, that of guessing, at eps {eps:g}",
        )


@register(4, "four times the steps change success by under 2 points", *ITERATIVE_RATES, work=4.0)
class Converged(Check):
    """More steps or starts that find more show that the attack ended too early."""

    def measure(self, run) -> tuple:
        (*_, (_, base), (_, more)) = run.budget
        return base, {"four times the steps": more} | run.restarted(), run.middle, run.strongest

    def judge(self, base: Tensor, more: Mapping[str, Tensor], eps: float, attack: str = "pgd") -> CheckResult:
        if base.double().mean() == 1:
            return self.none_left(len(base), eps)
        changes = {name: difference(each, base) for name, each in more.items()}
        changed = [name for name, (gap, _) in changes.items() if abs(gap) >= POINTS]
        unsettled = any(abs(gap) + half >= POINTS for gap, half in changes.values())
        chance = changed and all(abs(changes[name][0]) <= changes[name][1] for name in changed)
        told = "; ".join(f"with {name} {percent(each)} ({points(each, base)})" for name, each in more.items())
        if chance:
            told += ", which may be chance on so few images"
        elif unsettled and not changed:
            told += "; so few images don't show that it is under 2 points"
        return self.result(
            not changed, f"{attack} succeeds on {percent(base)} of {len(base)} images at eps {eps:g}; {told}"
        )


@register(5, "gradient-free, transfer and noise no stronger than white-box", *GRADIENT_RATES, work=4.0)
class WhiteBoxStrongest(Check):
    """An attack without the gradient that finds more shows that the gradient is masked.

    Where noise finds more than a single step, the gradient of that step is masked. Where another attack does, a single
    step may just be weak.
    """

    def measure(self, run) -> tuple:
        white_box, blind = {}, {}
        for name, entry in run.suite.items():
            (blind if entry.kind == GRADIENT_FREE else white_box)[name] = run.few_of(name)["broken"]
        if run.random:  # Square judges by several draws, not by what one draw falls for
            others = {"uniform noise": uniform(run.options), "square": square(run.options, eot=SQUARE_EOT)}
            few = pruning(run.classifier.options)
            blind |= {name: run.on_few(name, SuiteEntry(by, few))["broken"] for name, by in others.items()}
        return white_box, blind, run.middle

    def judge(
        self,
        white_box: Mapping[str, Tensor],
        blind: Mapping[str, Tensor],
        eps: float,
        single: str = "fgsm",
        noise: str = "uniform noise",
    ) -> CheckResult:
        best_name, best = max(white_box.items(), key=lambda item: item[1].double().mean().item())
        together = torch.stack(list(white_box.values())).any(0)
        told = [f"the best white-box attack, {best_name}, breaks {percent(best)} of {len(best)} images at eps {eps:g}"]
        for name, each in blind.items():
            alone = int((each & ~together).sum())
            told.append(f"{name} breaks {percent(each)}" + f" ({alone} of them by no white-box attack)" * (alone > 0))
        if "transfer" not in blind:
            told.append("no transfer, for want of another model")
        beaten, changes = any(larger(each, best) for each in blind.values()), {}
        stronger = [name for name, each in blind.items() if larger(each, white_box[single])]
        if stronger:
            masked = "its gradient is masked"
            why = masked if noise in stronger else f"a single step is weak here, or {masked}"
            told.append(f"{single} finds less, {percent(white_box[single])}, than {' and '.join(stronger)}: {why}")
            if not beaten:
                changes = {"doubts": f"success rates of {single} alone", "concerns": (SINGLE_STEP,)}
        return self.result(not (beaten or stronger), "; ".join(told), **changes)


@register(
    6,
    "success plateaus as EOT and attack particles grow",
    "success rates of attacks with fewer",
    BY_GRADIENT,
    work=7.0,
)
class Plateaus(Check):
    """A gradient averaged over more of the noise that finds more shows that the attack saw mostly noise.

    The last doubling may add nothing, and no number may find more than the suite's strongest attack.
    """

    def measure(self, run) -> tuple:
        return run.more_estimates() if run.random else {}, run.strengths[run.strongest], run.middle

    def judge(self, rows: Mapping[str, Sequence[tuple[int, Tensor]]], strongest: Tensor, eps: float) -> CheckResult:
        if not rows:
            return self.result(None, "the classifier draws nothing anew")
        if strongest.double().mean() == 1:
            return self.none_left(len(strongest), eps)
        pairs, told = [(each, strongest) for row in rows.values() for _, each in row], []
        for name, row in rows.items():
            last = row[-1][1], row[-2][1]
            pairs.append(last)
            shares = ", ".join(f"{n}: {percent(each)}" for n, each in row)
            told.append(f"{name} {shares} (the last doubling {points(*last)})")
        return self.result(
            not any(matters(ours, theirs) for ours, theirs in pairs),
            f"success at eps {eps:g} by number: {'; '.join(told)}; the suite's strongest {percent(strongest)}",
        )


@register(7, "found with noise fixed, it holds with noise fresh", "success rates under fixed noise", ())
class HoldsWhenFresh(Check):
    """An image that one draw falls for, and others don't, is luck.

    The suite's own success rates are concerned where they were found under fixed noise too.
    """

    def measure(self, run) -> tuple:
        return (*(run.fixed_noise() if run.latent else (None, None)), run.middle, not run.random)

    def judge(self, fixed: Tensor | None, fresh: Tensor | None, eps: float, concerned: bool = False) -> CheckResult:
        if fixed is None or fresh is None:
            return self.result(None, "the classifier draws nothing")
        return self.result(
            not matters(fixed, fresh),
            f"at eps {eps:g} PGD breaks {percent(fixed)} of {len(fixed)} images under the fixed noise that it was found with, "
            f"and under fresh draws {percent(fresh)} ({points(fresh, fixed)})",
            concerns=ALL if concerned else (),
        )


@register(
    8, "at most 1% of gradients zero or not finite", "all success rates of attacks by gradients", BY_GRADIENT, work=0.1
)
class GradientsExist(Check):
    """An attack can't follow a gradient that is zero or not finite. One image may be so, however few there are."""

    def measure(self, run) -> tuple:
        return run.gradients()

    def judge(self, zero: Rate, undefined: Rate, saturated: Rate) -> CheckResult:
        return self.result(
            zero.count + undefined.count <= max(1, 0.01 * zero.total),
            f"gradients of {zero.total} images: zero {percent(zero.share)}, not finite {percent(undefined.share)} (of the "
            f"plain cross-entropy, which no attack of the suite follows, zero {percent(saturated.share)})",
        )


@register(9, "the loss rises, and no longer does at the last step", *ITERATIVE_RATES)
class LossSettled(Check):
    """A loss that still rises at the last step shows that the attack ended too early."""

    def measure(self, run) -> tuple:
        return run.losses(run.strongest), run.middle

    def judge(self, losses: Tensor, eps: float) -> CheckResult:
        mean = losses.double().mean(1)
        if len(mean) < 10:
            return self.result(None, f"needs the loss at ten steps to tell, got it at {len(mean)}")
        tail = len(mean) // 10
        before, last = mean[-2 * tail : -tail].mean().item(), mean[-tail:].mean().item()
        rise = last - mean[0].item()
        if not rise > 0:
            return self.result(
                False,
                f"from the first of {len(mean)} steps to the last at eps {eps:g} the loss changes by {rise:g} nats",
            )
        share = (last - before) / rise
        return self.result(
            share < 0.05,
            f"the last tenth of {len(mean)} steps at eps {eps:g} adds {percent(share)} of the loss's rise of {rise:.1f} nats",
        )


@register(
    10,
    "predictions on clean images stable under re-sampling",
    "clean accuracy, and every success that one draw decides",
    ALL,
    doubts_clean=True,
    work=0.1,
)
class StableWhenClean(Check):
    """A prediction that changes with the draw says little about one attack's success."""

    def measure(self, run) -> tuple:
        return (run.flipped() if run.latent else None,)

    def judge(self, flipped: Rate | None) -> CheckResult:
        if flipped is None:
            return self.result(None, "the classifier draws nothing anew")
        return self.result(
            flipped.share < POINTS,
            f"another draw of the noise changes the predictions of {percent(flipped.share)} of {flipped.total} clean images",
        )


@register(11, "the suite breaks models known to be broken", *ALL_RATES, work=3.0)
class BreaksWhatIsBroken(Check):
    """A suite that doesn't break models known to be broken, which look robust to a weak attack, proves nothing."""

    def measure(self, run) -> tuple:
        return known_broken.attack_known_broken(run), known_broken.EPS

    def judge(self, models: Mapping[str, known_broken.KnownBroken], eps: float) -> CheckResult:
        told = ", ".join(
            f"{percent(each.success.share)} of a {name} ({each.sign[0]} {percent(each.sign[1].share)})"
            for name, each in models.items()
        )
        masked = all(each.masked for each in models.values())
        unlike = "; not all of these models look robust to weak attacks, as they should: breaking them shows nothing"
        return self.result(
            all(each.success.share >= 0.9 for each in models.values()) if masked else None,
            f"at eps {eps:g} the weakest iterative attack breaks {told}" + ("" if masked else unlike),
        )


@register(12, "results equal for another batch size", "all numbers", ALL)
class SameInOtherBatches(Check):
    """An image's result may not depend on the images beside it.

    Rounding may decide between two equally likely classes: for one image, however few there are. Many steps along signs
    amplify rounding until some images end elsewhere, so that there only the success has to be equal.
    """

    def measure(self, run) -> tuple:
        if not run.classifier.addressable:
            return (
                None,
                None,
                run.few_labels,
                "the noise can't be bound to an image, so that other batches have other noise",
            )
        by = {"fgsm": run.suite["fgsm"], "pgd": run.few_steps}
        return *(run.other_batches(name, entry) for name, entry in by.items()), run.few_labels

    def judge(self, single: tuple | None, iterative: tuple | None, labels: Tensor, why: str = "") -> CheckResult:
        if single is None or iterative is None:
            return self.result(None, why or "one image fits at a time")
        one, many = (Rate.of(ours != theirs) for ours, theirs in (single, iterative))
        ours, theirs = (predicted != labels for predicted in iterative)
        return self.result(
            one.count <= max(1, 0.01 * one.total) and not matters(ours, theirs) and not matters(theirs, ours),
            f"in batches of another size {one.count} of {one.total} images get another class after FGSM, and {many.count} "
            f"after PGD, whose success is {percent(ours)} and {percent(theirs)} ({points(theirs, ours)})",
        )


@register(13, "nothing else finds more at the same cost", *ITERATIVE_RATES, work=7.0)
class StrongestForItsCost(Check):
    """Another way to spend as many gradients that finds more shows that the suite's attack is badly chosen."""

    def measure(self, run) -> tuple:
        return run.strengths[run.strongest], run.equal_cost(), run.spent, run.middle, run.strongest

    def judge(
        self, strongest: Tensor, others: Mapping[str, Tensor], gradients: int, eps: float, attack: str = "pgd"
    ) -> CheckResult:
        if strongest.double().mean() == 1:
            return self.none_left(len(strongest), eps)
        told = "; ".join(f"{name} {percent(each)} ({points(each, strongest)})" for name, each in others.items())
        return self.result(
            not any(matters(each, strongest) for each in others.values()),
            f"with {gradients:,} gradients an image at eps {eps:g}, {attack} succeeds on {percent(strongest)} of "
            f"{len(strongest)} images; {told}",
        )


@register(14, "the last doubling of the budget finds under 2 points", *ITERATIVE_RATES, work=0.0)
class BudgetSpent(Check):
    """A curve that still rises where the budget ends says that there was more to be had."""

    def measure(self, run) -> tuple:
        return run.budget, run.middle, run.strongest

    def judge(self, budget: Sequence[tuple[int, Tensor]], eps: float, attack: str = "pgd") -> CheckResult:
        *_, (_, half), (spent, whole), (_, more) = budget
        if whole.double().mean() == 1:
            return self.none_left(len(whole), eps)
        curve = ", ".join(f"{gradients:,}: {percent(share)}" for gradients, share in budget)
        return self.result(
            difference(whole, half)[0] < POINTS,
            f"success of {attack} at eps {eps:g} by gradients an image: {curve}; the budget is {spent:,}, its last doubling "
            f"found {points(whole, half)}, and {points(more, whole)} were to be had by four times as many",
        )
