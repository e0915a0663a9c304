"""ROC curves of detection tests, and attacks that evade them."""

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pyrobayes.evaluation.detection import Detection
from pyrobayes.evaluation.rates import Rate
from pyrobayes.results.figures import style
from pyrobayes.results.names import data_name, model_name


@style.styled
def detection(results: Sequence[Detection]) -> Figure:
    """ROC curves of the tests of one model under one attack, a panel a test, a line an eps; dotted where its threshold is.

    Below, where the attack also evaded the tests: images that are misclassified and accepted, against the weight of the
    evasion, and as a band those of the attack that doesn't evade them.
    """
    plain = [result for result in results if result.options["evade"] is None]
    adaptive = [result for result in results if result.options["evade"] is not None]
    first = plain[0]
    colours = [matplotlib.colormaps["viridis"](0.75 * i / max(1, len(first.eps) - 1)) for i in range(len(first.eps))]
    figure = style.new_figure(style.WIDTH, 5.0 if adaptive else 2.8)
    grid = figure.subplots(2 if adaptive else 1, len(plain), squeeze=False)
    for axes, result in zip(grid[0], plain):
        _roc(axes, result, colours)
    for axes, result in zip(grid[1] if adaptive else (), plain):
        _evasion(axes, result, [other for other in adaptive if other.test == result.test], colours)
    grid[0, 0].set_ylabel("successful adversarial\nimages rejected (%)")
    if adaptive:
        grid[1, 0].set_ylabel("misclassified\nand accepted (%)")
    lines = [Line2D([], [], color=colour, label=rf"$\epsilon$ = {eps:g}") for colour, eps in zip(colours, first.eps)]
    upright = {"color": "black", "linestyle": "none", "marker": "|", "markersize": 9, "markeredgewidth": 0.8}
    lines.append(Line2D([], [], label="threshold", **upright))
    if adaptive:
        lines += [
            Line2D([], [], color=style.OTHER, linestyle="none", marker="o", markersize=3.5, label="evading the test"),
            Patch(facecolor=style.OTHER, alpha=0.2, linewidth=0, label="not evading it"),
        ]
    figure.legend(handles=lines, loc="outside right center", fontsize=8)
    images = f"{data_name(first.data)}, {first.false_alarms.total:,} test images"
    figure.suptitle(f"{model_name(first.model)} under {first.attack.upper()}, {images}", fontsize=9)
    return figure


def _roc(axes, result: Detection, colours: Sequence) -> None:
    alarms = range(len(result.roc[0]))
    axes.plot([0, 100], [0, 100], color="#BBBBBB", linewidth=0.8, linestyle=style.DASHED)
    for curve, success, colour in zip(result.roc, result.detected, colours):
        axes.plot(alarms, [100 * share for share in curve], color=colour, linewidth=1.4)
        ends = [Rate.of_share(share, success.total).interval for share in curve]
        low, high = ([100 * end for end in each] for each in zip(*ends))
        axes.fill_between(alarms, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.axvline(100 * result.false_alarms.share, color="black", linewidth=0.8, linestyle=style.DOTTED)
    axes.set(xlim=(0, 100), ylim=(0, 101), xlabel="clean images rejected (%)")
    name = "KL" if result.test == "kl" else result.test
    axes.set_title(f"{name} test{'' if result.meaningful else ' (without meaning)'}", fontsize=9)


def _evasion(axes, without: Detection, results: Sequence[Detection], colours: Sequence) -> None:
    weights = [result.options["evade_weight"] for result in results]
    for i, colour in enumerate(colours):
        shift = 1.08 ** (i - (len(colours) - 1) / 2)  # so that no bar hides another
        rates = [(shift * weight, result.undetected[i]) for weight, result in zip(weights, results)]
        style.draw_intervals(axes, rates, color=colour, marker="o", markersize=3.5, linestyle="none")
        low, high = without.undetected[i].interval
        axes.axhspan(100 * low, 100 * high, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(100 * without.undetected[i].share, color=colour, linewidth=0.8, linestyle=style.DOTTED)
    axes.set_xscale("log")
    axes.set_xticks(weights, [f"{weight:g}" for weight in weights])
    axes.minorticks_off()
    axes.set(ylim=(0, 101), xlabel=r"weight $\lambda$ in the attack")


@style.styled
def selective_accuracy(results: Sequence[Detection]) -> Figure:
    """Accuracy of the accepted images against the share that is accepted, of one model; a panel a test, a line an eps.

    A test accepts the images that it suspects least. Clean images are black. The line of an attack that evades the test is
    dashed, where the weight of the evasion has most images undetected. Dots are at the fitted thresholds.
    """
    plain = [result for result in results if result.options["evade"] is None and result.meaningful]
    first = plain[0]
    colours = [matplotlib.colormaps["viridis"](0.75 * i / max(1, len(first.eps) - 1)) for i in range(len(first.eps))]
    figure = style.new_figure(style.WIDTH, 2.8)
    grid = figure.subplots(1, len(plain), squeeze=False, sharey=True)[0]
    for axes, result in zip(grid, plain):
        evading = [other for other in results if other.test == result.test and other.options["evade"] is not None]
        _curve(axes, result.clean_selective, color="black", linewidth=1.4)
        for i, colour in enumerate(colours):
            lines = [(result, "-")]
            if evading:
                lines.append((max(evading, key=lambda other, i=i: other.undetected[i].share), style.DASHED))
            for each, dashes in lines:
                _curve(axes, each.selective[i], color=colour, linewidth=1.4, linestyle=dashes)
                accepted = each.accepted_accuracy[i]
                at = [100 * accepted.total / each.images], [100 * accepted.share]
                axes.plot(*at, "o", color=colour, markersize=3.5)
        axes.set(xlim=(0, 101), xlabel="accepted images (%)")
        axes.set_title(f"{'KL' if result.test == 'kl' else result.test} test", fontsize=9)
        style.rate_axis(axes, top=101)
    grid[0].set_ylabel("accuracy of the accepted (%)")
    lines = [Line2D([], [], color="black", label="clean")]
    lines += [Line2D([], [], color=colour, label=rf"$\epsilon$ = {eps:g}") for colour, eps in zip(colours, first.eps)]
    if any(result.options["evade"] is not None for result in results):
        lines.append(Line2D([], [], color=style.OTHER, linestyle=style.DASHED, label="evading the test"))
    lines.append(Line2D([], [], color=style.OTHER, linestyle="none", marker="o", markersize=3.5, label="threshold"))
    figure.legend(handles=lines, loc="outside right center", fontsize=8)
    images = f"{data_name(first.data)}, {first.images:,} test images"
    figure.suptitle(f"{model_name(first.model)} under {first.attack.upper()}, {images}", fontsize=9)
    return figure


def _curve(axes, accuracy: Sequence[float], **line) -> None:
    axes.plot(range(1, len(accuracy) + 1), [100 * share for share in accuracy], **line)
