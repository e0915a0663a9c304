"""The confusion matrix."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.results.figures import style


@style.styled
def confusion_matrix(evaluation: Evaluation, classes: Sequence[str]) -> Figure:
    """True class against predicted class, in per cent of the true class."""
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in evaluation.confusion]
    accuracy = evaluation.accuracy
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
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="images of the true class (%)")
    of = f"{100 * accuracy.share:.1f}% of {accuracy.total:,} correct"
    figure.suptitle(f"{evaluation.model.upper()}, {style.data_name(evaluation.data)}: {of}", fontsize=9)
    return figure
