"""`pyrobayes data`."""

import click

from pyrobayes_cli import options


@click.group("data", short_help="Manage data sets.")
def command():
    """Manage data sets."""


@command.command("fetch")
@options.data
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
    from pyrobayes.data.sources import fetch

    click.echo(f"{data}: complete, from: {fetch(data, data_dir)}")
