"""Measure what iterative attacks find of the generative models: `python docs/attack_strengths.py`.

Each attack is judged by further draws of the defender's noise, which it never saw, as a verdict judges. The models are those of
the package, and the images the first test images. `docs/write_results.py` makes the table. A run that was stopped goes on.
"""

import json
import time
from pathlib import Path

import click

from pyrobayes import RobustnessOptions, attacks, load_data, pretrained
from pyrobayes.codec import encode
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.robustness.cache import ResultCache
from pyrobayes.evaluation.robustness.measurements import RobustnessRun
from pyrobayes.evaluation.robustness.suite import SuiteEntry
from pyrobayes.files import write_json
from pyrobayes.progress import silent
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
    """An attack on a model: images misclassified in most further draws, and the mean share of these draws."""
    classifier, few = pretrained(model), load_data("fashion-mnist", "test").head(images)
    options = RobustnessOptions(images=images, redraws=DRAWS, batch_size=50)
    run, entry = RobustnessRun(classifier, few, options, (), ResultCache(), silent), SuiteEntry(ATTACKS[attack])
    begun = time.process_time()
    found = run.attacked(attack, entry, few, [EPS])
    seconds = time.process_time() - begun
    shares = run.share_of_draws(attack, found["adversarial"][0], few)
    return {
        "model": model,
        "attack": attack,
        "options": entry.attack.described(),
        "eps": EPS,
        "draws": DRAWS,
        "gradients": entry.gradients(classifier.options.particles),
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
