"""The library's side of the command line, one module a command. Importing this package registers those that write results.

The functions share these arguments:

* `models`: names of models, in any case; every trained model where left out.
* `options`: the record of the command's options, which is saved with the results.
* `context`: where models and data are, where results go, and who is told how far the work is.
* `resume`: reuse results of an earlier run that have the same options, versions, data and weights.

Every figure is written as PDF and PNG.
"""

# isort: off
from pyrobayes.commands import evaluate, attack, detect, certify, robustness  # noqa: F401  (the order of the report)
