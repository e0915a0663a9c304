"""The commands around one model: train, show, generate; and those of data sets."""

import dataclasses
import json
import shlex
import sys

import click

from pyrobayes.data.declared import DATASETS
from pyrobayes.errors import InputError
from pyrobayes.interrupts import Interrupted
from pyrobayes.options import NETWORKS, Networks, TrainingOptions
from pyrobayes.progress import ProgressBar
from pyrobayes_cli import options


@click.command("train", short_help="Train models.")
@options.models_to_train
@click.option(
    "--networks",
    type=click.Choice(tuple(NETWORKS), case_sensitive=False),
    help="sizes of the networks: those of the paper for 28x28 images, 32 (small) or 16 (tiny) channels, or those of the authors for "
    "CIFAR-10 (cifar); original has the paper's sizes and all other details of the authors' program; single ones can be changed below  [default: paper]",
)
@options.of_record(Networks, defaults=False)
@options.of_record(TrainingOptions)
@options.data("the data set; fashion-mnist-mini is embedded  [default: fashion-mnist]")
@options.data_dir
@options.runs
@options.device
@click.option("--resume", is_flag=True, help="go on with runs that are there, with the options they were started with")
@click.option("--overwrite", is_flag=True, help="replace runs that are there")
@click.option("--tensorboard", is_flag=True, help="write TensorBoard event files too")
@options.as_json
def train(models, networks, data, data_dir, runs, device, resume, overwrite, tensorboard, as_json, **_):
    """Train MODELs (gfz, gfy, gbz, gby, dfx, dfz, dbx, or all) and save each under RUNS/MODEL after every epoch.

    To hold them against there are cnn, a convolutional network with a softmax, cnn-at, the same trained on
    adversarial images, and bnn, the same with dropout kept on.

    Ctrl-C saves, and so do SIGTERM and SIGHUP; --resume goes on from there, and ends with the same weights as if
    nothing had happened.
    A twelfth of the training images is held out for validation; test images are never looked at.

    \b
    Examples:
      pyrobayes train gbz
      pyrobayes train all --networks small --epochs 5
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    data = options.chosen_data(data)
    changes = {"network_changes": options.explicit(Networks), "training_changes": options.explicit(TrainingOptions)}
    dataclasses.replace(NETWORKS["paper"], **changes["network_changes"])  # refuse at once
    if not resume:  # else they are changes of options that aren't known yet
        TrainingOptions(**changes["training_changes"])

    from pyrobayes.commands import train as library
    from pyrobayes.commands.context import Context

    with ProgressBar(lines=True) as progress:
        context = Context(data, data_dir, runs, device=device, progress=progress)
        how = {"networks": networks, "resume": resume, "overwrite": overwrite, "tensorboard": tensorboard}
        try:
            trained = library.train(models, context, **how, **changes)
        except KeyboardInterrupt as stopped:
            complete = getattr(stopped, "complete", False)
            told = [str(stopped) or "interrupted", how_to_go_on(progress.model, models, overwrite, complete)]
            raise Interrupted.after(stopped, "; ".join(filter(None, told))) from None
    if as_json:
        epochs = {name: [dataclasses.asdict(epoch) for epoch in epochs] for name, epochs in trained.items()}
        click.echo(json.dumps(epochs, indent=2))
    else:
        show_training(trained, runs)


def how_to_go_on(current: str | None, models, overwrite: bool, complete: bool = False) -> str:
    """The command to type after an interrupt: the same with --resume, unless it was replacing the runs of several models.

    Empty where the training of the last model was `complete`.
    """
    from pyrobayes.commands.context import model_names

    if current is None:
        return "nothing was started"
    names = model_names(models)
    last = current == names[-1]
    if complete and last:
        return ""
    if overwrite and complete:
        return f"to go on, name only the models after {current}"
    if overwrite and len(names) > 1:
        after = "" if last else "; the models after it are as they were"
        return f"to go on with {current}, name only {current} and give --resume in place of --overwrite{after}"
    typed = [argument for argument in sys.argv[1:] if argument not in ("--resume", "--overwrite")]
    return f"to go on: {shlex.join(['pyrobayes', *typed, '--resume'])}"


def show_training(trained, runs) -> None:
    """Print the last epoch of every model as a table."""
    from pyrobayes.results import tables

    click.echo(tables.trainings(trained, runs).as_text())


@click.command("show", short_help="Show a model as a specification.")
@options.model
@click.option("--figure", type=click.Path(), help="write a drawing of the graphical model to FIGURE.pdf and FIGURE.png")
@options.as_json
def show(model, figure, as_json):
    """Show the formula of MODEL, the source of its model and guide as they run, and every site's parents.

    The parents are read from the running model, not from the formula.

    \b
    Example:
      pyrobayes show gbz --figure gbz
    """
    from pyrobayes import build
    from pyrobayes.results import figures

    factorization = build(model, networks="small")
    formula, source, parents = factorization.formula(), factorization.source(), factorization.parents()
    if figure:
        stem = figure.removesuffix(".pdf").removesuffix(".png")
        written = figures.save(figures.graphical_model(factorization), stem)
    if as_json:
        shown = {"model": factorization.name, "formula": formula, "parents": parents, "source": source}
        click.echo(json.dumps(shown, indent=2))
        return
    click.echo(f"{factorization.name.upper()}: {formula}\n")
    for part, text in source.items():
        click.echo(f"# {part}\n{text}")
    click.echo("# parents, read from the running model")
    for site, above in parents.items():
        click.echo(f"{site}: {', '.join(above) or '-'}")
    if figure:
        click.echo(f"\nDrawn in {written[0]} and {written[1]}.")


@click.command("generate", short_help="Draw images from a trained model.")
@options.model
@options.with_default("--per-class", default=8, help="images of every class")
@options.with_default("--seed", default=0, help="seed of the samples")
@options.of_models
def generate(model, per_class, seed, context):
    """Draw images of every class from a trained MODEL, and reconstruct test images.

    Writes samples-MODEL (the mean of p(x|...) at latent vectors drawn from p(z|y), one column a class) and
    reconstructions-MODEL (test images above their reconstructions), as PDF and PNG. Models without p(x|...)
    (dfx, dbx) can't.

    \b
    Example:
      pyrobayes generate gbz
    """
    from pyrobayes.commands.generate import draw_samples

    written = draw_samples(model, context, per_class=per_class, seed=seed)
    click.echo("Wrote " + ", ".join(map(str, written)) + ".")


@click.group("data", short_help="Manage data sets.")
def data():
    """Manage data sets."""


@data.command("fetch")
@options.with_default(
    "--data",
    default="fashion-mnist",
    type=click.Choice(tuple(DATASETS), case_sensitive=False),
    help="the data set; fashion-mnist-mini is embedded",
)
@options.data_dir
def fetch(data, data_dir):
    """Fetch a data set into the cache, and check it.

    Its files are checked against SHA-256 checksums, where these are known.

    The command tries the cache, the Debian package where it is installed, torchvision's download, and on Debian
    the download of that package, which needs no root.

    \b
    Example:
      pyrobayes data fetch --data fashion-mnist
    """
    from pyrobayes.data import sources

    click.echo(f"{data}: complete, from: {sources.fetch(data, data_dir)}")
