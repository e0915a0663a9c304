"""Figures for papers: vector and PNG, one style, the same colour for the same model everywhere.

Every function returns a matplotlib figure and leaves matplotlib's own settings as they were.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Patch
from torch import Tensor

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.evaluation.detection import Detection
from pyrobayes.evaluation.particles import Effect, references
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.reproduction import POSTER_IMAGES, Comparison, Spread
from pyrobayes.evaluation.robustness.checks import GRADIENT_FREE, ITERATIVE, SINGLE_STEP
from pyrobayes.evaluation.robustness.verdict import WORST, Verdict
from pyrobayes.factorizations import DeepBayes
from pyrobayes.files import write_atomically
from pyrobayes.options import MINI

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
# Paul Tol's colours, those of them that are furthest apart for every kind of colour vision; comparators are grey.
COLOURS = {
    "gfz": "#332288",
    "gfy": "#88CCEE",
    "gbz": "#4477AA",
    "gby": "#BBCC33",
    "dfx": "#CC3311",
    "dfz": "#661100",
    "dbx": "#CC6677",
    "cnn": "#202020",
    "cnn-at": "#505050",
    "bnn": "#A0A0A0",
}
MARKERS = {"gfz": "o", "gfy": "s", "gbz": "^", "gby": "D", "dfx": "o", "dfz": "s", "dbx": "^"}
MARKERS |= {"cnn": "P", "cnn-at": "X", "bnn": "*"}
OTHER = "#555555"
# Of the attacks of a verdict, in greys: a colour is a model's, and there that of FGSM, dotted, and of the worst case.
ATTACKS = {
    "pgd": ("#000000", "s"),
    "apgd, snapshot": ("#3C3C3C", "D"),
    "apgd, margin": ("#3C3C3C", "D"),
    "pgd, mixture": ("#6C6C6C", "v"),
    "pgd, logit matching": ("#969696", "<"),
    "pgd, p(y|...) alone": ("#BEBEBE", ">"),
    "uniform noise": ("#B4B4B4", "P"),
    "square": ("#7C7C7C", "X"),
    "transfer": ("#404040", "*"),
}
DATA = {"fashion-mnist": "Fashion-MNIST", MINI: "the embedded Fashion-MNIST", "mnist": "MNIST", "kmnist": "KMNIST"}
DATA |= {"cifar10": "CIFAR-10"}
WIDTH = 7.2  # inches, of a page's text
DASHED, DOTTED = (0, (4, 2)), (0, (1, 1))
WRONG = "#B2182B"


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as `path`.pdf and `path`.png; returns both paths."""
    paths = _files(path)
    with matplotlib.rc_context(STYLE):
        for each in paths:
            buffer = io.BytesIO()
            metadata = {"CreationDate": None} if each.suffix == ".pdf" else None
            figure.savefig(buffer, format=each.suffix[1:], bbox_inches="tight", metadata=metadata)
            write_atomically(each, buffer.getvalue())
    return paths


def remove(path: str | Path) -> None:
    """Delete what :func:`save` wrote, if anything."""
    for each in _files(path):
        each.unlink(missing_ok=True)


def _files(path: str | Path) -> list[Path]:
    return [Path(f"{path}.{kind}") for kind in ("pdf", "png")]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def data_name(name: str) -> str:
    """A data set, as a paper writes it."""
    return DATA.get(name, name)


BOUNDS = {
    "linf": r"perturbation $\epsilon$ ($L_\infty$, pixels in [0, 1])",
    "l2": r"perturbation $\epsilon$ ($L_2$, pixels in [0, 1])",
    "area": r"perturbation $\epsilon$ (share of the image)",
}


