"""Figure 2 and other grids of images."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.results.figures import style

MOST_COLUMNS = 4  # of figure 2: with more, a phone shows nothing that can be read


@style.styled
def adversarial_examples(result: AttackResult, classes: Sequence[str], rows: int = 5) -> Figure:
    """Figure 2: one row an image, one column an eps; above each its predicted class and posterior, wrong ones marked.

    It takes the first kept image of each class, and then others in their order; and at most four eps, evenly chosen.
    """
    labels = result.labels[: result.examples.shape[1]]
    repeated = sorted(range(len(labels)), key=lambda i: (labels[i] in labels[:i], i))
    chosen, columns = sorted(repeated[:rows]), _evenly(len(result.eps), MOST_COLUMNS)
    figure = style.new_figure(len(columns) + 0.3, 1.32 * len(chosen) + 0.8)
    grid = figure.subplots(len(chosen), len(columns), squeeze=False)
    for row, i in zip(grid, chosen):
        for axes, column in zip(row, columns):
            _adversarial_example(axes, result, classes, i, column)
        row[0].set_ylabel(classes[result.labels[i]], fontsize=8)
    for axes, column in zip(grid[-1], columns):
        axes.set_xlabel(rf"$\epsilon$ = {result.eps[column]:g}", fontsize=8.5)
    figure.suptitle(_explained(result, "\n" if len(columns) < 3 else " "), fontsize=8)
    return figure


def _explained(result: AttackResult, space: str) -> str:
    """The title of figure 2; `space` breaks its longer lines where the figure is narrow."""
    title = f"{result.model.upper()} under {result.attack.upper()},{space}{style.data_name(result.data)}"
    return f"{title}\nabove: predicted class, posterior\nleft: true class;{space}✗, frame: misclassified"


def _evenly(count: int, most: int) -> list[int]:
    """At most so many of the indices below `count`, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _adversarial_example(axes, result: AttackResult, classes: Sequence[str], image: int, eps: int) -> None:
    _image(axes, result.examples[eps, image])
    predicted = result.predictions[eps][image]
    wrong = predicted != result.labels[image]
    title = f"{'✗ ' if wrong else ''}{classes[predicted]}\n{result.posteriors[eps][image]:.2f}"
    axes.set_title(title, fontsize=8, color=style.WRONG if wrong else "black", pad=2)
    if wrong:
        _frame(axes, style.WRONG)


@style.styled
def image_grid(images: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Images [rows, C, channels, height, width], one column a class."""
    rows, columns = images.shape[:2]
    figure = style.new_figure(0.75 * columns + 0.2, 0.75 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        for column in range(columns):
            _image(grid[row][column], images[row, column])
            if row == 0:
                grid[row][column].set_title(classes[column], fontsize=7, pad=3)
    figure.suptitle(title, fontsize=9)
    return figure


@style.styled
def reconstructions(originals: Tensor, reconstructed: Tensor, labels: Sequence[str], title: str) -> Figure:
    """Images [N, channels, height, width] above their reconstructions, [N, channels, height, width]."""
    figure = style.new_figure(0.75 * len(originals) + 0.8, 2.1)
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
