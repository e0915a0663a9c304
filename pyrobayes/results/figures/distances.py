"""Accuracy against the distance of the nearest adversarial images."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.results.figures import style
from pyrobayes.results.names import data_name
from pyrobayes.results.tables import NORMS, grouped

AXES = {"l0": "distance ($L_0$, changed pixel values)", "area": "distance (share of the image)"}
AXES |= {
    norm: f"distance (${symbol}$, pixels in [0, 1])"
    for norm, symbol in (("linf", r"L_\infty"), ("l2", "L_2"), ("l1", "L_1"))
}
BEYOND = 1.05  # of the furthest distance, to the right end


@style.styled
def distances(results: Sequence[AttackResult]) -> Figure:
    """Accuracy against distance: a panel an attack and norm, a line a model, with 95% Wilson intervals.

    A line falls at the distance of each image, and ends level with the images for which nothing was found.
    """
    panels = grouped(((result.attack, result.options.get("norm", "l2")), result) for result in results)
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    figure = style.new_figure(1.6 + 2.9 * columns, 0.4 + 2.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, ((attack, norm), shown) in zip(grid.flat, panels.items()):
        furthest = max((d for each in shown for d in each.distances if d < math.inf), default=1.0) * BEYOND
        for result in shown:
            _accuracy(axes, result, furthest)
        axes.set_xlabel(AXES[norm])
        axes.set_xlim(0, furthest or 1.0)
        style.rate_axis(axes, top=101)
        axes.set_title(f"{attack.upper()}, {NORMS[norm]}", fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("images classified correctly (%)")
    axes, shown = max(zip(grid.flat, panels.values()), key=lambda panel: len(panel[1]))
    style.two_part_legend(grid[0, -1], shown, axes)
    figure.suptitle(f"{data_name(results[0].data)}, {results[0].images:,} test images", fontsize=9)
    return figure


def _accuracy(axes, result: AttackResult, furthest: float) -> None:
    """Accuracy within every distance, as steps in per cent."""
    places = sorted({0.0, furthest, *(distance for distance in result.distances if distance < math.inf)})
    rates = [result.accuracy_within(place) for place in places]
    line = style.model_line(result)
    look = {name: line[name] for name in ("label", "color", "linestyle", "linewidth")}
    axes.step(places, [100 * rate.share for rate in rates], where="post", **look)
    low, high = zip(*(rate.interval for rate in rates))
    band = {"step": "post", "color": look["color"], "alpha": 0.12, "linewidth": 0}
    axes.fill_between(places, [100 * each for each in low], [100 * each for each in high], **band)
