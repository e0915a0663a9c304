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

from pyrobayes import Images, RobustnessOptions, attacks, load_data, pretrained
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


def measured(model: str, name: str, few: Images, cache: ResultCache) -> dict:
    """An attack on a model, alone and with eot-mim."""
    entry, options = ATTACKS[name], RobustnessOptions(images=len(few), eps=(EPS,), redraws=DRAWS, batch_size=50)
    run = RobustnessRun(pretrained(model), few, options, (), cache, silent)
    run.suite = {EOT_MIM: ATTACKS[EOT_MIM], name: entry}
    begun = time.process_time()
    found = run.result(name)
    seconds = time.process_time() - begun
    return {
        "model": model,
        "attack": name,
        "options": entry.attack.described() | {"attacker": dict(entry.attacker)},
        "eps": EPS,
        "draws": DRAWS,
        "gradients": entry.gradients(*run.decoded),
        "seconds": round(seconds, 1),
        **judged(run.share_of_draws(name, found["adversarial"][0], few)),
        **({"with eot-mim": judged(run.resampled[0])} if name != EOT_MIM else {}),
        "versions": versions(),
    }


def rows_so_far() -> list[dict]:
    """The rows that are measured, which another process may have added to."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


@click.command(help=__doc__)
@click.option("--images", default=200, show_default=True, help="first test images of Fashion-MNIST")
@click.option("--models", default=",".join(MODELS), show_default=True)
@click.option("--attacks", "names", default=";".join(ATTACKS), help="as a list with semicolons; all where left out")
def main(images: int, models: str, names: str) -> None:
    few = load_data("fashion-mnist", "test").head(images)
    for model in models.split(","):
        cache, left_out = ResultCache(), WITHOUT.get(model, ())
        for name in [name for name in ATTACKS if name in names.split(";") and name not in left_out]:
            if any((row["model"], row["attack"]) == (model, name) for row in rows_so_far()):
                continue
            row = measured(model, name, few, cache)
            write_json(RESULTS, [*rows_so_far(), row])
            click.echo(f"{model} {name}: {100 * row['share']:.1f}% of further draws, {row['seconds']} s")


if __name__ == "__main__":
    main()
