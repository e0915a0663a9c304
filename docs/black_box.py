"""Measure attacks that can only ask a classifier: `python docs/black_box.py RUNS`.

A victim is attacked by images that PGD makes against another model, or against a network distilled from the victim's answers, and by SimBA.
Further draws of the victim's noise judge the images, which no attack saw; an image is misclassified, or rejected by a test of
`pyrobayes detect`, where it is in most of them. The CNN is trained in RUNS; the other victims come with the package.

Finished rows aren't measured again. `docs/write_results.py` makes the table.
"""

import functools
import json
import time
from pathlib import Path

import click
import torch
from torch import Tensor

from pyrobayes import attacks, distill, fit_detector, load, load_data, pretrained
from pyrobayes.attacks import Attack
from pyrobayes.codec import encode
from pyrobayes.commands import train
from pyrobayes.commands.context import Context
from pyrobayes.evaluation.detection import Detector
from pyrobayes.evaluation.rates import Rate
from pyrobayes.files import write_json
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.options import DETECTION_TESTS
from pyrobayes.training.checkpoint import versions

VICTIMS = ("cnn", "dfx", "gbz")
DATA, EPS, DRAWS, FITTED, STEPS = "fashion-mnist", 0.1, 10, 2000, 20
QUERIES, EPOCHS, ROUNDS = 2000, 10, 3  # of substitutes; each round doubles the images
TRAINING = {"epochs": 5}  # of the CNN
SUBSTITUTES = {
    "distilled": {"images": QUERIES, "rounds": 0},
    "distilled, Jacobian": {"images": QUERIES // 2**ROUNDS, "rounds": ROUNDS},
}
UNCHANGED = "unchanged"
SIMBA = {"SimBA, 49 cosines": 49}
RESULTS = Path(__file__).parent / "results" / "black_box.json"


class Measurement:
    """One victim, the test images and the training images; `runs` has the CNN.

    `transferred` has the images that were made against other models, by name: they don't depend on the victim.
    """

    def __init__(self, victim: str, runs: Path, images: int, transferred: dict[str, Tensor]):
        self.victim, self.runs, self.transferred = opened(victim, runs), runs, transferred
        self.training = load_data(DATA, "train")
        self.x, self.y = load_data(DATA, "test").head(images).batch(slice(None))

    @functools.cached_property
    def detector(self) -> Detector:
        """The tests of the victim."""
        return fit_detector(self.victim, self.training, images=FITTED, progress=False)

    def made(self, source: str) -> tuple[Tensor, dict]:
        """Adversarial images against the victim, and how they were made."""
        if source == UNCHANGED:
            return self.x, {"queries": 0}
        if source in SIMBA:
            by = attacks.get("simba", basis="dct", steps=SIMBA[source])
            queries = SIMBA[source] * (3 if self.victim.random else 2) * len(self.x)
            return self.attacked(by), {"options": by.described(), "queries": queries}
        if source in SUBSTITUTES:
            how = dict(SUBSTITUTES[source])
            substitute = distill(self.victim, self.training.head(how["images"]), epochs=EPOCHS, rounds=how["rounds"])
            by = attacks.get("transfer", sources=(substitute,), steps=STEPS)
            told = {"options": by.described(), "substitute": how | {"epochs": EPOCHS}, "queries": QUERIES}
            return self.attacked(by), told
        by = attacks.get("transfer", sources=(opened(source, self.runs),), steps=STEPS)
        if source not in self.transferred:
            self.transferred[source] = self.attacked(by)
        return self.transferred[source], {"options": by.described(), "queries": 0}

    def attacked(self, by: Attack) -> Tensor:
        """Adversarial images of the test images, by an attack on the victim."""
        return by(self.victim, self.x, self.y, EPS)

    @torch.no_grad()
    def judged(self, images: Tensor) -> dict:
        """How many images are misclassified, rejected by each test, and both misclassified and accepted, in most further draws."""
        draws = range(NoiseStream.REDRAWS, NoiseStream.REDRAWS + (DRAWS if self.victim.random else 1))
        indices = torch.arange(len(images))
        log_joints = [self.victim.for_images(indices, draw)(images) for draw in draws]
        wrong = torch.stack([log_joint.argmax(1) != self.y for log_joint in log_joints])
        generative = self.victim.factorization.structure.models_images
        tests = [test for test in DETECTION_TESTS if generative or test == "kl"]
        found = {"rejected": {}, "undetected": {}}
        for test in tests:
            rejected = torch.stack([self.detector.rejects(test, log_joint) for log_joint in log_joints])
            found["rejected"][test] = encode(most(rejected))
            found["undetected"][test] = encode(most(wrong & ~rejected))
        return {"success": encode(most(wrong)), "share": wrong.float().mean().item(), "draws": len(draws), **found}


def most(chosen: Tensor) -> Rate:
    """The share of the images for which most draws are true, of [draws, N]."""
    return Rate.of(chosen.float().mean(0) > 0.5)


@functools.cache
def opened(model: str, runs: Path) -> BayesClassifier:
    """A model of the package, or the CNN, which is trained first."""
    if model != "cnn":
        return pretrained(model, device="cpu")
    context = Context(DATA, runs=runs, device="cpu")
    train.train([model], context, networks="small", training_changes=TRAINING, resume=True)
    return load(runs / model, device="cpu")


def sources(victim: str) -> list[str]:
    """All sources of images against a victim."""
    others = [model for model in VICTIMS if model != victim]
    return [UNCHANGED, *others, *SUBSTITUTES, *SIMBA]


@click.command(help=__doc__.split("\n")[0])
@click.argument("runs", type=click.Path(file_okay=False, path_type=Path))
@click.option("--images", default=100, show_default=True, help="first test images")
@click.option("--victims", default=",".join(VICTIMS), show_default=True)
@click.option("--out", default=RESULTS, type=click.Path(dir_okay=False, path_type=Path))
def main(runs: Path, images: int, victims: str, out: Path) -> None:
    rows = json.loads(out.read_text()) if out.is_file() else []
    transferred: dict[str, Tensor] = {}
    for victim in victims.split(","):
        measurement = Measurement(victim, runs, images, transferred)
        for source in sources(victim):
            if any((row["victim"], row["source"]) == (victim, source) for row in rows):
                continue
            begun = time.process_time()
            adversarial, told = measurement.made(source)
            found = measurement.judged(adversarial)
            row = {"victim": victim, "source": source, "data": DATA, "eps": EPS, **told, **found}
            rows.append(row | {"seconds": round(time.process_time() - begun), "versions": versions()})
            write_json(out, rows)
            click.echo(f"{victim}, {source}: {row['success']['count']} of {images}, {rows[-1]['seconds']} s")


if __name__ == "__main__":
    main()
