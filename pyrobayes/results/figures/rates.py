"""Success rates and robust accuracy against eps: of attacks (figure 1), of verdicts, and beside the published ones."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.reproduction import POSTER_IMAGES, Comparison
from pyrobayes.evaluation.robustness.suite import GRADIENT_FREE, ITERATIVE, SINGLE_STEP
from pyrobayes.evaluation.robustness.verdict import WORST, Verdict
from pyrobayes.results.figures import style
from pyrobayes.results.names import data_name, model_name
from pyrobayes.results.tables import grouped

# Attacks are grey: the model's colour is for FGSM, dotted, and for the worst case.
ATTACKS = {
    "pgd": ("#000000", "s"),
    "eot-mim": ("#3C3C3C", "D"),
    "apgd, snapshot": ("#3C3C3C", "D"),  # of verdicts before there was eot-mim
    "apgd, margin": ("#3C3C3C", "D"),
    "pgd, mixture": ("#6C6C6C", "v"),
    "pgd, logit matching": ("#969696", "<"),
    "pgd, p(y|...) alone": ("#BEBEBE", ">"),
    "eot-mim, p(y|...) alone": ("#BEBEBE", ">"),
    "uniform noise": ("#B4B4B4", "P"),
    "square": ("#7C7C7C", "X"),
    "transfer": ("#404040", "*"),
}
KINDS = {SINGLE_STEP: style.DOTTED, ITERATIVE: "-", GRADIENT_FREE: style.DASHED}
PUBLISHED, OURS, COMPARED_WORST = "FGSM, published", "FGSM, ours", "worst case, ours"
LOOKS = {
    PUBLISHED: {"color": "black", "linestyle": "none", "marker": "x", "markersize": 5, "zorder": 5},
    OURS: {"marker": "o", "markersize": 3.5},
    COMPARED_WORST: {"marker": "o", "markersize": 3.5, "markerfacecolor": "white", "linestyle": style.DASHED},
}


@style.styled
def success_rates(results: Sequence[AttackResult]) -> Figure:
    """Figure 1: success rate against eps with 95% Wilson intervals, a panel an attack, a line a model.

    One eps alone is joined with the misclassified clean images at eps 0.
    """
    panels = grouped((result.attack, result) for result in results)
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    figure = style.new_figure(1.6 + 3.6 * columns, 3.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    images = f"{data_name(results[0].data)}, {results[0].images:,} test images"
    for axes, (attack, shown) in zip(grid.flat, panels.items()):
        for result in shown:
            _success_rate(axes, result)
        axes.set_xlabel(style.BOUNDS[shown[0].options["norm"]])
        style.rate_axis(axes)
        axes.set_title(attack.upper() + (f" success rate, {images}" if len(panels) == 1 else ""), fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("misclassified images (%)")
    axes, shown = max(zip(grid.flat, panels.values()), key=lambda panel: len(panel[1]))
    style.two_part_legend(grid[0, -1], shown, axes)
    if len(panels) > 1:
        figure.suptitle(f"Success rates, {images}", fontsize=9)
    return figure


def _success_rate(axes, result: AttackResult) -> None:
    rates = [(eps, result.success(i)) for i, eps in enumerate(result.eps)]
    if len(rates) == 1 and rates[0][0] > 0:  # lest the axis shows a range around it that nobody measured
        rates.insert(0, (0.0, _others(result.clean_accuracy)))
        axes.set_xticks([eps for eps, _ in rates], [f"{eps:g}" for eps, _ in rates])
    style.draw_intervals(axes, rates, **style.model_line(result))


@style.styled
def reproduction(found) -> Figure:
    """FGSM's success rates against eps, published and ours, beside our worst case where it is known: a panel a model.

    Bars are 95% intervals: Wilson's for one training, those of the mean for several, see
    :class:`pyrobayes.evaluation.reproduction.Spread`.

    Args:
        found: a :class:`pyrobayes.results.store.SavedReproduction`.
    """
    panels = grouped((each.model, each) for each in found.comparisons)
    columns = min(4, len(panels))
    rows = math.ceil((len(panels) + 1) / columns)
    figure = style.new_figure(style.WIDTH, 2.1 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (model, shown) in zip(grid.flat, panels.items()):
        _compared(axes, model, shown)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    handles = [Line2D([], [], label=name, **{"color": style.OTHER} | look) for name, look in LOOKS.items()]
    grid.flat[-1].legend(handles=handles, loc="center", fontsize=8, handlelength=3.6)
    figure.supxlabel(style.BOUNDS["linf"], fontsize=9)
    figure.supylabel("misclassified images (%)", fontsize=9)
    judged = next((f" (worst case: {each.worst.images:,})" for each in found.comparisons if each.worst), "")
    seeds = f"{'seed' if len(found.seeds) == 1 else 'seeds'} {', '.join(map(str, found.seeds))}"
    networks, images = f"networks {found.recipe['networks']}", f"{found.images:,} test images{judged}"
    figure.suptitle("; ".join([data_name(found.data), networks, seeds, images]), fontsize=9)
    return figure


def _compared(axes, model: str, shown: Sequence[Comparison]) -> None:
    rates = {
        PUBLISHED: [(e.eps, Rate.of_share(e.published, POSTER_IMAGES)) for e in shown if e.published is not None],
        OURS: [(each.eps, each.ours) for each in shown],
        COMPARED_WORST: [(each.eps, each.worst) for each in shown if each.worst is not None],
    }
    for name, look in LOOKS.items():
        caps = {"capsize": 0 if name == PUBLISHED else 2}
        style.draw_intervals(axes, rates[name], **{"color": style.colour(model)} | look | caps)
    axes.set_title(model_name(model) + ("" if rates[PUBLISHED] else " (not published)"), fontsize=9)
    style.rate_axis(axes)
    axes.tick_params(labelbottom=True)


@style.styled
def robustness(verdict: Verdict) -> Figure:
    """Robust accuracy against eps with 95% intervals: a line an attack, one for the worst case, one for it in most further draws.

    The numbers beside a name are the failed checks that put it in doubt.
    """
    figure = style.new_figure(style.WIDTH, 3.6)
    axes, own = figure.subplots(), style.colour(verdict.model)
    for name, rates in verdict.success.items():
        colour, marker = (own, "o") if name == "fgsm" else ATTACKS.get(name, (style.OTHER, "h"))
        look = {"color": colour, "marker": marker, "markersize": 4, "linestyle": KINDS[verdict.kinds[name]]}
        look |= {"linewidth": 1.2, "elinewidth": 0.6, "capsize": 1.5}
        _robust_accuracy(axes, verdict, rates, label=_with_doubts(verdict, name), **look)
    look = {"color": own, "linewidth": 2.2, "elinewidth": 1, "capsize": 3}
    judged = "worst case in most\nfurther draws" if verdict.broken_in_most else WORST
    _robust_accuracy(axes, verdict, verdict.headline, label=_with_doubts(verdict, WORST, judged), **look)
    if verdict.broken_in_most is not None:
        label = _with_doubts(verdict, WORST, "worst case where one\ndraw is enough")
        _robust_accuracy(
            axes, verdict, verdict.worst, label=label, **look | {"linestyle": style.DASHED, "linewidth": 1.2}
        )
    _eps_axis(axes, verdict)
    axes.set_ylabel("images classified correctly (%)")
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "handlelength": 3}
    axes.legend(fontsize=7.5, title="attack (failed checks)", title_fontsize=7.5, **place)
    images = f"{data_name(verdict.data)}, {verdict.images:,} test images"
    axes.set_title(f"{model_name(verdict.model)}, {images}", fontsize=9)
    return figure


@style.styled
def worst_cases(verdicts: Sequence[Verdict]) -> Figure:
    """Robust accuracy of several models against eps, with 95% intervals: under FGSM alone, and in the worst case.

    The numbers beside a model's name are the failed checks that put its worst case in doubt.
    """
    figure = style.new_figure(style.WIDTH, 3.4)
    panels = figure.subplots(1, 2, sharey=True)
    judged = [verdict.broken_in_most is not None for verdict in verdicts]
    said = "" if not any(judged) else " in most further draws" if all(judged) else " (if random, in most further draws)"
    alone, worst = "FGSM alone", f"worst case{said}"
    for axes, title in zip(panels, (alone, worst)):
        for verdict in verdicts:
            label = _with_doubts(verdict, WORST, model_name(verdict.model))
            broken = verdict.success["fgsm"] if title == alone else verdict.headline
            _robust_accuracy(axes, verdict, broken, **style.model_line(verdict) | {"label": label})
        _eps_axis(axes, verdicts[0])
        axes.set_title(title, fontsize=9)
    panels[0].set_ylabel("images classified correctly (%)")
    style.two_part_legend(panels[1], verdicts)
    images = f"{data_name(verdicts[0].data)}, {verdicts[0].images:,} test images"
    figure.suptitle(f"{images}; in brackets: failed checks that put the worst case in doubt", fontsize=8)
    return figure


@style.styled
def budget(verdict: Verdict) -> Figure:
    """Misclassified further draws against the gradients that the strongest attack may compute; a line marks the suite's."""
    found = verdict.budget
    figure = style.new_figure(4.2, 3.0)
    axes = figure.subplots()
    axes.plot(found.gradients, [100 * share for share in found.shares], color=style.colour(verdict.model), marker="o")
    axes.axvline(found.spent, color="#969696", linestyle=style.DOTTED)
    axes.annotate("the suite's", (found.spent, 2), textcoords="offset points", xytext=(3, 0), fontsize=7.5)
    axes.set_xscale("log")
    axes.set_xticks(found.gradients, [f"{each:,}" for each in found.gradients])
    axes.minorticks_off()
    axes.set_xlabel("gradients of one particle of one class, for an image")
    axes.set_ylabel("misclassified (% of further draws)" if verdict.broken_in_most else "misclassified images (%)")
    style.rate_axis(axes, top=101)
    axes.set_title(
        f"{model_name(verdict.model)}, {found.attack} at eps {found.eps:g}, {found.images:,} images", fontsize=9
    )
    return figure


def _eps_axis(axes, verdict: Verdict) -> None:
    """Ticks at eps 0 and at every measured eps; accuracy from 0 to 100%."""
    ticks, told = [0.0, *filter(None, verdict.eps)], []
    for eps in reversed(ticks):  # a label that would touch its right neighbour is left out
        if not told or told[-1] - eps > ticks[-1] / 8:
            told.append(eps)
    axes.set_xticks(ticks, [f"{eps:g}" if eps in told else "" for eps in ticks])
    axes.set_xlabel(style.BOUNDS["linf"])
    style.rate_axis(axes, top=101)


def _robust_accuracy(axes, verdict: Verdict, broken: Sequence[Rate], **line) -> None:
    """The images that stay classified correctly when so many are broken at every eps, with intervals, from eps 0 on."""
    stay = [(eps, _others(rate)) for eps, rate in zip(verdict.eps, broken) if eps]
    style.draw_intervals(axes, [(0.0, verdict.clean_accuracy), *stay], **line)


def _others(rate: Rate) -> Rate:
    return Rate(rate.total - rate.count, rate.total)


def _with_doubts(verdict: Verdict, row: str, name: str | None = None) -> str:
    return f"{name or row} ({verdict.doubted(row)})" if verdict.doubts(row) else name or row
