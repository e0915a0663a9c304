"""How every figure looks, and how it is written: one style, one colour a model."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.particles import Effect
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.reproduction import Spread
from pyrobayes.evaluation.robustness.verdict import Verdict
from pyrobayes.files import cannot_write, write_atomically
from pyrobayes.results.names import model_name

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}

# Every model's colour and marker. These colours of Paul Tol are furthest apart for every kind of colour vision;
# comparators are grey.
LOOKS = {
    "gfz": ("#332288", "o"),
    "gfy": ("#88CCEE", "s"),
    "gbz": ("#4477AA", "^"),
    "gby": ("#BBCC33", "D"),
    "dfx": ("#CC3311", "o"),
    "dfz": ("#661100", "s"),
    "dbx": ("#CC6677", "^"),
    "cnn": ("#202020", "P"),
    "cnn-at": ("#505050", "X"),
    "bnn": ("#A0A0A0", "*"),
}
COLOURS = {model: colour for model, (colour, _) in LOOKS.items()}
OTHER = "#555555"
SUFFIXES = (".pdf", ".png")
WIDTH = 7.2  # inches, of a page's text
DASHED, DOTTED = (0, (4, 2)), (0, (1, 1))
WRONG = "#B2182B"
BOUNDS = {
    "linf": r"perturbation $\epsilon$ ($L_\infty$, pixels in [0, 1])",
    "l2": r"perturbation $\epsilon$ ($L_2$, pixels in [0, 1])",
    "l1": r"perturbation $\epsilon$ ($L_1$, pixels in [0, 1])",
    "l0": r"perturbation $\epsilon$ ($L_0$, changed pixel values)",
    "area": r"perturbation $\epsilon$ (share of the image)",
}
styled = matplotlib.rc_context(STYLE)  # a decorator: the function draws so, and leaves matplotlib's own settings


@styled
def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as `path`.pdf and `path`.png; returns both paths."""
    for each in _files(path):
        buffer = io.BytesIO()
        metadata = {"CreationDate": None} if each.suffix == ".pdf" else None
        figure.savefig(buffer, format=each.suffix[1:], bbox_inches="tight", metadata=metadata)
        write_atomically(each, buffer.getvalue())
    return _files(path)


def remove(path: str | Path) -> None:
    """Delete what :func:`save` wrote, if anything."""
    for each in _files(path):
        try:
            each.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(each, error) from error


def _files(path: str | Path) -> list[Path]:
    return [Path(f"{path}{suffix}") for suffix in SUFFIXES]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    return FigureCanvasAgg(Figure(figsize=(width, height), layout="constrained")).figure


def colour(model: str) -> str:
    """The colour of a model in every figure."""
    return COLOURS.get(model, OTHER)


def model_line(result: AttackResult | Verdict | Effect) -> dict:
    """The look of a model's line in every figure; it is dashed, with open markers, for discriminative models."""
    _, marker = LOOKS.get(result.model, (OTHER, "v"))
    line = {"label": model_name(result.model), "color": colour(result.model), "linestyle": "-", "linewidth": 1.4}
    line |= {"elinewidth": 0.8, "capsize": 2, "marker": marker, "markersize": 4.5}
    return line if result.generative else line | {"linestyle": DASHED, "markerfacecolor": "white"}


def draw_intervals(axes, rates: Sequence[tuple[float, Rate | Spread]], **line) -> None:
    """Shares in per cent with their intervals at every eps."""
    shares = [100 * rate.share for _, rate in rates]
    below = [share - 100 * rate.interval[0] for share, (_, rate) in zip(shares, rates)]
    above = [100 * rate.interval[1] - share for share, (_, rate) in zip(shares, rates)]
    look = {"linewidth": 1.3, "elinewidth": 0.8, "capsize": 2} | line
    if rates:
        axes.errorbar([eps for eps, _ in rates], shares, yerr=[below, above], **look)


def rate_axis(axes, top: float = 103) -> None:
    """Shares in per cent along the vertical axis, from 0 to all."""
    axes.set_ylim(0, top)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)


def two_part_legend(axes, results: Sequence[AttackResult | Verdict], drawn=None) -> None:
    """A legend beside `axes`, generative models first; its lines are drawn there, or in the axes `drawn`."""
    lines = list(zip(results, *(drawn or axes).get_legend_handles_labels()))
    rows, titles = [], ("generative", "discriminative")
    for title in titles:
        part = [(handle, label) for each, handle, label in lines if each.generative == (title == "generative")]
        rows += [(Line2D([], [], linestyle="none"), title), *part] if part else []
    legend = axes.legend(*zip(*rows), loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    for text in legend.get_texts():
        if text.get_text() in titles:
            text.set_fontstyle("italic")
