"""The effect of the number of particles."""

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from pyrobayes.evaluation.particles import Effect, references
from pyrobayes.results.figures.style import DOTTED, STYLE, WIDTH, data_name, draw_intervals, model_line, new_figure


def particles(effects: Sequence[Effect]) -> Figure:
    """What the number of particles does, a line a model and estimator, with 95% intervals.

    The bias of log p(x, y) is told against the estimate of the same model that most particles serve; of Pareto k the median, with bars
    that hold nine tenths of images and classes.
    """
    lines: dict[tuple[str, str], list[Effect]] = {}
    for effect in effects:
        lines.setdefault((effect.model, effect.estimator), []).append(effect)
    best = references(effects)
    counts = sorted({effect.particles for effect in effects})
    several = len({estimator for _, estimator in lines}) > 1
    with matplotlib.rc_context(STYLE):
        figure = new_figure(WIDTH, 4.6)
        grid = figure.subplots(2, 3).flatten()
        names = (
            "correct (%)",
            "changed by another draw (%)",
            "effective sample size",
            "bias of log p(x, y) (nats)",
            "Pareto k",
        )
        for axes, name in zip(grid, names):
            axes.set_xscale("log")
            axes.set_xticks(counts, counts, fontsize=7)
            axes.minorticks_off()
            axes.set_xlabel("particles K")
            axes.set_ylabel(name, fontsize=8)
            axes.grid(axis="y", linewidth=0.4, alpha=0.5)
        grid[2].set_yscale("log")
        grid[2].set_yticks(counts, counts)
        grid[2].minorticks_off()
        grid[4].axhline(0.7, color="black", linewidth=0.8, linestyle=DOTTED)
        for i, ((model, estimator), shown) in enumerate(lines.items()):
            first = shown[0]
            look = model_line(first) | {"linewidth": 1.2, "elinewidth": 0.7, "capsize": 1.5, "markersize": 3.5}
            look |= {"linestyle": DOTTED} if estimator == "mixture" else {}
            look |= {"label": f"{model.upper()}, {estimator}"} if several else {}
            apart = 1.04 ** (i - (len(lines) - 1) / 2)  # so that no bar hides another
            at = [apart * effect.particles for effect in shown]
            for axes, what in zip(grid, ("accuracy", "changed")):
                rates = [getattr(effect, what) for effect in shown]
                draw_intervals(axes, list(zip(at, rates)), **look)
            for axes, means in (
                (grid[2], [effect.effective_sample_size for effect in shown]),
                (grid[3], [effect.bias(best[model]) for effect in shown]),
            ):
                axes.errorbar(at, [mean.value for mean in means], [mean.half for mean in means], **look)
            if tails := [(k, effect.pareto_k) for k, effect in zip(at, shown) if effect.pareto_k]:
                middle = [median for _, (_, median, _) in tails]
                reach = [[m - low for _, (low, m, _) in tails], [high - m for _, (_, m, high) in tails]]
                grid[4].errorbar([k for k, _ in tails], middle, reach, **look)
        grid[4].set_xlim(grid[0].get_xlim())
        grid[5].axis("off")
        grid[5].legend(*grid[0].get_legend_handles_labels(), loc="center", fontsize=8, handlelength=3)
        first = effects[0]
        figure.suptitle(f"{data_name(first.data)}, {first.accuracy.total:,} test images", fontsize=9)
    return figure