def success_rates(results: Sequence[AttackResult]) -> Figure:
    """Figure 1: success rate against eps with 95% Wilson intervals, a panel an attack, a line a model."""
    panels = {}
    for result in results:
        panels.setdefault(result.attack, []).append(result)
    with matplotlib.rc_context(STYLE):
        columns = min(len(panels), 4)
        rows = math.ceil(len(panels) / columns)
        figure = _figure(1.6 + 3.6 * columns, 3.6 * rows)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, (attack, shown) in zip(grid.flat, panels.items()):
            for result in shown:
                _success_rate(axes, result)
            first = shown[0]
            axes.set_xlabel(BOUNDS[first.options["norm"]])
            axes.set_ylim(0, 103)
            axes.grid(axis="y", linewidth=0.4, alpha=0.5)
            title = f"{attack.upper()} success rate, {data_name(first.data)}, {len(first.labels):,} test images"
            axes.set_title(title if len(panels) == 1 else attack.upper(), fontsize=9)
        for axes in grid[:, 0]:
            axes.set_ylabel("misclassified images (%)")
        axes, shown = max(zip(grid.flat, panels.values()), key=lambda panel: len(panel[1]))
        _two_part_legend(grid[0, -1], shown, axes)
        if len(panels) > 1:
            figure.suptitle(f"Success rates, {data_name(first.data)}, {len(first.labels):,} test images", fontsize=9)
    return figure


def _success_rate(axes, result: AttackResult) -> None:
    _with_intervals(axes, [(eps, result.success(i)) for i, eps in enumerate(result.eps)], **_line(result))


def _line(result: AttackResult | Verdict | Effect) -> dict:
    """How a model's line is drawn everywhere."""
    colour = COLOURS.get(result.model, OTHER)
    return {
        "label": result.model.upper(), "color": colour, "linestyle": "-" if result.generative else DASHED,
        "linewidth": 1.4, "elinewidth": 0.8, "capsize": 2, "marker": MARKERS.get(result.model, "v"), "markersize": 4.5,
        "markerfacecolor": colour if result.generative else "white",
    }  # fmt: skip


def reproduction(found: Mapping) -> Figure:
    """FGSM's success rates against eps, published and ours, beside our worst case where it is known: a panel a model.

    With 95% intervals: of one training Wilson's, of several those of the mean, see :class:`pyrobayes.evaluation.reproduction.Spread`.

    Args:
        found: as :func:`pyrobayes.results.store.read_reproduction` gives it.
    """
    comparisons: Sequence[Comparison] = found["comparisons"]
    seeds, judged = found["seeds"], next((each.worst.images for each in comparisons if each.worst), None)
    title = (
        f"{data_name(found['data'])}; networks {found['recipe']['networks']}; {'seed' if len(seeds) == 1 else 'seeds'} "
    )
    title += f"{', '.join(map(str, seeds))}; {found['images']:,} test images"
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
        figure = _figure(WIDTH, 2.1 * rows)
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
                _with_intervals(axes, rates[name], **{"color": COLOURS.get(model, OTHER)} | look)
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


def _with_intervals(axes, rates: Sequence[tuple[float, Rate | Spread]], **line) -> None:
    """Shares in per cent with their intervals at every eps."""
    if not rates:
        return
    eps, rates = zip(*rates)
    shares = [100 * rate.share for rate in rates]
    ends = [[100 * end for end in rate.interval] for rate in rates]
    below = [share - low for share, (low, _) in zip(shares, ends)]
    above = [high - share for share, (_, high) in zip(shares, ends)]
    axes.errorbar(eps, shares, yerr=[below, above], **{"linewidth": 1.3, "elinewidth": 0.8, "capsize": 2} | line)


