"""Measure what attacks find of the generative models, and what they add to eot-mim: `python docs/attack_strengths.py`.

Each attack is judged by further draws of the defender's noise, which it never saw, as a verdict judges; with eot-mim, other draws
choose between both first. The models are those of the package, and the images the first test images. `docs/write_results.py`
makes the table. A run that was stopped goes on.
"""

import json
import time
from pathlib import Path

import click
import torch

from pyrobayes import RobustnessOptions, attacks, load_data, pretrained
from pyrobayes.codec import encode
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.robustness.cache import ResultCache
from pyrobayes.evaluation.robustness.measurements import RobustnessRun
from pyrobayes.evaluation.robustness.suite import EOT_MIM, SuiteEntry
from pyrobayes.files import write_json
from pyrobayes.progress import silent
from pyrobayes.training.checkpoint import versions

MODELS, EPS, DRAWS = ("gbz", "gfz", "gby", "gfy"), 0.1, 20
MIXTURE = {"estimator": "mixture"}
ATTACKS = {
    EOT_MIM: SuiteEntry(attacks.get(EOT_MIM)),
    "fgsm": SuiteEntry(attacks.get("fgsm")),
    "fgsm, Fisher's gradient": SuiteEntry(attacks.get("fgsm", gradient="fisher")),
    "mim, Fisher's gradient": SuiteEntry(attacks.get("mim", gradient="fisher")),
    "pgd": SuiteEntry(attacks.get("pgd", steps=40)),
    "pgd, one particle a step": SuiteEntry(attacks.get("pgd", steps=200), {"particles": 1}),
    "pgd, p(y|...) alone": SuiteEntry(attacks.get("pgd", steps=40, term="y"), {"particles": 100}),
    "pgd, mixture": SuiteEntry(attacks.get("pgd", steps=40), MIXTURE),
    "apgd, snapshot": SuiteEntry(attacks.get("apgd", snapshot=True, steps=40)),
}
WITHOUT = {"gfz": ("pgd, mixture",), "gfy": ("pgd, mixture", "pgd, p(y|...) alone"), "gby": ("pgd, p(y|...) alone",)}
RESULTS = Path(__file__).parent / "results" / "attack_strengths.json"


def judged(shares: torch.Tensor) -> dict:
    """Images misclassified in most further draws, and the mean share of these draws, of the share of each image."""
    return {"most": encode(Rate.of(shares > 0.5)), "share": shares.mean().item()}


def measured(run: RobustnessRun, name: str) -> dict:
    """An attack on a model, alone and with eot-mim."""
    entry = ATTACKS[name]
    begun = time.process_time()
    found = run.attacked(name, entry, run.data, [EPS])
    seconds = time.process_time() - begun
    run.suite, together = {EOT_MIM: ATTACKS[EOT_MIM], name: entry}, {}
    if name != EOT_MIM:
        run._results.pop(name, None), run.__dict__.pop("resampled", None)
        together = {"with eot-mim": judged(run.resampled[0])}
    return {
        "model": run.name,
        "attack": name,
        "options": entry.attack.described() | {"attacker": dict(entry.attacker)},
        "eps": EPS,
        "draws": DRAWS,
        "gradients": entry.gradients(run.classifier.options.particles),
        "seconds": round(seconds, 1),
        **judged(run.share_of_draws(name, found["adversarial"][0], run.data)),
        **together,
        "versions": versions(),
    }


@click.command(help=__doc__)
@click.option("--images", default=200, show_default=True, help="first test images of Fashion-MNIST")
@click.option("--models", default=",".join(MODELS), show_default=True)
@click.option("--attacks", "names", default=";".join(ATTACKS), help="as a list with semicolons; all where left out")
def main(images: int, models: str, names: str) -> None:
    for model in models.split(","):
        few = load_data("fashion-mnist", "test").head(images)
        options = RobustnessOptions(images=images, eps=(EPS,), redraws=DRAWS, batch_size=50)
        run = RobustnessRun(pretrained(model), few, options, (), ResultCache(), silent)
        for name in [name for name in ATTACKS if name in names.split(";") and name not in WITHOUT.get(model, ())]:
            rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
            if any((row["model"], row["attack"]) == (model, name) for row in rows):
                continue
            row = measured(run, name)
            rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []  # another process may have added some
            write_json(RESULTS, [*rows, row])
            click.echo(f"{model} {name}: {100 * row['share']:.1f}% of further draws, {row['seconds']} s")


if __name__ == "__main__":
    main()
