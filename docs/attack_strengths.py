"""Measure what iterative attacks find of the generative models: `python docs/attack_strengths.py`.

Each attack is judged by further draws of the defender's noise, which it never saw, as a verdict judges. The models are those of
the package, and the images the first test images. `docs/write_results.py` makes the table. A run that was stopped goes on.
"""

import json
import time
from pathlib import Path

import click
import torch

from pyrobayes import attacks, evaluation, load_data, pretrained
from pyrobayes.codec import encode
from pyrobayes.evaluation.rates import Rate
from pyrobayes.files import write_json
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.training.checkpoint import versions

MODELS, EPS, DRAWS = ("gfz", "gfy", "gbz", "gby"), 0.1, 20
ATTACKS = {
    "pgd": attacks.get("pgd", steps=40),
    "apgd, snapshot": attacks.get("apgd", snapshot=True, steps=40),
    "eot-mim, first stage alone": attacks.get("eot-mim", second_steps=0),
    "eot-mim": attacks.get("eot-mim"),
}
RESULTS = Path(__file__).parent / "results" / "attack_strengths.json"


def measured(model: str, attack: str, images: int) -> dict:
    """What an attack finds of a model: images misclassified in most further draws, and the mean share of these draws."""
    classifier, few = pretrained(model), load_data("fashion-mnist", "test").head(images)
    begun = time.process_time()
    found = evaluation.attack(classifier, few, [EPS], by=ATTACKS[attack], batch_size=50, examples=None, checked=0)
    seconds, wrong = time.process_time() - begun, []
    for indices, x, y in few.batches(50):
        adversarial = found.examples[0][indices].to(x)
        draws = range(NoiseStream.REDRAWS, NoiseStream.REDRAWS + DRAWS)
        with torch.no_grad():
            wrong.append(torch.stack([classifier.for_images(indices, d)(adversarial).argmax(1) != y for d in draws]))
    shares = torch.cat(wrong, dim=1).double().mean(0)
    return {
        "model": model,
        "attack": attack,
        "options": found.options,
        "eps": EPS,
        "draws": DRAWS,
        "gradients": ATTACKS[attack].gradients(classifier.options.particles),
        "seconds": round(seconds, 1),
        "most": encode(Rate.of(shares > 0.5)),
        "share": shares.mean().item(),
        "versions": versions(),
    }


@click.command(help=__doc__)
@click.option("--images", default=200, show_default=True, help="first test images of Fashion-MNIST")
def main(images: int) -> None:
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for model in MODELS:
        for attack in ATTACKS:
            if not any((row["model"], row["attack"]) == (model, attack) for row in rows):
                rows.append(measured(model, attack, images))
                write_json(RESULTS, rows)
                click.echo(f"{model} {attack}: {100 * rows[-1]['share']:.1f}% of further draws")


if __name__ == "__main__":
    main()
