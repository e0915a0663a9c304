"""Figure 1: success rates of attacks."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.rates import Rate
from pyrobayes.results.figures import style


@style.styled
def success_rates(results: Sequence[AttackResult]) -> Figure:
    """Figure 1: success rate against eps with 95% Wilson intervals, a panel an attack, a line a model.

    One eps alone is joined with the misclassified clean images at eps 0.
    """
    panels = {}
    for result in results:
        panels.setdefault(result.attack, []).append(result)
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    figure = style.new_figure(1.6 + 3.6 * columns, 3.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, (attack, shown) in zip(grid.flat, panels.items()):
        for result in shown:
            _success_rate(axes, result)
        first = shown[0]
        axes.set_xlabel(style.BOUNDS[first.options["norm"]])
        style.rate_axis(axes)
        title = f"{attack.upper()} success rate, {style.data_name(first.data)}, {len(first.labels):,} test images"
        axes.set_title(title if len(panels) == 1 else attack.upper(), fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("misclassified images (%)")
    axes, shown = max(zip(grid.flat, panels.values()), key=lambda panel: len(panel[1]))
    style.two_part_legend(grid[0, -1], shown, axes)
    if len(panels) > 1:
        figure.suptitle(f"Success rates, {style.data_name(first.data)}, {len(first.labels):,} test images", fontsize=9)
    return figure


def _success_rate(axes, result: AttackResult) -> None:
    rates = [(eps, result.success(i)) for i, eps in enumerate(result.eps)]
    if len(rates) == 1 and rates[0][0] > 0:  # lest the axis shows a range around it that nobody measured
        clean = result.clean_accuracy
        rates.insert(0, (0.0, Rate(clean.total - clean.count, clean.total)))
        axes.set_xticks([eps for eps, _ in rates], [f"{eps:g}" for eps, _ in rates])
    style.draw_intervals(axes, rates, **style.model_line(result))
