"""Measure what each option of the training is worth: `python docs/ablations.py RUNS`.

GBZ with `small` networks is trained with one option changed at a time. The other models are trained by `pyrobayes train`, by promising options,
and by our own recipe. Each row is a run in a folder under RUNS, and is judged on validation images: clean, under FGSM, and under the worst of
FGSM, PGD and Auto-PGD on every particle's own joint.

Finished rows aren't measured again, so several processes may share the rows. Rows that were measured elsewhere stay in the file of results.
`docs/write_results.py` makes the tables.
"""

import dataclasses
import json
from pathlib import Path

import click
import torch

from pyrobayes import attacks, evaluation, load, load_data
from pyrobayes.codec import encode
from pyrobayes.commands import train
from pyrobayes.commands.context import Context
from pyrobayes.evaluation.rates import Rate
from pyrobayes.files import write_json
from pyrobayes.options import NETWORKS, RECIPES, Networks, TrainingOptions
from pyrobayes.results.configuration import flag
from pyrobayes.tensor_files import digest, read_tensors
from pyrobayes.training.checkpoint import MODEL as WEIGHTS
from pyrobayes.training.checkpoint import versions

MODEL, EPS, STEPS, EPOCHS = "gbz", 0.1, 20, 10
CHANGES = (
    {},
    {"kl_warmup": 0.0},
    {"kl_warmup": 0.8},
    {"likelihood": "bernoulli"},
    {"variance": 0.1},
    {"variance": 0.25},
    {"variance": 1.0},
    {"latent": 32},
    {"latent": 128},
    {"averaging": 0.999},
    {"augmentation": "shift"},
    {"augmentation": "shift-flip"},
    {"train_particles": 2},
    {"train_particles": 2, "antithetic": True},
    {"train_particles": 5},
    {"bound": "importance-weighted", "train_particles": 5},
    {"channels": NETWORKS["paper"].channels},
    {"epochs": 5},
    {"epochs": 20},
    {"epochs": 40},
    {"latent": 32, "epochs": 80},
    {"latent": 32, "epochs": 40, "train_particles": 5},
    RECIPES["own"].apart["gbz"],
    {"seed": 1},
    {"likelihood": "laplace"},
    {"likelihood": "discretized-logistic"},
)
OTHERS = {
    **{model: ({}, RECIPES["own"].apart[model]) for model in ("gfz", "gfy", "gby", "dfz")},
    "dfx": ({}, {"epochs": 30, "augmentation": "shift-flip"}, RECIPES["own"].apart["dfx"]),
    "dbx": ({}, {"epochs": 40, "augmentation": "shift-flip"}, RECIPES["own"].apart["dbx"]),
}
ROWS = [(MODEL, each) for each in CHANGES] + [(model, each) for model, of_it in OTHERS.items() for each in of_it]
SIZES = {field.name for field in dataclasses.fields(Networks)}
RESULT = "ablation.json"
RESULTS = Path(__file__).parent / "results" / "ablations.json"


def given(changes: dict) -> str:
    """The options of `pyrobayes train` for these changes."""
    return " ".join(part for name, value in changes.items() for part in flag(name, value))


def folder(runs_folder: Path, model: str, changes: dict) -> Path:
    """The folder of a row's run."""
    return runs_folder / "-".join([model, *(f"{name}-{value}" for name, value in changes.items())])


def known(runs_folder: Path, out: Path) -> list[dict]:
    """All finished rows: those of the file of results, then those of the runs, which replace the former."""
    paths = [folder(runs_folder, *row) / RESULT for row in ROWS]
    rows = json.loads(out.read_text()) if out.is_file() else []
    return rows + [json.loads(path.read_text()) for path in paths if path.is_file()]


def settings_of(model: str, data: str, epochs: int, images: int) -> dict:
    """The settings that all rows of a model share."""
    epochs = epochs if model == MODEL else TrainingOptions.of(model).epochs
    return {"data": data, "epochs": epochs, "images": images, "eps": EPS, "steps": STEPS}


def measured(path: Path, model: str, changes: dict, settings: dict) -> dict:
    """Train one row, or resume it, and judge it on the validation images."""
    data = settings["data"]
    training = {"epochs": settings["epochs"]} | {name: value for name, value in changes.items() if name not in SIZES}
    trained = train.train(
        [model],
        Context(data, runs=path, device="cpu"),
        networks="small",
        network_changes={name: value for name, value in changes.items() if name in SIZES},
        training_changes=training,
        resume=True,
    )
    _, validation = load_data(data).hold_out()
    classifier = load(path / model, device="cpu")
    clean = evaluation.evaluate(classifier, validation)
    attacked = validation.head(settings["images"])
    steps = settings["steps"]
    climbed = [attacks.get("fgsm"), attacks.get("pgd", steps=steps), attacks.get("apgd", steps=steps, snapshot=True)]
    faster = classifier.replaced(precision="bf16", negligible=0.01)
    eps = settings["eps"]
    found = [evaluation.attack(faster, attacked, eps, by=by, checked=0, examples=0) for by in climbed]
    broken = torch.stack([each.log_joint[0].argmax(1) != attacked.labels for each in found])
    return {
        "model": model,
        "changes": changes,
        "given": given(changes),
        "settings": settings,
        "weights": digest(read_tensors(path / model / WEIGHTS)[0], {}),
        "versions": versions(),
        "kl": trained[model][-1].validation_kl,
        "accuracy": encode(clean.accuracy),
        "changed": encode(clean.flipped_by_resampling),
        "negative_log_likelihood": clean.negative_log_likelihood,
        "log_evidence": clean.log_evidence,
        "fgsm": encode(Rate.of(broken[0])),
        "worst": encode(Rate.of(broken.any(0))),
    }


@click.command(help=__doc__.split("\n")[0])
@click.argument("runs_folder", metavar="RUNS", type=click.Path(file_okay=False, path_type=Path))
@click.argument("rows", nargs=-1, type=click.IntRange(0, len(ROWS) - 1))
@click.option("--data", default="fashion-mnist", show_default=True)
@click.option("--epochs", default=EPOCHS, show_default=True, help="of the rows of GBZ that change something else")
@click.option("--images", default=500, show_default=True, help="validation images that are attacked")
@click.option(
    "--out", default=RESULTS, type=click.Path(dir_okay=False, path_type=Path), help="where all rows are written"
)
def main(runs_folder, rows, data, epochs, images, out):
    for row in known(runs_folder, out):
        if row["settings"] != (asked := settings_of(row["model"], data, epochs, images)):
            raise click.ClickException(
                f"in {out} or {runs_folder} is a row that was measured with {row['settings']}, not {asked}: take others"
            )
    for model, changes in [ROWS[row] for row in rows] or ROWS:
        path = folder(runs_folder, model, changes)
        if not (path / RESULT).is_file():
            write_json(path / RESULT, measured(path, model, changes, settings_of(model, data, epochs, images)))
        click.echo(f"{model}, {given(changes) or 'as by default'}: {path / RESULT}")
    found = {(row["model"], row["given"]): row for row in known(runs_folder, out)}
    write_json(out, [found[key] for model, changes in ROWS if (key := (model, given(changes))) in found])


if __name__ == "__main__":
    main()
