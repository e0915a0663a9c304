"""`pyrobayes reproduce`."""

import click

from pyrobayes.options import AttackOptions, EvaluationOptions
from pyrobayes_cli import options
from pyrobayes_cli.attack import show_attack
from pyrobayes_cli.evaluate import show_evaluation
from pyrobayes_cli.output import Progress
from pyrobayes_cli.train import show_training

FULL = {
    "data": "fashion-mnist",
    "training": {},
    "evaluated": None,  # all test images
    "attacked": 1000,
    "time": "an hour to an hour and a half on two CPU cores",
}
QUICK = {
    "data": "fashion-mnist-mini",
    "training": {"epochs": 5, "batch_size": 32, "lr": 2e-3, "kl_warmup": 0.2},
    "evaluated": 200,
    "attacked": 200,
    "time": "about seven minutes on two CPU cores",
}


@click.command("reproduce", short_help="Train, evaluate and attack all seven models, and draw the figures.")
@click.option("--quick", is_flag=True, help="on the embedded subset, with fewer epochs and 200 test images")
@click.option(
    "--runs", type=click.Path(file_okay=False), help="folder of models and results [default: runs, quick: runs-quick]"
)
@options.data_dir
@options.device
@click.option("--particles", default=10, show_default=True, help="particles K per class")
@click.option("--seed", default=0, show_default=True, help="seed of training, particles and samples")
def command(quick, runs, data_dir, device, particles, seed):
    """Train all seven models with small networks, evaluate and attack them, draw every figure, and write a report.

    On the full data set, or with --quick on the embedded subset. What is already done is not done again:
    an interrupted reproduction goes on where it stopped.

    \b
    Example:
      pyrobayes reproduce --quick
    """
    recipe = QUICK if quick else FULL
    evaluation = EvaluationOptions(particles=particles, images=recipe["evaluated"], seed=seed)
    attack = AttackOptions(particles=particles, images=recipe["attacked"], seed=seed)
    folder = runs or ("runs-quick" if quick else "runs")
    click.echo(
        f"All seven models with small networks on {recipe['data']}, then FGSM on {recipe['attacked']} test images: "
        f"{recipe['time']}. Everything goes to {folder}; interrupted, it goes on where it stopped."
    )

    from pyrobayes import build, report
    from pyrobayes import runs as library
    from pyrobayes.data import fetch

    report.read(folder, ["robustness"])  # of another command; damaged, it is refused now and not in the end
    fetch(recipe["data"], data_dir)
    where = {"data_dir": data_dir, "runs": folder, "device": device}
    names = ["all"]
    with Progress() as progress:
        trained = library.train(
            names,
            networks="small",
            training_changes=recipe["training"] | {"seed": seed},
            data=recipe["data"],
            resume=True,
            progress=progress,
            **where,
        )
        show_training(trained, folder)
        evaluations = library.evaluate(names, evaluation, data=recipe["data"], progress=progress, **where)
        show_evaluation(evaluations, folder)
        results = library.attack(names, attack, data=recipe["data"], progress=progress, **where)
        show_attack(results, folder)
    drawn = [
        path
        for name in trained
        if build(name, "small").models_images
        for path in library.draw_samples(name, seed=seed, **where)
    ]
    click.echo(f"Samples and reconstructions: {', '.join(path.name for path in drawn)}.")
    click.echo(f"Report: {' and '.join(map(str, report.write(folder)))}.")
