"""The command `pyrobayes`. Libraries that take long to load are imported inside the commands that need them."""

import sys

import click
from pyrobayes_cli import attack, data, evaluate, generate, reproduce, show, train

from pyrobayes import InputError, __version__


class Main(click.Group):
    """Turns what the user can mend into one line on standard error and exit status 1."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as error:
            click.echo(f"\n{str(error) or 'interrupted'}", err=True)
            sys.exit(130)
        except ArithmeticError as error:
            if type(error).__module__.startswith("pyrobayes"):
                raise click.ClickException(str(error)) from error
            raise


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pyrobayes")
def main() -> None:
    """Deep Bayes classifiers in Pyro: train them, attack them, and see what holds.

    \b
    First steps:
      pyrobayes train gbz
      pyrobayes attack --eps-range 0:0.3:0.05
    """


for module in (train, attack, evaluate, generate, show, reproduce, data):
    main.add_command(module.command)
