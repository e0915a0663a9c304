"""Published success rates beside ours."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.reproduction import POSTER_IMAGES, Comparison
from pyrobayes.results.figures import style

PUBLISHED, OURS, WORST = "FGSM, published", "FGSM, ours", "worst case, ours"
LOOKS = {
    PUBLISHED: {"color": "black", "linestyle": "none", "marker": "x", "markersize": 5, "zorder": 5},
    OURS: {"marker": "o", "markersize": 3.5},
    WORST: {"marker": "o", "markersize": 3.5, "markerfacecolor": "white", "linestyle": style.DASHED},
}


@style.styled
def reproduction(found) -> Figure:
    """FGSM's success rates against eps, published and ours, beside our worst case where it is known: a panel a model.

    Bars are 95% intervals: Wilson's for one training, those of the mean for several, see
    :class:`pyrobayes.evaluation.reproduction.Spread`.

    Args:
        found: a :class:`pyrobayes.results.store.SavedReproduction`.
    """
    panels: dict[str, list[Comparison]] = {}
    for each in found.comparisons:
        panels.setdefault(each.model, []).append(each)
    columns = min(4, len(panels))
    rows = math.ceil((len(panels) + 1) / columns)
    figure = style.new_figure(style.WIDTH, 2.1 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (model, shown) in zip(grid.flat, panels.items()):
        _panel(axes, model, shown)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    handles = [Line2D([], [], label=name, **{"color": style.OTHER} | look) for name, look in LOOKS.items()]
    grid.flat[-1].legend(handles=handles, loc="center", fontsize=8, handlelength=3.6)
    figure.supxlabel(style.BOUNDS["linf"], fontsize=9)
    figure.supylabel("misclassified images (%)", fontsize=9)
    figure.suptitle(_title(found), fontsize=9)
    return figure


def _panel(axes, model: str, shown: Sequence[Comparison]) -> None:
    rates = {
        PUBLISHED: [(e.eps, Rate.of_share(e.published, POSTER_IMAGES)) for e in shown if e.published is not None],
        OURS: [(each.eps, each.ours) for each in shown],
        WORST: [(each.eps, each.worst) for each in shown if each.worst is not None],
    }
    for name, look in LOOKS.items():
        caps = {"capsize": 0} if name == PUBLISHED else {}
        style.draw_intervals(axes, rates[name], **{"color": style.COLOURS.get(model, style.OTHER)} | look | caps)
    axes.set_title(model.upper() + ("" if rates[PUBLISHED] else " (not published)"), fontsize=9)
    style.rate_axis(axes)
    axes.tick_params(labelbottom=True)


def _title(found) -> str:
    judged = next((each.worst.images for each in found.comparisons if each.worst), None)
    seeds = f"{'seed' if len(found.seeds) == 1 else 'seeds'} {', '.join(map(str, found.seeds))}"
    title = f"{style.data_name(found.data)}; networks {found.recipe['networks']}; {seeds}; {found.images:,} test images"
    return title + (f" (worst case: {judged:,})" if judged else "")
