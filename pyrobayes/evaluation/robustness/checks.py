"""Checks of a verdict: signs of masked gradients, weak attacks and luck.

They follow Carlini et al. (2019), "On Evaluating Adversarial Robustness", section 3, and Tramer et al. (2020). A check is
one class: it measures on a run, judges what was measured, and names the numbers that it puts in doubt where it fails.
Arrays of broken images tell which images ended up misclassified; two attacks are compared on the same images. A difference
counts where it is significant at 5%. Where a change should be small, it also has to reach two points. Check 4 asks for
less: two points count there, significant or not.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyrobayes.evaluation.rates import POINTS, Rate, difference, larger, matters, percent, points
from pyrobayes.evaluation.robustness import known_broken
from pyrobayes.evaluation.robustness.known_broken import KnownBroken
from pyrobayes.evaluation.robustness.sheet import ALL, BY_GRADIENT, Check, CheckResult, register
from pyrobayes.evaluation.robustness.suite import GRADIENT_FREE, ITERATIVE, SINGLE_STEP, SuiteEntry

GREY = 0.5  # eps at which every image can be made the same grey


@register
class IterativeAtLeastAsStrong(Check):
    """Many steps that find less than one follow a gradient that misleads."""

    number = 1
    name = "iterative at least as strong as single-step"
    doubts = "success rates of iterative attacks"
    concerns = (ITERATIVE,)
    work = 0.0

    def measure(self, run) -> tuple:
        return run.eps, run.broken["fgsm"], run.broken["pgd"]

    def judge(self, eps: Sequence[float], single: Tensor, iterative: Tensor) -> CheckResult:
        """Judge images [E, N] broken in a single step and in many."""
        gaps = [difference(s, i)[0] for s, i in zip(single, iterative)]
        at = max(range(len(eps)), key=lambda i: gaps[i])
        return self.result(
            not any(larger(s, i, len(eps)) for s, i in zip(single, iterative)),
            f"FGSM breaks {percent(single[at])} and PGD {percent(iterative[at])} of {single.shape[1]} images at eps "
            f"{eps[at]:g}, where PGD compares worst",
        )


@register
class NeverFalls(Check):
    """A larger ball holds the smaller one, so that a search that finds less in it fails."""

    number = 2
    name = "success never falls as eps grows"
    doubts = "success rates at the larger eps"
    concerns = ALL
    work = 0.0

    def measure(self, run) -> tuple:
        clean = (run.result("pgd")["clean"] != run.labels)[None]
        return (0.0, *run.eps), {name: torch.cat([clean, rows]) for name, rows in run.broken.items()}

    def judge(self, eps: Sequence[float], broken: Mapping[str, Tensor]) -> CheckResult:
        """Judge images [E, N] broken by each attack, as eps rises."""
        if len(eps) < 2:
            return self.result(None, "needs two eps")
        pairs = [(name, i) for name in broken for i in range(1, len(eps))]

        def told(name: str, i: int) -> str:
            before, after = (percent(broken[name][j]) for j in (i - 1, i))
            return f"{name} falls from {before} at eps {eps[i - 1]:g} to {after} at {eps[i]:g}"

        def fall(pair: tuple[str, int]) -> int:
            name, i = pair
            return int(broken[name][i - 1].sum() - broken[name][i].sum())

        falls = [(name, i) for name, i in pairs if larger(broken[name][i - 1], broken[name][i], len(pairs))]
        if falls:
            return self.result(False, "; ".join(told(*each) for each in falls))
        if fall(largest := max(pairs, key=fall)) <= 0:
            return self.result(True, f"no fall in {len(broken)} attacks")
        return self.result(
            True, f"no significant fall in {len(broken)} attacks: {told(*largest)}, the largest, may be chance"
        )


@register
class ReachesChance(Check):
    """Where every image can be made the same, nothing is left to classify by."""

    number = 3
    name = "success reaches that of guessing where every image can be made grey"
    doubts = "all success rates"
    concerns = ALL

    def measure(self, run) -> tuple:
        pgd = SuiteEntry(run.suite["pgd"].attack)
        return run.broken_of_few("pgd at 0.5", pgd, GREY), len(run.data.classes), GREY

    def judge(self, broken: Tensor, classes: int, eps: float = GREY) -> CheckResult:
        """Judge images [N] broken at an eps where an image can be made grey."""
        rate, chance = Rate.of(broken), 1 - 1 / classes
        return self.result(
            rate.share >= chance,
            f"PGD breaks {percent(rate.share)} of {rate.total} images",
            name=f"success reaches at least {percent(chance)}, that of guessing, at eps {eps:g}",
        )


@register
class Converged(Check):
    """More steps or starts that find more show that the attack ended too early."""

    number = 4
    name = "doubling steps or restarts changes success by under 2 points"
    doubts = "success rates of iterative attacks"
    concerns = (ITERATIVE,)
    work = 4.0

    def measure(self, run) -> tuple:
        return run.strengths[run.strongest], run.doubled(), run.middle, run.strongest

    def judge(self, base: Tensor, more: Mapping[str, Tensor], eps: float, attack: str = "pgd") -> CheckResult:
        """Judge success [N] of an attack, and of the same with twice the steps, or restarts."""
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


@register
class WhiteBoxStrongest(Check):
    """An attack without the gradient that finds more shows that the gradient is masked."""

    number = 5
    name = "gradient-free, transfer and noise no stronger than white-box"
    doubts = "success rates of attacks by gradients"
    concerns = BY_GRADIENT
    work = 13.0

    def measure(self, run) -> tuple:
        few = {name: rows[run.at_middle][: len(run.few)] for name, rows in run.broken.items()}
        blind = {name: each for name, each in few.items() if run.suite[name].kind == GRADIENT_FREE}
        if run.random:
            blind["square"] = run.square_of_random()
        return {name: each for name, each in few.items() if name not in blind}, blind, run.middle

    def judge(
        self,
        white_box: Mapping[str, Tensor],
        blind: Mapping[str, Tensor],
        eps: float,
        single: str = "fgsm",
        noise: str = "uniform noise",
    ) -> CheckResult:
        """Judge images [N] broken by each white-box attack, and by each that saw no gradient of the classifier.

        Where noise finds more than a single step, the gradient of that step is masked. Where another attack does, a
        single step may just be weak.
        """
        best_name, best = max(white_box.items(), key=lambda item: item[1].double().mean().item())
        together = torch.stack(list(white_box.values())).any(0)
        told = [f"the best white-box attack, {best_name}, breaks {percent(best)} of {len(best)} images at eps {eps:g}"]
        told += [self._told(name, each, int((each & ~together).sum())) for name, each in blind.items()]
        if "transfer" not in blind:
            told.append("no transfer, for want of another model")
        beaten = any(larger(each, best) for each in blind.values())
        stronger = [name for name, each in blind.items() if larger(each, white_box[single])]
        if stronger:
            why = (
                "its gradient is masked"
                if noise in stronger
                else "a single step is weak here, or its gradient is masked"
            )
            told.append(f"{single} finds less, {percent(white_box[single])}, than {' and '.join(stronger)}: {why}")
        changes = {}
        if stronger and not beaten:
            changes = {"doubts": f"success rates of {single} alone", "concerns": (SINGLE_STEP,)}
        return self.result(not (beaten or stronger), "; ".join(told), **changes)

    @staticmethod
    def _told(name: str, broken: Tensor, alone: int) -> str:
        images = f" ({alone} of them by no white-box attack)" if alone else ""
        return f"{name} breaks {percent(broken)}{images}"


@register
class Plateaus(Check):
    """A gradient averaged over more of the noise that finds more shows that the attack saw mostly noise."""

    number = 6
    name = "success plateaus as EOT and attack particles grow"
    doubts = "success rates of attacks with fewer"
    concerns = BY_GRADIENT
    work = 26.0

    def measure(self, run) -> tuple:
        return run.more_estimates() if run.random else {}, run.strengths[run.strongest], run.middle

    def judge(self, rows: Mapping[str, Sequence[tuple[int, Tensor]]], strongest: Tensor, eps: float) -> CheckResult:
        """Judge success [N] by growing numbers of estimates, or particles, beside the suite's strongest attack.

        The last doubling may add nothing, and no number may find more than the suite's strongest attack.
        """
        if not rows:
            return self.result(None, "the classifier draws nothing anew")
        if strongest.double().mean() == 1:
            return self.none_left(len(strongest), eps)
        ends = [(row[-1][1], row[-2][1]) for row in rows.values()]
        others = [(each, strongest) for row in rows.values() for _, each in row]
        told = [
            f"{name} "
            + ", ".join(f"{n}: {percent(each)}" for n, each in row)
            + f" (the last doubling {points(row[-1][1], row[-2][1])})"
            for name, row in rows.items()
        ]
        return self.result(
            not any(matters(ours, theirs) for ours, theirs in ends + others),
            f"success at eps {eps:g} by number: {'; '.join(told)}; the suite's strongest {percent(strongest)}",
        )


@register
class HoldsWhenFresh(Check):
    """An image that one draw falls for, and others don't, is luck."""

    number = 7
    name = "found with noise fixed, it holds with noise fresh"
    doubts = "success rates under fixed noise"
    concerns = ()

    def measure(self, run) -> tuple:
        return (*(run.fixed_noise() if run.latent else (None, None)), run.middle, not run.random)

    def judge(self, fixed: Tensor | None, fresh: Tensor | None, eps: float, concerned: bool = False) -> CheckResult:
        """Judge images [N] broken under the fixed noise they were found with, and their shares of fresh draws [N].

        The suite's own success rates are concerned where they were found under fixed noise too.
        """
        if fixed is None or fresh is None:
            return self.result(None, "the classifier draws nothing")
        return self.result(
            not matters(fixed, fresh),
            f"at eps {eps:g} PGD breaks {percent(fixed)} of {len(fixed)} images under the fixed noise that it was found with, "
            f"and under fresh draws {percent(fresh)} ({points(fresh, fixed)})",
            concerns=ALL if concerned else (),
        )


