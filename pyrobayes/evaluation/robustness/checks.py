"""Twelve checks of an evaluation of robustness: signs of masked gradients, weak attacks and luck.

After Carlini et al. (2019), "On Evaluating Adversarial Robustness", section 3, and Tramer et al. (2020). Each is a function
of what was measured, and says what it found and which number it puts in doubt. `broken` arrays tell which images ended up
misclassified; where two attacks are compared, it is on the same images. A difference counts where it is significant at 5%, and,
where a change is to be small, from two points up; in check 4, which asks for less, from two points up whatever its interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrobayes.evaluation.rates import NORMAL_95, Rate

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "not applicable"
# What attacks may be: of one step along a gradient of the classifier attacked, of many, or blind to its gradient.
SINGLE_STEP, ITERATIVE, GRADIENT_FREE = "single-step", "iterative", "blind"
BY_GRADIENT, ALL = (SINGLE_STEP, ITERATIVE), (SINGLE_STEP, ITERATIVE, GRADIENT_FREE)
POINTS = 0.02  # a change that matters: of shares, two points


@dataclass(frozen=True)
class Check:
    """One line of the sheet.

    Attributes:
        number: 1 to 12.
        name: what should hold.
        status: `pass`, `fail` or `not applicable`.
        finding: the figures it was judged by, or why it doesn't apply.
        doubts: the number it puts in doubt where it fails.
        concerns: which attacks' success rates these are: none, or some of SINGLE_STEP, ITERATIVE and GRADIENT_FREE.
    """

    number: int
    name: str
    status: str
    finding: str
    doubts: str
    concerns: tuple[str, ...]


CONCERNS = {1: (ITERATIVE,), 2: ALL, 3: ALL, 4: (ITERATIVE,), 5: BY_GRADIENT, 6: BY_GRADIENT}
CONCERNS |= {7: (), 8: BY_GRADIENT, 9: (ITERATIVE,), 10: ALL, 11: ALL, 12: ALL}


def _check(
    number: int, name: str, doubts: str, passed: bool | None, finding: str, concerns: tuple[str, ...] | None = None
) -> Check:
    status = NOT_APPLICABLE if passed is None else PASS if passed else FAIL
    return Check(number, name, status, finding, doubts, CONCERNS[number] if concerns is None else concerns)


def difference(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """How much larger a share ours [N] is than theirs [N], and half the width of its 95% interval; the same images.

    The width is that of two images more, which together speak for each side by one half (Agresti and Min 2005, for matched
    pairs): where no image differs, a difference may still not have shown in so few.
    """
    change, n = ours.double() - theirs.double(), len(ours) + 2
    variance = (change.square().sum() + 1) / n - (change.sum() / n) ** 2
    return change.mean().item(), NORMAL_95 * math.sqrt(variance / n)


def larger(ours: Tensor, theirs: Tensor, comparisons: int = 1) -> bool:
    """Whether a share is larger by more than chance, at a level of 5% over so many comparisons.

    Of broken images by the exact test of McNemar (1947), of shares of draws by the interval of the mean difference.
    """
    if ours.dtype != torch.bool or theirs.dtype != torch.bool:
        gap, half = difference(ours, theirs)
        return gap > half and gap > 0
    more, fewer = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    if more <= fewer:
        return False
    ways = as_uneven = 1  # to have none, and up to `fewer`, of 2^differing ways
    for k in range(fewer):
        ways = ways * (more + fewer - k) // (k + 1)
        as_uneven += ways
    return 20 * comparisons * 2 * as_uneven <= 2 ** (more + fewer)


def matters(ours: Tensor, theirs: Tensor) -> bool:
    """Whether a share is larger by two points, and by more than chance."""
    return larger(ours, theirs) and difference(ours, theirs)[0] >= POINTS


def points(ours: Tensor, theirs: Tensor) -> str:
    """How much larger a share ours [N] is, in points, with its 95% interval."""
    gap, half = difference(ours, theirs)
    return f"{100 * gap:+.1f} ± {100 * half:.1f} points"


def _all_broken(images: int, eps: float) -> str:
    return f"all of {images} images are broken at eps {eps:g}, where no attack could find more: judge a smaller one too"


def percent(share: float | Tensor) -> str:
    """A share in per cent, or that of broken images [N]."""
    return f"{100 * (share.double().mean().item() if isinstance(share, Tensor) else share):.1f}%"


def iterative_at_least_as_strong(eps: Sequence[float], single: Tensor, iterative: Tensor) -> Check:
    """1, from broken images [E, N] of a single-step and an iterative attack."""
    gaps = [difference(s, i)[0] for s, i in zip(single, iterative)]
    worst = max(range(len(eps)), key=lambda i: gaps[i])
    return _check(
        1,
        "iterative at least as strong as single-step",
        "success rates of iterative attacks",
        not any(larger(s, i, len(eps)) for s, i in zip(single, iterative)),
        f"FGSM {percent(single[worst])}, PGD {percent(iterative[worst])} "
        f"at eps {eps[worst]:g}, where they compare worst",
    )


def never_falls(eps: Sequence[float], broken: Mapping[str, Tensor]) -> Check:
    """2, from broken images [E, N] of every attack, eps rising."""
    steps = [(name, i) for name in broken for i in range(1, len(eps))]
    falls = [(name, i) for name, i in steps if larger(broken[name][i - 1], broken[name][i], len(steps))]
    found = "; ".join(
        f"{name} falls from {percent(broken[name][i - 1])} at eps {eps[i - 1]:g} to "
        f"{percent(broken[name][i])} at {eps[i]:g}"
        for name, i in falls
    )
    return _check(
        2,
        "success never falls as eps grows",
        "success rates at the larger eps",
        None if len(eps) < 2 else not falls,
        "needs two eps" if len(eps) < 2 else found or f"no fall in {len(broken)} attacks",
    )


def reaches_chance(broken: Tensor, classes: int, eps: float = 0.5) -> Check:
    """3, from the broken images [N] at an eps where an image can be made grey."""
    rate, chance = Rate.of(broken), 1 - 1 / classes
    return _check(
        3,
        f"success reaches at least {percent(chance)}, that of guessing, at eps {eps:g}",
        "all success rates",
        rate.share >= chance,
        f"{percent(rate.share)} of {rate.total} images",
    )


def converged(base: Tensor, more: Mapping[str, Tensor], eps: float, of: str = "pgd") -> Check:
    """4, from the images [N] that an attack broke, or the shares of draws in which it did; and with twice the steps, or restarts."""
    name, doubts = "doubling steps or restarts changes success by under 2 points", "success rates of iterative attacks"
    if base.double().mean() == 1:
        return _check(4, name, doubts, None, _all_broken(len(base), eps))
    changes = {name: difference(each, base) for name, each in more.items()}
    found = "; ".join(f"{name} {percent(each)} ({points(each, base)})" for name, each in more.items())
    changed = [name for name, (gap, _) in changes.items() if abs(gap) >= POINTS]
    unsettled = any(abs(gap) + half >= POINTS for gap, half in changes.values())
    chance = changed and all(abs(changes[name][0]) <= changes[name][1] for name in changed)
    return _check(
        4,
        name,
        doubts,
        not changed,
        f"{of} {percent(base)} of {len(base)} images at eps {eps:g}; {found}"
        + (", which may be chance on so few images" if chance else "")
        + ("; so few images don't show that it is under 2 points" if unsettled and not changed else ""),
    )


def white_box_strongest(
    white_box: Mapping[str, Tensor],
    blind: Mapping[str, Tensor],
    eps: float,
    single: str = "fgsm",
    noise: str = "uniform noise",
) -> Check:
    """5, from broken images [N] of each white-box attack, and of each that saw no gradient of the one attacked.

    Where noise beats the one of a single step, this one's gradient is masked; where another does, it may be that one step is
    not enough.
    """
    name, best = max(white_box.items(), key=lambda item: item[1].double().mean().item())
    together = torch.stack(list(white_box.values())).any(0)
    found = ", ".join(
        f"{name} {percent(each)} ({int((each & ~together).sum())} images all white-box ones left)"
        for name, each in blind.items()
    )
    beaten = any(larger(each, best) for each in blind.values())
    stronger = [other for other, each in blind.items() if larger(each, white_box[single])]
    masked = f"; {single} finds less, {percent(white_box[single])}, than {' and '.join(stronger)}: " + (
        "its gradient is masked" if noise in stronger else "a single step is weak here, or its gradient is masked"
    )
    single_alone = bool(stronger) and not beaten
    none = "" if "transfer" in blind else "; no transfer, for want of another model"
    return _check(
        5,
        "gradient-free, transfer and noise no stronger than white-box",
        f"success rates of {single} alone" if single_alone else "success rates of attacks by gradients",
        not (beaten or stronger),
        f"the best white-box, {name}, {percent(best)} at eps {eps:g}; {found}{none}{masked if stronger else ''}",
        (SINGLE_STEP,) if single_alone else BY_GRADIENT,
    )


def plateaus(rows: Mapping[str, Sequence[tuple[int, Tensor]]], strongest: Tensor, eps: float) -> Check:
    """6, from the images [N] broken, or the shares of draws in which they are, by growing numbers of estimates, or particles.

    Of so many is the gradient of the attack. The last doubling of neither may add anything, and none may be above the
    strongest attack of the suite.
    """
    name, doubts = "success plateaus as EOT and attack particles grow", "success rates of attacks with fewer"
    if not rows:
        return _check(6, name, doubts, None, "the classifier draws nothing anew")
    if strongest.double().mean() == 1:
        return _check(6, name, doubts, None, _all_broken(len(strongest), eps))
    ends = [(row[-1][1], row[-2][1]) for row in rows.values()]
    others = [(each, strongest) for row in rows.values() for _, each in row]
    rising = any(matters(ours, theirs) for ours, theirs in ends + others)
    found = "; ".join(
        f"{name} "
        + ", ".join(f"{n}: {percent(each)}" for n, each in row)
        + f" (the last doubling {points(row[-1][1], row[-2][1])})"
        for name, row in rows.items()
    )
    found += f"; the suite's strongest {percent(strongest)}"
    return _check(6, name, doubts, not rising, f"at eps {eps:g}: {found}")


def holds_when_fresh(fixed: Tensor | None, fresh: Tensor | None, eps: float, concerned: bool = False) -> Check:
    """7, from what is broken under the fixed noise that it was found with [N], and the share of fresh draws [N] it is in.

    The success rates beside it are concerned where they were found under fixed noise too.
    """
    name, doubts = "found with noise fixed, it holds with noise fresh", "success rates under fixed noise"
    if fixed is None or fresh is None:
        return _check(7, name, doubts, None, "the classifier draws nothing")
    return _check(
        7,
        name,
        doubts,
        not matters(fixed, fresh),
        f"at eps {eps:g} {percent(fixed)} under the noise it was found with, {percent(fresh)} under fresh draws "
        f"({points(fresh, fixed)})",
        ALL if concerned else (),
    )


def gradients_exist(zero: Rate, undefined: Rate, saturated: Rate) -> Check:
    """8, from the images whose gradient is zero, or not finite; and is zero of the plain cross-entropy.

    One image may be so, of however few.
    """
    bad = zero.count + undefined.count
    return _check(
        8,
        "at most 1% of gradients zero or not finite",
        "all success rates of attacks by gradients",
        bad <= max(1, 0.01 * zero.total),
        f"zero {percent(zero.share)}, not finite {percent(undefined.share)} of {zero.total} images "
        f"(of the plain cross-entropy, which is not what is climbed, zero {percent(saturated.share)})",
    )


def loss_settled(losses: Tensor, eps: float) -> Check:
    """9, from the loss [steps, N], in nats, at every step of an attack: what its last tenth adds to its whole rise."""
    name, doubts = "the loss rises, and no longer does at the last step", "success rates of iterative attacks"
    mean = losses.double().mean(1)
    if len(mean) < 10:
        return _check(9, name, doubts, None, f"needs the loss at ten steps to tell, got it at {len(mean)}")
    tail = len(mean) // 10
    before, last = mean[-2 * tail : -tail].mean().item(), mean[-tail:].mean().item()
    rise = last - mean[0].item()
    if not rise > 0:
        return _check(
            9, name, doubts, False, f"from the first of {len(mean)} steps to the last it changes by {rise:g} nats"
        )
    share = (last - before) / rise
    return _check(
        9,
        name,
        doubts,
        share < 0.05,
        f"the last tenth of {len(mean)} steps at eps {eps:g} adds {percent(share)} of a rise of {rise:.1f} nats",
    )


def stable_when_clean(changed: Rate | None) -> Check:
    """10, from the clean images whose predicted class is another one with another draw."""
    name = "predictions on clean images stable under re-sampling"
    doubts = "clean accuracy, and every success that one draw decides"
    if changed is None:
        return _check(10, name, doubts, None, "the classifier draws nothing anew")
    return _check(
        10,
        name,
        doubts,
        changed.share < POINTS,
        f"{percent(changed.share)} of {changed.total} change with another draw",
    )


@dataclass(frozen=True)
class Broken:
    """A model that is known to be broken.

    Attributes:
        success: of the weakest of the attacks.
        sign: what shows that its gradient is masked, and of how many images.
        masked: whether it does.
    """

    success: Rate
    sign: tuple[str, Rate]
    masked: bool


def breaks_what_is_broken(models: Mapping[str, Broken], eps: float) -> Check:
    """11, from the success of the suite's attacks on models that are known to be broken, and look robust to a weak one."""
    found = ", ".join(
        f"{name} {percent(each.success.share)} ({each.sign[0]} {percent(each.sign[1].share)})"
        for name, each in models.items()
    )
    masked = all(each.masked for each in models.values())
    return _check(
        11,
        "the suite breaks models known to be broken",
        "all success rates",
        all(each.success.share >= 0.9 for each in models.values()) if masked else None,
        f"{found} at eps {eps:g}" + ("" if masked else "; not all of them came out masked, which would say little"),
    )


