"""The library's side of the command line, one module a command. Importing it registers the commands that write results."""

# isort: off
from pyrobayes.commands import evaluate, attack, detect, robustness  # noqa: F401  (the order of the report)
