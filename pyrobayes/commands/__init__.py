"""What the command line calls, one module a command. Importing this package registers the commands that write results."""

# isort: off
from pyrobayes.commands import evaluate, attack, detect, robustness  # noqa: F401  (the order of the report)
