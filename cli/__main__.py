"""Starts the command line: `pyrobayes`, `python -m pyrobayes_cli` and `torchrun -m pyrobayes_cli`."""

import sys


def start() -> None:
    """Run the command `pyrobayes`. A signal that stops it ends with one line, from here on."""
    try:
        from pyrobayes.interrupts import raised

        with raised():
            from pyrobayes_cli.main import main

            main(prog_name="pyrobayes")
    except KeyboardInterrupt:  # before the first lines above, or after the last
        sys.stderr.write("\ninterrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    start()
