"""The graphical model of a factorization."""

import math
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from pyrobayes.factorizations import DeepBayes
from pyrobayes.results.figures import style
from pyrobayes.results.names import model_name

RADIUS = 0.36
Place = tuple[float, float]


@style.styled
def graphical_model(factorization: DeepBayes) -> Figure:
    """The directed graph read from the running model: plate around it, observed variables shaded."""
    parents = factorization.parents()
    places = _places(parents)
    figure = style.new_figure(2.6, 2.9)
    axes = figure.add_subplot()
    for child, above in parents.items():
        for parent in above:
            axes.add_patch(_arrow(places[parent], places[child]))
    for name, place in places.items():
        shade = "0.82" if name in ("x", "y") else "white"
        axes.add_patch(Circle(place, RADIUS, facecolor=shade, edgecolor="black", zorder=3))
        label = f"{name[0]}_{{{name[1:].removeprefix('_')}}}" if len(name) > 1 else name
        axes.text(*place, f"${label}$", ha="center", va="center", fontsize=13, zorder=4)
    _plate(axes, places)
    formula = factorization.formula().replace(") p", r")\,\,p")
    axes.set_title(f"{model_name(factorization.name)}\n${formula}$", fontsize=9)
    return figure


def _places(parents: Mapping[str, list[str]]) -> dict[str, Place]:
    """Where each variable is drawn: one level below its lowest parent."""
    levels: dict[str, int] = {}
    for child in parents:
        levels[child] = max((levels[parent] + 1 for parent in parents[child]), default=0)
    places = {}
    for level in set(levels.values()):
        row = [name for name in parents if levels[name] == level]
        for i, name in enumerate(row):
            places[name] = (1.6 * (i - (len(row) - 1) / 2), -1.3 * level)
    if len(places) > 1 and len({x for x, _ in places.values()}) == 1:
        # One above the other: shift the middle aside, lest an arrow from top to bottom run through it.
        for name, (x, y) in list(places.items())[1:-1]:
            places[name] = (x + 1.0, y)
    return places


def _plate(axes, places: Mapping[str, Place]) -> None:
    across, along = zip(*places.values())
    left, right, bottom, top = min(across) - 0.75, max(across) + 0.75, min(along) - 0.95, max(along) + 0.65
    corners = "round,pad=0,rounding_size=0.12"
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom), right - left, top - bottom, boxstyle=corners, facecolor="none", edgecolor="black"
        )
    )
    axes.text(right - 0.1, bottom + 0.1, "images", ha="right", va="bottom", fontsize=8)
    axes.set_xlim(left - 0.15, right + 0.15)
    axes.set_ylim(bottom - 0.15, top + 0.15)
    axes.set_aspect("equal")
    axes.axis("off")


def _arrow(start: Place, end: Place) -> FancyArrowPatch:
    length = math.dist(start, end)
    unit = [(b - a) / length for a, b in zip(start, end)]
    tail, head = [a + RADIUS * u for a, u in zip(start, unit)], [b - 0.37 * u for b, u in zip(end, unit)]
    return FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=0, color="black")
