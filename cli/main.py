"""The command `pyrobayes`. Libraries that take long to load are imported inside the commands that need them."""

import contextlib
import os
import re
import sys
from typing import NoReturn

import click

from pyrobayes import __version__
from pyrobayes.errors import PyrobayesError
from pyrobayes.torchrun import rank
from pyrobayes_cli import models, reproduce, results

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # as torch says it


class Main(click.Group):
    """Tells an error that the user can mend in one line on standard error, with a non-zero exit status."""

    def main(self, *args, standalone_mode: bool = True, **kwargs):
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        try:
            sys.exit(super().main(*args, standalone_mode=False, **kwargs))
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(error.exit_code)
        except click.Abort as abort:  # while the command line was read
            stop(abort.__cause__)
        except click.ClickException as error:
            refuse(error.format_message(), error.exit_code)
        except PyrobayesError as error:
            refuse(str(error))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(said in str(error) for said in OUT_OF_MEMORY):
                raise
            told = (str(error).splitlines() or ["no more is left"])[0]
            refuse(f"not enough memory: take smaller networks or batches, or fewer particles ({told})")
        except OSError as error:
            refuse(f"{error.filename or 'input or output'}: {error.strerror or error}")

    def invoke(self, ctx: click.Context):
        if rank():  # of the processes that torchrun started, the first one speaks
            sys.stdout = open(os.devnull, "w")
        try:
            super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            stop(interrupt)


def stop(interrupt: BaseException | None) -> NoReturn:
    """Say how far an interrupted command came, and leave with the exit status of the signal."""
    if not rank():
        with contextlib.suppress(OSError):  # the terminal may have gone
            click.echo(f"\n{_as_typed(str(interrupt or '')) or 'interrupted'}", err=True)
    sys.exit(getattr(interrupt, "status", 130))


def refuse(message: str, status: int = 1) -> None:
    """Print an error and leave."""
    number = os.environ.get("RANK", "0")
    click.echo(f"Error{'' if number == '0' else f' in process {number}'}: {_as_typed(message)}", err=True)
    sys.exit(status)


def _as_typed(message: str) -> str:
    """The message with options in place of arguments, which the library names as Python does: `resume=True`, `out=...`."""
    message = message.replace("runs=PRETRAINED", "--pretrained")
    return re.sub(r"\b([a-z_]+)=(True\b|\.\.\.)", lambda named: "--" + named[1].replace("_", "-"), message)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pyrobayes")
def main() -> None:
    """Deep Bayes classifiers in Pyro: train them, attack them, and see what holds.

    \b
    First steps:
      pyrobayes attack gbz --pretrained       a trained model comes with the package: one to three minutes
      pyrobayes train gbz
      pyrobayes attack --eps-range 0:0.3:0.05
    """


for command in (
    *(models.train, results.attack, results.detect, results.certify, results.robustness, results.evaluate),
    *(models.generate, models.show, reproduce.report, reproduce.reproduce, models.data),
):
    main.add_command(command)
