"""Measure certified accuracy against the radius: `python docs/certified_accuracy.py RUNS`.

A CNN is trained for each sigma on images with Gaussian noise of that sigma, then smoothed with the same noise, as Cohen, Rosenfeld and Kolter
(2019) did. Each row says the commands that give it again. An image without a certificate counts as an error.

Finished rows aren't measured again. `docs/write_results.py` makes the table, and `docs/draw_figures.py` the figure.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import click

from pyrobayes import load, load_data
from pyrobayes.codec import encode
from pyrobayes.commands import train
from pyrobayes.commands.context import Context
from pyrobayes.evaluation import certification
from pyrobayes.files import write_json
from pyrobayes.tensor_files import digest
from pyrobayes.training.checkpoint import versions

DATA, NETWORKS, SEED, EPOCHS, SELECTION, ALPHA = "fashion-mnist", "small", 0, 5, 100, 0.001
RESULTS = Path(__file__).parent / "results" / "certified_accuracy.json"


@dataclass(frozen=True)
class Row:
    """A model, the noise that it is trained and smoothed with, and how many images and draws certify it."""

    model: str
    sigma: float
    images: int = 200
    draws: int = 10_000

    @property
    def folder(self) -> str:
        """The name of the folder of runs."""
        return f"sigma-{self.sigma:g}"

    def commands(self) -> list[str]:
        """The command lines that train the model and certify it."""
        runs = f"--runs {self.folder}"
        return [
            f"pyrobayes train {self.model} --networks {NETWORKS} --epochs {EPOCHS} --seed {SEED} --data {DATA} "
            f"--augmentation gaussian --sigma {self.sigma:g} {runs}",
            f"pyrobayes certify {self.model} --particles 1 --images {self.images} --sigma {self.sigma:g} --draws {self.draws} "
            f"--selection-draws {SELECTION} --alpha {ALPHA:g} --seed {SEED} {runs}",
        ]


ROWS = tuple(Row("cnn", sigma) for sigma in (0.12, 0.25, 0.5, 1.0))


def measured(row: Row, runs: Path) -> dict:
    """Train a row's model, or resume it, and certify the first test images."""
    folder = runs / row.folder
    begun = time.process_time()
    train.train(
        [row.model],
        Context(DATA, runs=folder, device="cpu"),
        networks=NETWORKS,
        training_changes={"epochs": EPOCHS, "seed": SEED, "augmentation": "gaussian", "sigma": row.sigma},
        resume=True,
    )
    trained = time.process_time()
    classifier = load(folder / row.model, device="cpu", particles=1, seed=SEED)
    how = {"draws": row.draws, "selection_draws": SELECTION, "alpha": ALPHA, "images": row.images, "progress": False}
    found = certification.certify(classifier, load_data(DATA, "test"), row.sigma, **how)
    return {
        "commands": row.commands(),
        "seed": SEED,
        "seconds": {"training": round(trained - begun), "certification": round(time.process_time() - trained)},
        "weights": digest(classifier.factorization.state_dict(), {}),
        "certification": encode(found),
        "versions": versions(),
    }


@click.command(help=__doc__.split("\n")[0])
@click.argument("runs", type=click.Path(file_okay=False, path_type=Path))
@click.option("--out", default=RESULTS, type=click.Path(dir_okay=False, path_type=Path))
def main(runs: Path, out: Path) -> None:
    rows = json.loads(out.read_text()) if out.is_file() else []
    for row in ROWS:
        if not any(known["commands"] == row.commands() for known in rows):
            rows.append(measured(row, runs))
            write_json(out, rows)
        click.echo(f"{row.model}, sigma {row.sigma:g}: {out}")


if __name__ == "__main__":
    main()