def _two_part_legend(axes, results: Sequence[AttackResult | Verdict], drawn=None) -> None:
    """A legend beside `axes` of what is drawn there, or in other axes."""
    handles, labels = (drawn or axes).get_legend_handles_labels()
    parts = {True: ([], []), False: ([], [])}
    for result, handle, label in zip(results, handles, labels):
        parts[result.generative][0].append(handle)
        parts[result.generative][1].append(label)
    ordered_handles, ordered_labels = [], []
    for generative, title in ((True, "generative"), (False, "discriminative")):
        if parts[generative][0]:
            ordered_handles += [Line2D([], [], linestyle="none"), *parts[generative][0]]
            ordered_labels += [title, *parts[generative][1]]
    legend = axes.legend(ordered_handles, ordered_labels, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    for text in legend.get_texts():
        if text.get_text() in ("generative", "discriminative"):
            text.set_fontstyle("italic")


def robustness(verdict: Verdict) -> Figure:
    """Robust accuracy against eps with 95% intervals: a line an attack, one for the worst case, and one without the luck of a draw.

    The numbers beside a name are of the failed checks that put it in doubt.
    """
    with matplotlib.rc_context(STYLE):
        figure = _figure(WIDTH, 3.6)
        axes = figure.subplots()
        own = COLOURS.get(verdict.model, OTHER)
        for name in verdict.success:
            colour, marker = (own, "o") if name == "fgsm" else ATTACKS.get(name, (OTHER, "h"))
            line = {SINGLE_STEP: DOTTED, ITERATIVE: "-", GRADIENT_FREE: DASHED}[verdict.kinds[name]]
            _robust_accuracy(
                axes, verdict, verdict.rows[name], label=_with_doubts(verdict, name), color=colour, marker=marker, markersize=4,
                linestyle=line, linewidth=1.2, elinewidth=0.6, capsize=1.5,
            )  # fmt: skip
        look = {"color": own, "linewidth": 2.2, "elinewidth": 1, "capsize": 3}
        _robust_accuracy(axes, verdict, verdict.worst, label=_with_doubts(verdict, WORST), **look)
        if verdict.broken_in_most is not None:
            label = _with_doubts(verdict, WORST, "the same in most of\nfurther draws")
            _robust_accuracy(axes, verdict, verdict.broken_in_most, label=label, linestyle=DASHED, **look)
        _eps_axis(axes, verdict)
        axes.set_ylabel("images classified correctly (%)")
        axes.legend(
            fontsize=7.5, title="attack (failed checks)", title_fontsize=7.5, loc="center left",
            bbox_to_anchor=(1.01, 0.5), handlelength=3,
        )  # fmt: skip
        axes.set_title(
            f"{verdict.model.upper()}, {data_name(verdict.data)}, {verdict.images:,} test images", fontsize=9
        )
    return figure


def _eps_axis(axes, verdict: Verdict) -> None:
    """From eps 0 to the last, marked where it was measured; accuracy from 0 to 100%."""
    axes.set_xticks([0, *(eps for eps in verdict.eps if eps)])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(BOUNDS["linf"])
    axes.set_ylim(0, 101)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)


def worst_cases(verdicts: Sequence[Verdict]) -> Figure:
    """Robust accuracy of several models against eps, with 95% intervals: under FGSM alone, and in the worst case.

    The numbers beside a model's name are of the failed checks that put its worst case in doubt.
    """
    with matplotlib.rc_context(STYLE):
        figure = _figure(WIDTH, 3.4)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, row in zip(panels, ("fgsm", WORST)):
            for verdict in verdicts:
                label = _with_doubts(verdict, WORST, verdict.model.upper())
                _robust_accuracy(axes, verdict, verdict.rows[row], **_line(verdict) | {"label": label})
            _eps_axis(axes, verdicts[0])
            axes.set_title("FGSM alone" if row == "fgsm" else "worst case of all attacks", fontsize=9)
        panels[0].set_ylabel("images classified correctly (%)")
        _two_part_legend(panels[1], verdicts)
        first = verdicts[0]
        said = "in brackets: failed checks that put the worst case in doubt"
        figure.suptitle(f"{data_name(first.data)}, {first.images:,} test images; {said}", fontsize=8)
    return figure