@register
class GradientsExist(Check):
    """An attack can't follow a gradient that is zero or not finite. One image may be so, however few there are."""

    number = 8
    name = "at most 1% of gradients zero or not finite"
    doubts = "all success rates of attacks by gradients"
    concerns = BY_GRADIENT
    work = 0.1

    def measure(self, run) -> tuple:
        return run.gradients()

    def judge(self, zero: Rate, undefined: Rate, saturated: Rate) -> CheckResult:
        """Judge the gradients that are zero, or not finite; those of the plain cross-entropy are only told."""
        return self.result(
            zero.count + undefined.count <= max(1, 0.01 * zero.total),
            f"gradients of {zero.total} images: zero {percent(zero.share)}, not finite {percent(undefined.share)} (of the "
            f"plain cross-entropy, which no attack of the suite follows, zero {percent(saturated.share)})",
        )


@register
class LossSettled(Check):
    """A loss that still rises at the last step shows that the attack ended too early."""

    number = 9
    name = "the loss rises, and no longer does at the last step"
    doubts = "success rates of iterative attacks"
    concerns = (ITERATIVE,)

    def measure(self, run) -> tuple:
        return run.losses(run.strongest), run.middle

    def judge(self, losses: Tensor, eps: float) -> CheckResult:
        """Judge the loss [steps, N], in nats: how much the last tenth of the steps adds to the whole rise."""
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


