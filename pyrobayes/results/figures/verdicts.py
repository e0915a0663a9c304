"""Robust accuracy, for one verdict and for several."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.robustness.suite import GRADIENT_FREE, ITERATIVE, SINGLE_STEP
from pyrobayes.evaluation.robustness.verdict import WORST, Verdict
from pyrobayes.results.figures import style

# Attacks are grey: the model's colour is for FGSM, dotted, and for the worst case.
ATTACKS = {
    "pgd": ("#000000", "s"),
    "apgd, snapshot": ("#3C3C3C", "D"),
    "apgd, margin": ("#3C3C3C", "D"),
    "pgd, mixture": ("#6C6C6C", "v"),
    "pgd, logit matching": ("#969696", "<"),
    "pgd, p(y|...) alone": ("#BEBEBE", ">"),
    "uniform noise": ("#B4B4B4", "P"),
    "square": ("#7C7C7C", "X"),
    "transfer": ("#404040", "*"),
}


@style.styled
def robustness(verdict: Verdict) -> Figure:
    """Robust accuracy against eps with 95% intervals: a line an attack, one for the worst case, one for it in most further draws.

    The numbers beside a name are the failed checks that put it in doubt.
    """
    figure = style.new_figure(style.WIDTH, 3.6)
    axes = figure.subplots()
    own = style.COLOURS.get(verdict.model, style.OTHER)
    for name in verdict.success:
        colour, marker = (own, "o") if name == "fgsm" else ATTACKS.get(name, (style.OTHER, "h"))
        line = {SINGLE_STEP: style.DOTTED, ITERATIVE: "-", GRADIENT_FREE: style.DASHED}[verdict.kinds[name]]
        _robust_accuracy(
            axes, verdict, verdict.rows[name], label=_with_doubts(verdict, name), color=colour, marker=marker, markersize=4,
            linestyle=line, linewidth=1.2, elinewidth=0.6, capsize=1.5,
        )  # fmt: skip
    look = {"color": own, "linewidth": 2.2, "elinewidth": 1, "capsize": 3}
    _robust_accuracy(axes, verdict, verdict.worst, label=_with_doubts(verdict, WORST), **look)
    if verdict.broken_in_most is not None:
        label = _with_doubts(verdict, WORST, "the same in most of\nfurther draws")
        _robust_accuracy(axes, verdict, verdict.broken_in_most, label=label, linestyle=style.DASHED, **look)
    _eps_axis(axes, verdict)
    axes.set_ylabel("images classified correctly (%)")
    axes.legend(
        fontsize=7.5, title="attack (failed checks)", title_fontsize=7.5, loc="center left",
        bbox_to_anchor=(1.01, 0.5), handlelength=3,
    )  # fmt: skip
    axes.set_title(
        f"{verdict.model.upper()}, {style.data_name(verdict.data)}, {verdict.images:,} test images", fontsize=9
    )
    return figure


def _eps_axis(axes, verdict: Verdict) -> None:
    """Ticks at eps 0 and at every measured eps; accuracy from 0 to 100%."""
    axes.set_xticks([0, *(eps for eps in verdict.eps if eps)])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(style.BOUNDS["linf"])
    style.rate_axis(axes, top=101)


@style.styled
def worst_cases(verdicts: Sequence[Verdict]) -> Figure:
    """Robust accuracy of several models against eps, with 95% intervals: under FGSM alone, and in the worst case.

    The numbers beside a model's name are the failed checks that put its worst case in doubt.
    """
    figure = style.new_figure(style.WIDTH, 3.4)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, row in zip(panels, ("fgsm", WORST)):
        for verdict in verdicts:
            label = _with_doubts(verdict, WORST, verdict.model.upper())
            _robust_accuracy(axes, verdict, verdict.rows[row], **style.model_line(verdict) | {"label": label})
        _eps_axis(axes, verdicts[0])
        axes.set_title("FGSM alone" if row == "fgsm" else "worst case of all attacks", fontsize=9)
    panels[0].set_ylabel("images classified correctly (%)")
    style.two_part_legend(panels[1], verdicts)
    first = verdicts[0]
    said = "in brackets: failed checks that put the worst case in doubt"
    figure.suptitle(f"{style.data_name(first.data)}, {first.images:,} test images; {said}", fontsize=8)
    return figure


def _robust_accuracy(axes, verdict: Verdict, broken: Sequence[Rate], **line) -> None:
    """The images that stay classified correctly when so many are broken at every eps, with intervals, from eps 0 on."""
    at = dict(zip(verdict.eps, broken))
    broken = {0.0: Rate(verdict.images - verdict.clean_accuracy.count, verdict.images)} | {e: at[e] for e in at if e}
    style.draw_intervals(
        axes, [(eps, Rate(rate.total - rate.count, rate.total)) for eps, rate in broken.items()], **line
    )


def _with_doubts(verdict: Verdict, row: str, name: str | None = None) -> str:
    doubts = verdict.doubts(row)
    return f"{name or row} ({', '.join(map(str, doubts))})" if doubts else name or row