def same_in_other_batches(
    single: tuple[Tensor, Tensor] | None, iterative: tuple[Tensor, Tensor] | None, labels: Tensor
) -> Check:
    """12, from the classes [N] predicted after a single-step and an iterative attack, each in batches of two sizes.

    Many steps along signs amplify rounding until some images end elsewhere, so that of these the success has to be equal.
    """
    if single is None or iterative is None:
        return _check(12, "results equal for another batch size", "all numbers", None, "one image fits at a time")
    one, many = (Rate.of(ours != theirs) for ours, theirs in (single, iterative))
    ours, theirs = (predicted != labels for predicted in iterative)
    return _check(
        12,
        "results equal for another batch size",
        "all numbers",
        # Rounding may decide between two classes that are as good as equal: of one image, of however few.
        one.count <= max(1, 0.01 * one.total) and not matters(ours, theirs) and not matters(theirs, ours),
        f"{one.count} of {one.total} images are predicted otherwise after FGSM, and {many.count} after PGD, whose success "
        f"is {percent(ours)} and {percent(theirs)} ({points(theirs, ours)})",
    )


def zero_or_undefined(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the gradients [N, ...] are zero, and which aren't finite, [N] each."""
    flat = gradients.flatten(1)
    return (flat == 0).all(1), ~torch.isfinite(flat).all(1)
