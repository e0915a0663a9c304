"""`pyrobayes generate`."""

import click

from pyrobayes_cli import options


@click.command("generate", short_help="Draw images from a trained model.")
@options.model
@click.option("--per-class", default=8, show_default=True, help="images of every class")
@click.option("--seed", default=0, show_default=True, help="seed of the samples")
@options.of_models
def command(model, per_class, seed, where):
    """Draw images of every class from a trained MODEL, and reconstruct test images.

    Writes samples-MODEL (the mean of p(x|...) at latent vectors drawn from p(z|y), one column a class) and
    reconstructions-MODEL (test images above their reconstructions), as PDF and PNG. Models without p(x|...)
    (dfx, dbx) can't.

    \b
    Example:
      pyrobayes generate gbz
    """
    from pyrobayes.commands.generate import draw_samples

    written = draw_samples(model, where.context(), per_class=per_class, seed=seed)
    click.echo("Wrote " + ", ".join(map(str, written)) + ".")
