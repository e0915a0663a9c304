"""Measure the distances of the nearest adversarial images in four norms: `python docs/least_distances.py`.

The images are the first test images. Most of 20 further draws of the defender's noise must misclassify an image for its distance to
count. `docs/write_results.py` makes the table, `docs/draw_figures.py` the figure. A run that was stopped goes on.

The models are those of the package, and `cnn` of `pyrobayes train cnn --networks small --epochs 5`.
"""

import json
import time
from pathlib import Path

import click

from pyrobayes import attacks, evaluation, load, load_data, pretrained
from pyrobayes.attacks.norms import ORDERS
from pyrobayes.codec import encode
from pyrobayes.files import write_json
from pyrobayes.options import EPS, EPS_OF_NORM, MODELS
from pyrobayes.training.checkpoint import versions

FAST = {"negligible": 0.01}  # of the attacker alone
STEPS = 50
ATTACKS = [attacks.get("fmn", norm=norm, steps=STEPS) for norm in ORDERS]
ATTACKS += [attacks.get("ddn", steps=STEPS), attacks.get("fab", norm="l2", steps=STEPS)]
RESULTS = Path(__file__).parent / "results" / "least_distances.json"


def classifier_of(model: str, runs: Path, **options):
    """A model of the package, or one that was trained into a folder of runs."""
    return pretrained(model, **options) if model in MODELS else load(runs / model, **options)


def saved(path: Path) -> list[dict]:
    """The rows of a results file; none where there is no file yet."""
    return json.loads(path.read_text()) if path.exists() else []


def measured(model: str, runs: Path, attack: attacks.Attack, images: int) -> dict:
    """An attack on a model, and what it took."""
    classifier, begun = classifier_of(model, runs), time.process_time()
    attacker = FAST if classifier.factorization.structure.generative else {}
    eps, data = EPS_OF_NORM.get(attack.norm, EPS), load_data("fashion-mnist", "test")
    result = evaluation.attack(
        classifier, data, eps, by=attack, attacker=attacker, images=images, batch_size=50, checked=0, progress=False
    )
    seconds = round(time.process_time() - begun, 1)
    told = {"result": encode(result), "classifier": classifier.options.decisive}
    return told | {"seconds": seconds, "versions": versions()}


@click.command(help=__doc__)
@click.option("--images", default=50, show_default=True, help="first test images of Fashion-MNIST")
@click.option("--models", default="gbz,gfz,dfx,cnn", show_default=True)
@click.option("--attacks", "names", default="fmn,ddn,fab", show_default=True)
@click.option("--norms", default=",".join(ORDERS), show_default=True)
@click.option("--runs", default="runs", show_default=True, type=click.Path(path_type=Path), help="folder of the cnn")
def main(images: int, models: str, names: str, norms: str, runs: Path) -> None:
    for attack in [each for each in ATTACKS if each.name in names.split(",") and each.norm in norms.split(",")]:
        for model in models.split(","):
            key = [model, attack.name, attack.norm]
            done = [
                [r["result"]["model"], r["result"]["attack"], r["result"]["options"]["norm"]] for r in saved(RESULTS)
            ]
            if key not in done:
                row = measured(model, runs, attack, images)
                write_json(RESULTS, [*saved(RESULTS), row])  # another process may have added some
                click.echo(f"{key} {row['seconds']} s")


if __name__ == "__main__":
    main()