@register
class StableWhenClean(Check):
    """A prediction that changes with the draw says little about one attack's success."""

    number = 10
    name = "predictions on clean images stable under re-sampling"
    doubts = "clean accuracy, and every success that one draw decides"
    concerns = ALL
    doubts_clean = True
    work = 0.1

    def measure(self, run) -> tuple:
        return (run.flipped() if run.latent else None,)

    def judge(self, flipped: Rate | None) -> CheckResult:
        """Judge the clean images whose predicted class another draw changes."""
        if flipped is None:
            return self.result(None, "the classifier draws nothing anew")
        return self.result(
            flipped.share < POINTS,
            f"another draw of the noise changes the predictions of {percent(flipped.share)} of {flipped.total} clean images",
        )


@register
class BreaksWhatIsBroken(Check):
    """A suite that doesn't break models known to be broken, which look robust to a weak attack, proves nothing."""

    number = 11
    name = "the suite breaks models known to be broken"
    doubts = "all success rates"
    concerns = ALL
    work = 3.0

    def measure(self, run) -> tuple:
        return known_broken.attack_known_broken(run), known_broken.EPS

    def judge(self, models: Mapping[str, KnownBroken], eps: float) -> CheckResult:
        """Judge the suite's success on each model."""
        told = ", ".join(
            f"{percent(each.success.share)} of a {name} ({each.sign[0]} {percent(each.sign[1].share)})"
            for name, each in models.items()
        )
        masked = all(each.masked for each in models.values())
        return self.result(
            all(each.success.share >= 0.9 for each in models.values()) if masked else None,
            f"at eps {eps:g} the weakest iterative attack breaks {told}"
            + ("" if masked else "; not all of them came out masked, so that this would say little"),
        )


@register
class SameInOtherBatches(Check):
    """An image's result may not depend on the images beside it.

    Rounding may decide between two equally likely classes: for one image, however few there are. Many steps along signs
    amplify rounding until some images end elsewhere, so that there only the success has to be equal.
    """

    number = 12
    name = "results equal for another batch size"
    doubts = "all numbers"
    concerns = ALL

    def measure(self, run) -> tuple:
        return run.other_batches("fgsm"), run.other_batches("pgd"), run.few_labels

    def judge(
        self, single: tuple[Tensor, Tensor] | None, iterative: tuple[Tensor, Tensor] | None, labels: Tensor
    ) -> CheckResult:
        """Judge the classes [N] predicted after a single-step and an iterative attack, each in batches of two sizes."""
        if single is None or iterative is None:
            return self.result(None, "one image fits at a time")
        one, many = (Rate.of(ours != theirs) for ours, theirs in (single, iterative))
        ours, theirs = (predicted != labels for predicted in iterative)
        return self.result(
            one.count <= max(1, 0.01 * one.total) and not matters(ours, theirs) and not matters(theirs, ours),
            f"in batches of another size {one.count} of {one.total} images get another class after FGSM, and {many.count} "
            f"after PGD, whose success is {percent(ours)} and {percent(theirs)} ({points(theirs, ours)})",
        )
