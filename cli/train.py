"""`pyrobayes train`."""

import dataclasses
import json
import shlex
import sys

import click

from pyrobayes.errors import InputError
from pyrobayes.interrupts import Interrupted
from pyrobayes.options import NETWORKS, Networks, TrainingOptions
from pyrobayes.progress import ProgressBar
from pyrobayes_cli import options
from pyrobayes_cli.output import show


@click.command("train", short_help="Train models.")
@options.models_to_train
@click.option(
    "--networks",
    type=click.Choice(tuple(NETWORKS), case_sensitive=False),
    help="sizes of the networks: those of the paper, or 32 channels; single ones can be changed below  [default: paper]",
)
@options.of_record(Networks, defaults=False)
@options.of_record(TrainingOptions)
@options.data_to_train_on
@options.data_dir
@options.runs
@options.device
@click.option("--resume", is_flag=True, help="go on with runs that are there, with the options they were started with")
@click.option("--overwrite", is_flag=True, help="replace runs that are there")
@click.option("--tensorboard", is_flag=True, help="write TensorBoard event files too")
@options.as_json
@click.pass_context
def command(ctx, models, networks, data, data_dir, runs, device, resume, overwrite, tensorboard, as_json, **_):
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
    network_changes, training_changes = options.explicit(Networks, ctx), options.explicit(TrainingOptions, ctx)
    dataclasses.replace(NETWORKS["paper"], **network_changes)  # refuse at once
    if not resume:  # else they are changes of options that aren't known yet
        TrainingOptions(**training_changes)

    from pyrobayes.commands.context import Context
    from pyrobayes.commands.train import train

    with ProgressBar(lines=True) as progress:
        try:
            trained = train(
                models,
                Context(data, data_dir, runs, device=device, progress=progress),
                networks=networks,
                network_changes=network_changes,
                training_changes=training_changes,
                resume=resume,
                overwrite=overwrite,
                tensorboard=tensorboard,
            )
        except KeyboardInterrupt as stopped:
            told = f"{str(stopped) or 'interrupted'}; {how_to_go_on(progress.model, overwrite)}"
            raise Interrupted.after(stopped, told) from None
    if as_json:
        epochs = {name: [dataclasses.asdict(epoch) for epoch in epochs] for name, epochs in trained.items()}
        click.echo(json.dumps(epochs, indent=2))
        return
    show_training(trained, runs)


def how_to_go_on(current: str | None, overwrite: bool) -> str:
    """The command to type after an interrupt: the same with --resume, unless it was replacing other runs."""
    if current is None:
        return "nothing was started"
    if overwrite:
        return f"to go on with {current}, name only {current} and give --resume; the models after it are as they were"
    typed = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return f"to go on: {shlex.join(['pyrobayes', *typed, '--resume'])}"


def show_training(trained, runs) -> None:
    """Print the last epoch of every model as a table."""
    from pyrobayes.results.tables import trainings

    show(trainings(trained, runs))
