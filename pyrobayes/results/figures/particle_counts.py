"""The effect of the number of particles."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from pyrobayes.evaluation.particles import Effect, references
from pyrobayes.results.figures import style
from pyrobayes.results.names import data_name, model_name
from pyrobayes.results.tables import EFFECT, grouped


@style.styled
def particles(effects: Sequence[Effect]) -> Figure:
    """Accuracy, noise, effective sample size, bias and Pareto k against the number of particles: a line a model and estimator.

    Bars are 95% intervals; those of Pareto k hold nine tenths of images and classes. The reference of the bias is the
    estimate of the same model with most particles.
    """
    lines = grouped(((effect.model, effect.estimator), effect) for effect in effects)
    best, several = references(effects), len({effect.estimator for effect in effects}) > 1
    figure = style.new_figure(style.WIDTH, 4.6)
    grid = figure.subplots(2, 3).flatten()
    _axes(grid, sorted({effect.particles for effect in effects}))
    for i, ((model, estimator), shown) in enumerate(lines.items()):
        look = style.model_line(shown[0]) | {"linewidth": 1.2, "elinewidth": 0.7, "capsize": 1.5, "markersize": 3.5}
        look |= {"linestyle": style.DOTTED} if estimator == "mixture" else {}
        look |= {"label": f"{model_name(model)}, {estimator}"} if several else {}
        shift = 1.04 ** (i - (len(lines) - 1) / 2)  # so that no bar hides another
        _draw(grid, shown, [shift * effect.particles for effect in shown], best[model], look)
    grid[4].set_xlim(grid[0].get_xlim())
    grid[5].axis("off")
    grid[5].legend(*grid[0].get_legend_handles_labels(), loc="center", fontsize=8, handlelength=3)
    first = effects[0]
    figure.suptitle(f"{data_name(first.data)}, {first.accuracy.total:,} test images", fontsize=9)
    return figure


def _axes(grid: Sequence, counts: Sequence[int]) -> None:
    for axes, column in zip(grid, EFFECT.values()):
        axes.set_xscale("log")
        axes.set_xticks(counts, counts, fontsize=7)
        axes.minorticks_off()
        axes.set_xlabel("particles K")
        axes.set_ylabel(column.header.partition(":")[0], fontsize=8)
        axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    grid[2].set_yscale("log")
    grid[2].set_yticks(counts, counts)
    grid[2].minorticks_off()
    grid[4].axhline(0.7, color="black", linewidth=0.8, linestyle=style.DOTTED)


def _draw(grid: Sequence, shown: Sequence[Effect], at: Sequence[float], reference: Effect, look: dict) -> None:
    """One model and estimator in every panel."""
    for axes, what in zip(grid, ("accuracy", "flipped_by_resampling")):
        style.draw_intervals(axes, [(k, getattr(effect, what)) for k, effect in zip(at, shown)], **look)
    sizes, biases = [effect.effective_sample_size for effect in shown], [effect.bias(reference) for effect in shown]
    for axes, means in ((grid[2], sizes), (grid[3], biases)):
        axes.errorbar(at, [mean.value for mean in means], [mean.half for mean in means], **look)
    if tails := [(k, effect.pareto_k) for k, effect in zip(at, shown) if effect.pareto_k]:
        reach = [[m - low for _, (low, m, _) in tails], [high - m for _, (_, m, high) in tails]]
        grid[4].errorbar([k for k, _ in tails], [median for _, (_, median, _) in tails], reach, **look)
