"""`python -m pyrobayes_cli`, and so `torchrun -m pyrobayes_cli`."""

from pyrobayes_cli.main import main

main(prog_name="pyrobayes")
