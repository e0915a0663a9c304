"""Published success rates beside ours."""

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.reproduction import POSTER_IMAGES, Comparison
from pyrobayes.results.figures.style import (
    BOUNDS,
    COLOURS,
    DASHED,
    OTHER,
    STYLE,
    WIDTH,
    data_name,
    draw_intervals,
    new_figure,
)


def reproduction(found) -> Figure:
    """FGSM's success rates against eps, published and ours, beside our worst case where it is known: a panel a model.

    With 95% intervals: of one training Wilson's, of several those of the mean, see :class:`pyrobayes.evaluation.reproduction.Spread`.

    Args:
        found: as :func:`pyrobayes.results.store.read_reproduction` gives it.
    """
    comparisons: Sequence[Comparison] = found.comparisons
    seeds, judged = found.seeds, next((each.worst.images for each in comparisons if each.worst), None)
    title = f"{data_name(found.data)}; networks {found.recipe['networks']}; {'seed' if len(seeds) == 1 else 'seeds'} "
    title += f"{', '.join(map(str, seeds))}; {found.images:,} test images"
    title += f" (worst case: {judged:,})" if judged else ""
    looks = {
        "FGSM, published": {
            "color": "black",
            "linestyle": "none",
            "marker": "x",
            "markersize": 5,
            "capsize": 0,
            "zorder": 5,
        },
        "FGSM, ours": {"marker": "o", "markersize": 3.5},
        "worst case, ours": {"marker": "o", "markersize": 3.5, "markerfacecolor": "white", "linestyle": DASHED},
    }
    panels: dict[str, list[Comparison]] = {}
    for each in comparisons:
        panels.setdefault(each.model, []).append(each)
    columns = min(4, len(panels))
    rows = math.ceil((len(panels) + 1) / columns)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(WIDTH, 2.1 * rows)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, (model, shown) in zip(grid.flat, panels.items()):
            rates = {
                "FGSM, published": [
                    (each.eps, Rate.of_share(each.published, POSTER_IMAGES))
                    for each in shown
                    if each.published is not None
                ],
                "FGSM, ours": [(each.eps, each.ours) for each in shown],
                "worst case, ours": [(each.eps, each.worst) for each in shown if each.worst is not None],
            }
            for name, look in looks.items():
                draw_intervals(axes, rates[name], **{"color": COLOURS.get(model, OTHER)} | look)
            axes.set_title(model.upper() + ("" if rates["FGSM, published"] else " (not published)"), fontsize=9)
            axes.set_ylim(0, 103)
            axes.grid(axis="y", linewidth=0.4, alpha=0.5)
        for axes in grid.flat[len(panels) :]:
            axes.axis("off")
        for axes in grid.flat[: len(panels)]:
            axes.tick_params(labelbottom=True)
        shown = {name: {key: look[key] for key in look if key != "capsize"} for name, look in looks.items()}
        handles = [Line2D([], [], label=name, **{"color": OTHER} | look) for name, look in shown.items()]
        grid.flat[-1].legend(handles=handles, loc="center", fontsize=8, handlelength=3.6)
        figure.supxlabel(BOUNDS["linf"], fontsize=9)
        figure.supylabel("misclassified images (%)", fontsize=9)
        figure.suptitle(title, fontsize=9)
    return figure
