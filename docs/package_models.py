"""Put trained models into the package, with a card each: `python docs/package_models.py RUNS RESULTS`.

Weights are rounded to float16. The cards say what `pyrobayes evaluate` and `pyrobayes robustness` found of the models that
are in the package, so first the models are packed, then these two run with `--pretrained --data fashion-mnist --out RESULTS`,
and then this again.
"""

import json
import shutil
from pathlib import Path

import click

from pyrobayes import factorizations
from pyrobayes.checkpoint import CONFIG, MODEL, Config, digest, read_tensors, save_tensors
from pyrobayes.evaluation import Rate
from pyrobayes.options import PRETRAINED

CARD = """# {name}, small networks, Fashion-MNIST

{formula}: {kind} (Li, Bradshaw and Sharma 2019). Comes with pyrobayes as `--pretrained`, or `pyrobayes.pretrained("{model}")`.

* Data: Fashion-MNIST, {shown} of its 60,000 training images, the others for validation; pixels in [0, 1], nothing augmented.
* Recipe: `pyrobayes train {model} --networks small`, seed {seed}: {epochs} epochs, batches of {batch_size}, Adam with a {schedule}
  schedule up to {lr:g}, weight of the KL term raised over {kl_warmup:g} of the run; latent {latent}, hidden {hidden}, {channels} channels,
  {likelihood} likelihood, variance {variance:g}. Weights rounded to float16.
* Accuracy, {evaluated} test images, K = {particles}, fresh noise: {accuracy}; {changed} of the predictions change with another draw.
{robustness}* Weights are under the licence of pyrobayes (Apache 2.0), Fashion-MNIST is under MIT (Zalando SE).
* Made to study adversarial robustness; not to be relied on for anything else.
"""


def percent(rate: dict) -> str:
    """A rate from a result's JSON, with its interval."""
    return Rate(rate["count"], rate["total"]).sentence()


def worst_case(verdict: dict) -> str:
    """What a verdict says of a model, as lines of its card."""
    at = [f"{percent(rate)} at eps {eps:g}" for eps, rate in zip(verdict["eps"], verdict["worst"])]
    failed = [str(check["number"]) for check in verdict["checks"] if check["status"] == "fail"]
    return (
        f"* Worst case over {len(verdict['success'])} attacks, L-infinity, {verdict['images']} test images, success rate:\n"
        f"  {', '.join(at)}.\n"
        f"  Checks that failed: {', '.join(failed) or 'none'}.\n"
    )


@click.command()
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("results", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(runs, results):
    """Pack the seven models in RUNS; RESULTS holds evaluation.json and robustness.json, as far as they are there."""
    found = {}
    for name in ("evaluation.json", "robustness.json"):
        path = results / name
        found[name] = (
            {each["model"]: each for each in json.loads(path.read_text())["results"]} if path.is_file() else {}
        )
    for model in factorizations.names():
        folder, config = PRETRAINED / model, Config.read(runs / model)
        folder.mkdir(parents=True, exist_ok=True)
        tensors, metadata = read_tensors(runs / model / MODEL)
        half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        if not (folder / MODEL).is_file() or digest(half, {}) != digest(read_tensors(folder / MODEL)[0], {}):
            save_tensors(folder / MODEL, half, metadata)
        shutil.copyfile(runs / model / CONFIG, folder / CONFIG)
        evaluation, verdict = (found[name].get(model) for name in ("evaluation.json", "robustness.json"))
        if evaluation:
            options = json.loads((results / "evaluation.json").read_text())["options"]
            (folder / "README.md").write_text(
                CARD.format(
                    name=model.upper(),
                    model=model,
                    formula=factorizations.get(model).formula(),
                    kind="generative" if model.startswith("g") else "discriminative",
                    shown="55,000",
                    evaluated=f"{evaluation['images']:,}",
                    particles=options["particles"],
                    accuracy=percent(evaluation["accuracy"]),
                    changed=f"{100 * evaluation['changed']['share']:.1f}%",
                    robustness=worst_case(verdict) if verdict else "",
                    **vars(config.networks) | vars(config.training),
                )
            )
        click.echo(f"{folder}: {(folder / MODEL).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