def _robust_accuracy(axes, verdict: Verdict, broken: Sequence[Rate], **line) -> None:
    """Images that are left classified correctly where so many are broken at every eps, with intervals, from eps 0 on."""
    at = dict(zip(verdict.eps, broken))
    broken = {0.0: Rate(verdict.images - verdict.clean_accuracy.count, verdict.images)} | {e: at[e] for e in at if e}
    _with_intervals(axes, [(eps, Rate(rate.total - rate.count, rate.total)) for eps, rate in broken.items()], **line)


def _with_doubts(verdict: Verdict, row: str, name: str | None = None) -> str:
    doubts = verdict.doubts(row)
    return f"{name or row} ({', '.join(map(str, doubts))})" if doubts else name or row


def detection(results: Sequence[Detection]) -> Figure:
    """ROC curves of the tests of one model under one attack, a panel a test, a line an eps; dotted where its threshold is.

    Below, where the attack also evaded the tests: images that are misclassified and accepted against the weight of the evasion, and
    as a band those of the attack that doesn't evade them.
    """
    plain = [result for result in results if result.options["evade"] is None]
    adaptive = [result for result in results if result.options["evade"] is not None]
    first = plain[0]
    colours = [matplotlib.colormaps["viridis"](0.75 * i / max(1, len(first.eps) - 1)) for i in range(len(first.eps))]
    with matplotlib.rc_context(STYLE):
        figure = _figure(WIDTH, 5.0 if adaptive else 2.8)
        grid = figure.subplots(2 if adaptive else 1, len(plain), squeeze=False)
        for axes, result in zip(grid[0], plain):
            _roc(axes, result, colours)
        for axes, result in zip(grid[1] if adaptive else (), plain):
            _evasion(axes, result, [other for other in adaptive if other.test == result.test], colours)
        grid[0, 0].set_ylabel("successful adversarial\nimages rejected (%)")
        if adaptive:
            grid[1, 0].set_ylabel("misclassified\nand accepted (%)")
        lines = [
            Line2D([], [], color=colour, label=rf"$\epsilon$ = {eps:g}") for colour, eps in zip(colours, first.eps)
        ]
        upright = {"color": "black", "linestyle": "none", "marker": "|", "markersize": 9, "markeredgewidth": 0.8}
        lines.append(Line2D([], [], label="threshold", **upright))
        if adaptive:
            lines += [
                Line2D([], [], color=OTHER, linestyle="none", marker="o", markersize=3.5, label="evading the test"),
                Patch(facecolor=OTHER, alpha=0.2, linewidth=0, label="not evading it"),
            ]
        figure.legend(handles=lines, loc="outside right center", fontsize=8)
        images = first.false_alarms.total
        figure.suptitle(
            f"{first.model.upper()} under {first.attack.upper()}, {data_name(first.data)}, {images:,} test images",
            fontsize=9,
        )
    return figure


def _roc(axes, result: Detection, colours: Sequence) -> None:
    alarms = range(len(result.roc[0]))
    axes.plot([0, 100], [0, 100], color="#BBBBBB", linewidth=0.8, linestyle=DASHED)
    for curve, success, colour in zip(result.roc, result.detected, colours):
        axes.plot(alarms, [100 * share for share in curve], color=colour, linewidth=1.4)
        ends = [Rate.of_share(share, success.total).interval for share in curve]
        low, high = ([100 * end for end in each] for each in zip(*ends))
        axes.fill_between(alarms, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.axvline(100 * result.false_alarms.share, color="black", linewidth=0.8, linestyle=DOTTED)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 101)
    axes.set_xlabel("clean images rejected (%)")
    name = "KL" if result.test == "kl" else result.test
    axes.set_title(f"{name} test{'' if result.meaningful else ' (without meaning)'}", fontsize=9)


