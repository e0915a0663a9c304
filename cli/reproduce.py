"""The commands `reproduce` and `report`."""

from pathlib import Path

import click

from pyrobayes.errors import InputError
from pyrobayes.options import NETWORKS, RECIPES
from pyrobayes.progress import ProgressBar
from pyrobayes_cli import options
from pyrobayes_cli.models import show_training
from pyrobayes_cli.results import show_attack, show_evaluation, show_worst_cases


def _each(what) -> str:
    return ", ".join(f"{name} {what(recipe)}" for name, recipe in RECIPES.items())


@click.command("reproduce", short_help="Train, evaluate and attack all seven models, and draw the figures.")
@click.option(
    "--recipe",
    default="own",
    show_default=True,
    type=click.Choice(list(RECIPES), case_sensitive=False),
    help="own: what is best here, longer trainings than those of train; poster: as published; quick: on the embedded subset, with tiny networks, two epochs and a few test images",
)
@click.option("--quick", is_flag=True, help="the same as --recipe quick")
@click.option(
    "--networks",
    type=click.Choice(list(NETWORKS), case_sensitive=False),
    help=f"sizes [default: {_each(lambda recipe: recipe.networks)}]",
)
@options.with_default(
    "--seeds", default=1, type=click.IntRange(1), help="trainings, with seeds that count up from --seed"
)
@click.option(
    "--runs",
    type=options.FOLDER,
    help="folder of models and results [default: runs, with the recipe and the networks where they are others]",
)
@options.data_dir
@options.device
@click.option(
    "--images",
    type=click.IntRange(1),
    help=f"test images that FGSM attacks [default: {_each(lambda recipe: recipe.attacked or 'all')}]",
)
@options.with_default("--particles", default=10, type=click.IntRange(1), help="particles K per class")
@options.with_default("--seed", default=0, type=click.IntRange(0), help="seed of training, particles and samples")
@options.resume(default=True)
def reproduce(recipe, quick, networks, seeds, runs, data_dir, device, images, particles, seed, resume):
    """Train all seven models, evaluate and attack them, draw every figure, and compare with what is published.

    FGSM's success rates never stand alone: a brief verdict (see robustness) on fewer images gives the worst case beside them.
    What is done is kept, and an interrupted run goes on from there. Results of several seeds are in seed-N each,
    and what they say together beside them.

    \b
    Examples:
      pyrobayes reproduce --quick
      pyrobayes reproduce --recipe poster
      pyrobayes reproduce --networks paper --seeds 3
    """
    if quick and recipe not in ("own", "quick"):
        raise InputError(f"--quick is a recipe of its own: leave it or --recipe {recipe} out")
    recipe = "quick" if quick else recipe
    chosen = RECIPES[recipe]
    attacked = images or chosen.attacked or "all"
    sizes = networks or chosen.networks
    others = [name for name, default in ((recipe, "own"), (sizes, chosen.networks)) if name != default]
    folder = runs or "-".join(["runs", *others])
    time = f": {chosen.time}{'' if seeds == 1 else f', {seeds} times'}" if sizes == chosen.networks else ""
    on = f" on {' and '.join(map(str.upper, chosen.judged))}" if chosen.judged else ""
    click.echo(
        f"All seven models with {sizes} networks on {chosen.data}, then FGSM on {attacked} test images and a brief verdict{on}{time}. "
        f"Everything goes to {folder}; interrupted, the same command goes on where it stopped."
    )

    from pyrobayes.commands import reproduce as library
    from pyrobayes.commands.context import Context

    with ProgressBar(lines=True) as progress:
        context = Context(data_dir=data_dir, runs=folder, device=device, progress=progress)
        how = {"networks": networks, "seeds": seeds, "seed": seed, "particles": particles, "images": images}
        result = library.reproduce(recipe, context, **how, resume=resume)
    for where, trained, evaluations, attacks, verdicts in zip(
        result.folders, result.trained, result.evaluations, result.attacks, result.verdicts, strict=True
    ):
        show_training(trained, where)
        show_evaluation(evaluations, where)
        show_attack(attacks, where)
        show_worst_cases(verdicts)
    if result.comparisons:
        show_comparison(result, folder)
    written = dict.fromkeys([*result.folders, *([Path(folder)] if result.comparisons else [])])
    click.echo(f"Reports (report.html, report.md), with the sheets of checks, are in {', '.join(map(str, written))}.")


def show_comparison(result, folder) -> None:
    """Print published and our success rates, and which of the poster's claims hold."""
    from pyrobayes.results import tables

    click.echo(tables.comparisons_by_eps(result.comparisons).as_text())
    click.echo(tables.Table.of(tables.CLAIM, result.claims).as_text())
    click.echo(f"Figure and reproduction.json are in {folder}.")


@click.command("report", short_help="Write the report of results again.")
@options.runs
@click.option("--out", type=options.FOLDER, help="folder of the results [default: --runs]")
def report(runs, out):
    """Write report.html and report.md of the results in a folder.

    `reproduce` and `robustness` end with it. Here it is made of whatever evaluation.json, attack.json, detection.json,
    certification.json, robustness.json, reproduction.json and figures are there. The page needs no other file; the Markdown shows the
    figures beside it.

    \b
    Example:
      pyrobayes report
    """
    from pyrobayes.commands import report as library
    from pyrobayes.commands.context import Context

    click.echo(f"Wrote {' and '.join(map(str, library.report(Context(runs=runs, out=out))))}.")
