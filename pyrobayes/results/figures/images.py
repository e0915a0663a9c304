"""Figure 2 and other grids of images, and the confusion matrix."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.results.figures import style
from pyrobayes.results.names import data_name, model_name

MOST_COLUMNS = 4  # of figure 2: with more, a phone shows nothing that can be read


@style.styled
def adversarial_examples(result: AttackResult, classes: Sequence[str], rows: int = 5) -> Figure:
    """Figure 2: one row an image, one column an eps; above each its predicted class and posterior, wrong ones marked.

    It takes the first kept image of each class, and then others in their order; and at most four eps, evenly chosen.
    """
    labels = result.labels[: result.examples.shape[1]]
    repeated = sorted(range(len(labels)), key=lambda i: (labels[i] in labels[:i], i))
    last = len(result.eps) - 1
    chosen = sorted(repeated[:rows])
    columns = sorted({round(last * i / (MOST_COLUMNS - 1)) for i in range(MOST_COLUMNS)})
    figure = style.new_figure(len(columns) + 0.3, 1.32 * len(chosen) + 0.8)
    grid = figure.subplots(len(chosen), len(columns), squeeze=False)
    for row, i in zip(grid, chosen):
        for axes, column in zip(row, columns):
            _image(axes, result.examples[column, i])
            predicted = result.predictions[column][i]
            wrong = predicted != result.labels[i]
            title = f"{'✗ ' if wrong else ''}{classes[predicted]}\n{result.posteriors[column][i]:.2f}"
            axes.set_title(title, fontsize=8, color=style.WRONG if wrong else "black", pad=2)
            if wrong:
                axes.spines[:].set(visible=True, color=style.WRONG, linewidth=1.5)
        row[0].set_ylabel(classes[result.labels[i]], fontsize=8)
    for axes, column in zip(grid[-1], columns):
        axes.set_xlabel(rf"$\epsilon$ = {result.eps[column]:g}", fontsize=8.5)
    space = "\n" if len(columns) < 3 else " "  # breaks longer lines where the figure is narrow
    title = f"{model_name(result.model)} under {result.attack.upper()},{space}{data_name(result.data)}"
    explained = f"above: predicted class, posterior\nleft: true class;{space}✗, frame: misclassified"
    figure.suptitle(f"{title}\n{explained}", fontsize=8)
    return figure


@style.styled
def image_grid(images: Tensor, titles: Sequence[str], title: str, rows: Sequence[str] = ()) -> Figure:
    """Images [rows, columns, channels, height, width], with a title for every column, such as a class, and names of the rows."""
    height, width = images.shape[:2]
    figure = style.new_figure(0.75 * width + (0.8 if rows else 0.2), 0.75 * height + 0.6)
    axes = figure.add_subplot()
    framed = pad(images, (1, 1, 1, 1), value=1.0)  # white lines between
    tiles = framed.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)  # one image: a plot each would take seconds
    _image(axes, tiles)
    down, across = framed.shape[-2:]
    axes.xaxis.tick_top()
    axes.set_xticks([across * (i + 0.5) - 0.5 for i in range(len(titles))], titles, fontsize=7)
    axes.set_yticks([down * (i + 0.5) - 0.5 for i in range(len(rows))], rows, fontsize=7, rotation=90, va="center")
    axes.tick_params(length=0)
    figure.suptitle(title, fontsize=9)
    return figure


def reconstructions(originals: Tensor, reconstructed: Tensor, labels: Sequence[str], title: str) -> Figure:
    """Images [N, channels, height, width] above their reconstructions, [N, channels, height, width]."""
    return image_grid(torch.stack([originals, reconstructed]), labels, title, ("original", "reconstruction"))


def _image(axes, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0).cpu().numpy().clip(0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


@style.styled
def confusion_matrix(evaluation: Evaluation, classes: Sequence[str]) -> Figure:
    """True class against predicted class, in per cent of the true class."""
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in evaluation.confusion]
    figure = style.new_figure(4.6, 3.9)
    axes = figure.add_subplot()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            if evaluation.confusion[i][j]:
                colour = "white" if share > 55 else "black"
                axes.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=7.5)
    axes.set_yticks(range(len(classes)), classes, fontsize=7.5)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="images of the true class (%)")
    of = f"{100 * evaluation.accuracy.share:.1f}% of {evaluation.accuracy.total:,} correct"
    figure.suptitle(f"{model_name(evaluation.model)}, {data_name(evaluation.data)}: {of}", fontsize=9)
    return figure
