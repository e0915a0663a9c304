"""Figure 2 and other grids of images."""

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.results.figures.style import STYLE, WIDTH, WRONG, data_name, new_figure


def adversarial_examples(result: AttackResult, classes: Sequence[str], rows: int = 5) -> Figure:
    """Figure 2: rows of images, columns of eps; above each its predicted class and posterior, wrong ones marked.

    Of the images that were kept the first of each class, and then others, in their order.
    """
    labels, columns = result.labels[: result.examples.shape[1]], len(result.eps)
    repeated = sorted(range(len(labels)), key=lambda i: (labels[i] in labels[:i], i))
    chosen = sorted(repeated[:rows])
    with matplotlib.rc_context(STYLE):
        panel = min(1.0, (WIDTH - 0.3) / columns)
        figure = new_figure(panel * columns + 0.3, (panel + 0.3) * len(chosen) + 0.6)
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


def image_grid(images: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Images [rows, C, channels, height, width], one column a class."""
    rows, columns = images.shape[:2]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(0.75 * columns + 0.2, 0.75 * rows + 0.6)
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
        figure = new_figure(0.75 * len(originals) + 0.8, 2.1)
        grid = figure.subplots(2, len(originals), squeeze=False)
        for column, label in enumerate(labels):
            _image(grid[0][column], originals[column])
            _image(grid[1][column], reconstructed[column])
            grid[0][column].set_title(label, fontsize=7, pad=3)
        grid[0][0].set_ylabel("original", fontsize=7)
        grid[1][0].set_ylabel("reconstruction", fontsize=7)
        figure.suptitle(title, fontsize=9)
    return figure


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