def _evasion(axes, without: Detection, results: Sequence[Detection], colours: Sequence) -> None:
    weights = [result.options["evade_weight"] for result in results]
    for i, colour in enumerate(colours):
        apart = 1.08 ** (i - (len(colours) - 1) / 2)  # so that no bar hides another
        rates = [(apart * weight, result.undetected[i]) for weight, result in zip(weights, results)]
        _with_intervals(axes, rates, color=colour, marker="o", markersize=3.5, linestyle="none")
        low, high = without.undetected[i].interval
        axes.axhspan(100 * low, 100 * high, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(100 * without.undetected[i].share, color=colour, linewidth=0.8, linestyle=DOTTED)
    axes.set_xscale("log")
    axes.set_xticks(weights, [f"{weight:g}" for weight in weights])
    axes.minorticks_off()
    axes.set_ylim(0, 101)
    axes.set_xlabel(r"weight $\lambda$ in the attack")


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
        figure = _figure(WIDTH, 4.6)
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
            look = _line(first) | {"linewidth": 1.2, "elinewidth": 0.7, "capsize": 1.5, "markersize": 3.5}
            look |= {"linestyle": DOTTED} if estimator == "mixture" else {}
            look |= {"label": f"{model.upper()}, {estimator}"} if several else {}
            apart = 1.04 ** (i - (len(lines) - 1) / 2)  # so that no bar hides another
            at = [apart * effect.particles for effect in shown]
            for axes, what in zip(grid, ("accuracy", "changed")):
                rates = [getattr(effect, what) for effect in shown]
                _with_intervals(axes, list(zip(at, rates)), **look)
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


def adversarial_examples(result: AttackResult, classes: Sequence[str], rows: int = 5) -> Figure:
    """Figure 2: rows of images, columns of eps; above each its predicted class and posterior, wrong ones marked.

    Of the images that were kept the first of each class, and then others, in their order.
    """
    labels, columns = result.labels[: result.examples.shape[1]], len(result.eps)
    repeated = sorted(range(len(labels)), key=lambda i: (labels[i] in labels[:i], i))
    chosen = sorted(repeated[:rows])
    with matplotlib.rc_context(STYLE):
        panel = min(1.0, (WIDTH - 0.3) / columns)
        figure = _figure(panel * columns + 0.3, (panel + 0.3) * len(chosen) + 0.6)
        grid = figure.subplots(len(chosen), columns, squeeze=False)
        for row, i in enumerate(chosen):
            for column in range(columns):
                axes = grid[row][column]
                _image(axes, result.examples[column, i])
                predicted, truth = result.predictions[column][i], result.labels[i]
                wrong = predicted != truth
                title = f"{'✗ ' if wrong else ''}{classes[predicted]}\n{result.posteriors[column][i]:.2f}"
                axes.set_title(title, fontsize=7, color=WRONG if wrong else "black", pad=2)
                if wrong:
                    _frame(axes, WRONG)
                if column == 0:
                    axes.set_ylabel(classes[truth], fontsize=7)
                if row == len(chosen) - 1:
                    axes.set_xlabel(rf"$\epsilon$ = {result.eps[column]:g}", fontsize=8)
        figure.suptitle(
            f"{result.model.upper()} under {result.attack.upper()}, {data_name(result.data)}\n"
            "above: predicted class, its posterior; left: true class; ✗ and frame: misclassified",
            fontsize=8,
        )
    return figure


def confusion_matrix(evaluation: Evaluation, classes: Sequence[str]) -> Figure:
    """True class against predicted class, in per cent of the true class."""
    with matplotlib.rc_context(STYLE):
        figure = _figure(4.6, 4.2)
        axes = figure.add_subplot()
        shares = [[100 * count / max(1, sum(row)) for count in row] for row in evaluation.confusion]
        drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if evaluation.confusion[i][j]:
                    axes.text(
                        j,
                        i,
                        f"{share:.0f}",
                        ha="center",
                        va="center",
                        fontsize=6.5,
                        color="white" if share > 55 else "black",
                    )
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.spines[:].set_visible(False)
        figure.colorbar(drawn, ax=axes, shrink=0.8, label="images of the true class (%)")
        accuracy = evaluation.accuracy
        axes.set_title(
            f"{evaluation.model.upper()}, {data_name(evaluation.data)}: {100 * accuracy.share:.1f}% of {accuracy.total:,} correct",
            fontsize=9,
        )
    return figure


def image_grid(images: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Images [rows, C, channels, height, width], one column a class."""
    rows, columns = images.shape[:2]
    with matplotlib.rc_context(STYLE):
        figure = _figure(0.75 * columns + 0.2, 0.75 * rows + 0.6)
        grid = figure.subplots(rows, columns, squeeze=False)
        for row in range(rows):
            for column in range(columns):
                _image(grid[row][column], images[row, column])
                if row == 0:
                    grid[row][column].set_title(classes[column], fontsize=7, pad=3)
        figure.suptitle(title, fontsize=9)
    return figure


def reconstructions(originals: Tensor, reconstructed: Tensor, labels: Sequence[str], title: str) -> Figure:
    """Images [N, channels, height, width] above their reconstructions, [N, channels, height, width]."""
    with matplotlib.rc_context(STYLE):
        figure = _figure(0.75 * len(originals) + 0.8, 2.1)
        grid = figure.subplots(2, len(originals), squeeze=False)
        for column, label in enumerate(labels):
            _image(grid[0][column], originals[column])
            _image(grid[1][column], reconstructed[column])
            grid[0][column].set_title(label, fontsize=7, pad=3)
        grid[0][0].set_ylabel("original", fontsize=7)
        grid[1][0].set_ylabel("reconstruction", fontsize=7)
        figure.suptitle(title, fontsize=9)
    return figure


def graphical_model(factorization: DeepBayes) -> Figure:
    """The directed graph read from the running model: plate around it, observed variables shaded."""
    parents = factorization.parents()
    # Each variable stands one level below its lowest parent.
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
    with matplotlib.rc_context(STYLE):
        figure = _figure(2.6, 2.9)
        axes = figure.add_subplot()
        for child, above in parents.items():
            for parent in above:
                axes.add_patch(_arrow(places[parent], places[child]))
        for name, (x, y) in places.items():
            observed = name != "z"
            axes.add_patch(Circle((x, y), 0.36, facecolor="0.82" if observed else "white", edgecolor="black", zorder=3))
            axes.text(x, y, f"${name}$", ha="center", va="center", fontsize=13, zorder=4)
        left, right = min(x for x, _ in places.values()) - 0.75, max(x for x, _ in places.values()) + 0.75
        bottom, top = min(y for _, y in places.values()) - 0.95, max(y for _, y in places.values()) + 0.65
        axes.add_patch(
            FancyBboxPatch(
                (left, bottom),
                right - left,
                top - bottom,
                boxstyle="round,pad=0,rounding_size=0.12",
                facecolor="none",
                edgecolor="black",
            )
        )
        axes.text(right - 0.1, bottom + 0.1, "images", ha="right", va="bottom", fontsize=8)
        axes.set_xlim(left - 0.15, right + 0.15)
        axes.set_ylim(bottom - 0.15, top + 0.15)
        axes.set_aspect("equal")
        axes.axis("off")
        formula = factorization.formula().replace(") p", r")\,\,p")
        axes.set_title(f"{factorization.name.upper()}\n${formula}$", fontsize=9)
    return figure


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> FancyArrowPatch:
    length = math.dist(start, end)
    unit = [(b - a) / length for a, b in zip(start, end)]
    tail, head = [a + 0.36 * u for a, u in zip(start, unit)], [b - 0.37 * u for b, u in zip(end, unit)]
    return FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=0, color="black")


def _image(axes, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0).cpu().numpy().clip(0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _frame(axes, colour: str) -> None:
    axes.spines[:].set_visible(True)
    for spine in axes.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(1.5)
