"""`pyrobayes evaluate`."""

import click

from pyrobayes.options import EvaluationOptions
from pyrobayes_cli import options
from pyrobayes_cli.output import results_of, show, tell_caveats


@click.command("evaluate", short_help="Evaluate trained models on clean test images.")
@options.models
@options.of_record(EvaluationOptions)
@options.resume()
@options.of_runs
def command(models, where, resume, as_json, **given):
    """Evaluate MODELs, or every model trained under RUNS, on clean test images.

    Prints accuracy with its 95% Wilson interval, the share of predictions that change with another draw of
    the particles, negative log-likelihood and expected calibration error of the posterior, mean log p(x) and
    mean effective sample size. Writes evaluation.json and confusion-MODEL, as PDF and PNG.

    \b
    Examples:
      pyrobayes evaluate
      pyrobayes evaluate gbz --particles 100 --images 1000
    """
    chosen = options.record(EvaluationOptions, given)

    from pyrobayes.commands.evaluate import evaluate

    results = results_of(evaluate, models, chosen, where, as_json, resume=resume)
    if not results:
        return
    show_evaluation(results, where.results)


def show_evaluation(results, folder) -> None:
    """Print evaluations as a table."""
    from pyrobayes.results.tables import evaluations

    show(evaluations(results))
    tell_caveats(results)
    click.echo(f"Data: {results[0].data}, test images. Figures and evaluation.json are in {folder}.")
