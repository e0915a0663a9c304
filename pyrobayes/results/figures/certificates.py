"""Certified accuracy of smoothed classifiers."""

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from pyrobayes.evaluation.certification import Certification
from pyrobayes.results.figures import style
from pyrobayes.results.names import data_name, model_name


@style.styled
def certificates(results: Sequence[Certification]) -> Figure:
    """Certified accuracy of one model against the radius in L2, a line a sigma, with 95% Wilson intervals as bands.

    A cross at radius 0 is the accuracy of the model itself, without noise. Where each sigma has weights of its own, each has a
    cross of its colour.
    """
    figure = style.new_figure(style.WIDTH * 0.75, 3.2)
    axes, first = figure.subplots(), results[0]
    colours = [matplotlib.colormaps["viridis"](0.75 * i / max(1, len(results) - 1)) for i in range(len(results))]
    several = len({result.clean_accuracy for result in results}) > 1
    for result, colour in zip(results, colours):
        _certified(axes, result, colour)
    for i, (result, colour) in enumerate(zip(results, colours) if several else [(first, "black")]):
        clean, label = 100 * result.clean_accuracy.share, None if i else "without noise"
        axes.plot([0], [clean], "x", color=colour, markersize=6, clip_on=False, label=label, zorder=5)
    axes.set_xlim(left=0)
    axes.set_xlabel(r"radius ($L_2$, pixels in [0, 1])")
    axes.set_ylabel("certified images (%)")
    style.rate_axis(axes, top=101)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    images = f"{data_name(first.data)}, {first.images:,} test images"
    figure.suptitle(f"{model_name(first.model)} smoothed, {first.draws:,} draws, {images}", fontsize=9)
    return figure


def _certified(axes, result: Certification, colour) -> None:
    """A step down at every image's radius. The line ends at the largest radius."""
    radii = sorted({0.0, *result.correct_radii})
    rates = [result.certified(radius) for radius in radii]
    low, high = ([100 * end for end in ends] for ends in zip(*(rate.interval for rate in rates)))
    shares = [100 * rate.share for rate in rates]
    axes.step(radii, shares, where="post", color=colour, linewidth=1.4, label=rf"$\sigma$ = {result.sigma:g}")
    axes.fill_between(radii, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
