"""Compare our attacks with those of libraries: `python docs/library_attacks.py`.

The images are the first test images, attacked at one eps in L-infinity. With fresh noise most of 20 further draws, which no attack
saw, judge each image; with fixed noise the classifier has one answer. `docs/write_results.py` makes the table. A run that was
stopped goes on.

The models are those of the package, and `cnn` of `pyrobayes train cnn --networks small --epochs 5`.
"""

import time
from pathlib import Path

import click
import torch
from least_distances import FAST, classifier_of, saved

from pyrobayes import attacks, evaluation, load_data
from pyrobayes.codec import encode
from pyrobayes.evaluation.attacked import JUDGES
from pyrobayes.evaluation.rates import Rate
from pyrobayes.files import write_json
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.training.checkpoint import versions

EPS = 0.1
ATTACKS = {
    "eot-mim": attacks.get("eot-mim"),
    "apgd": attacks.get("apgd"),
    "fmn": attacks.get("fmn"),
    "fab": attacks.get("fab"),
    "autoattack, standard": attacks.get("autoattack"),
    "autoattack, rand": attacks.get("autoattack", variant="rand"),
}
NOISES = ("fixed", "fresh")
RESULTS = Path(__file__).parent / "results" / "library_attacks.json"


def judged(classifier, adversarial: torch.Tensor, labels: torch.Tensor) -> Rate:
    """The images that most further draws misclassify."""
    places = torch.arange(len(labels))
    draws = range(NoiseStream.REDRAWS, NoiseStream.REDRAWS + (JUDGES if classifier.random else 1))
    with torch.no_grad():
        wrong = [classifier.for_images(places, draw)(adversarial).argmax(1) != labels for draw in draws]
    return Rate.of(torch.stack(wrong).double().mean(0) > 0.5)


def measured(model: str, runs: Path, noise: str, name: str, images: int) -> dict:
    """An attack on a model, judged, and what it took."""
    classifier, data = classifier_of(model, runs, noise=noise), load_data("fashion-mnist", "test").head(images)
    attacker, begun = FAST if classifier.factorization.structure.generative else {}, time.process_time()
    result = evaluation.attack(
        classifier,
        data,
        EPS,
        by=ATTACKS[name],
        attacker=attacker,
        batch_size=50,
        examples=None,
        checked=0,
        progress=False,
    )
    seconds = round(time.process_time() - begun, 1)
    found = judged(classifier, result.examples[0], data.labels)
    told = {
        "classifier": classifier.options.decisive,
        "model": model,
        "noise": noise,
        "attack": name,
        "options": result.options,
        "eps": EPS,
        "seed": 0,
    }
    return told | {
        "misclassified": encode(found),
        "judges": JUDGES if classifier.random else 1,
        "seconds": seconds,
        "versions": versions(),
    }


@click.command(help=__doc__)
@click.option("--images", default=50, show_default=True, help="first test images of Fashion-MNIST")
@click.option("--models", default="gbz,gfz,dfx,cnn", show_default=True)
@click.option("--noises", default=",".join(NOISES), show_default=True)
@click.option("--attacks", "names", default=";".join(ATTACKS), help="as a list with semicolons; all where left out")
@click.option("--runs", default="runs", show_default=True, type=click.Path(path_type=Path), help="folder of the cnn")
def main(images: int, models: str, noises: str, names: str, runs: Path) -> None:
    for name in [name for name in ATTACKS if name in names.split(";")]:
        for model in models.split(","):
            for noise in noises.split(","):
                rows = saved(RESULTS)
                if any((row["model"], row["noise"], row["attack"]) == (model, noise, name) for row in rows):
                    continue
                row = measured(model, runs, noise, name, images)
                write_json(RESULTS, [*saved(RESULTS), row])  # another process may have added some
                click.echo(f"{model} {noise} {name}: {row['misclassified']} {row['seconds']} s")


if __name__ == "__main__":
    main()
