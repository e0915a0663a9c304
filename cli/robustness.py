"""`pyrobayes robustness`."""

import dataclasses

import click

from pyrobayes.options import QUICK_ROBUSTNESS, RobustnessOptions
from pyrobayes_cli import options
from pyrobayes_cli.output import results_of, show, tell_caveats


@click.command("robustness", short_help="Attack in many ways, and say what of the result to believe.")
@options.models
@click.option(
    "--eps-range",
    "--eps",
    "eps",
    default=",".join(f"{value:g}" for value in RobustnessOptions.eps),
    show_default=True,
    type=options.Eps(),
    help="L-infinity sizes of the perturbation, as a range or a comma list",
)
@options.of_record(RobustnessOptions)
@click.option(
    "--quick",
    is_flag=True,
    help="500 images, eps 0.1 and 0.2, ten steps, ten redraws, 100 checked images, --brief and --negligible 0.01: under 20 "
    "minutes for GBZ with small networks on two cores",
)
@options.resume(default=True)
@options.of_runs
@click.pass_context
def command(ctx, models, where, resume, quick, as_json, **given):
    """Attack MODELs, or every model trained under RUNS, in many ways, and check the attacks.

    Prints success rates of each attack and of the worst case image by image, with 95% Wilson intervals; how much of
    it stands under further draws of the noise; and a sheet of checks, with the numbers of those that failed
    beside every success rate that they put in doubt. Writes robustness.json, robustness-MODEL, as PDF and PNG, and
    a report of all results in the folder, as one HTML page (report.html) and as Markdown.
    What is done is kept: after an interruption the same command goes on where it stopped, and what is finished isn't
    computed again. An earlier verdict on other models or weights, or by other options, is kept as robustness.1.json.

    \b
    Examples:
      pyrobayes robustness gbz --quick
      pyrobayes robustness gbz dfx --eps-range 0.1,0.2
    """
    chosen = options.record(RobustnessOptions, given)
    if quick:
        chosen = dataclasses.replace(chosen, **QUICK_ROBUSTNESS | options.explicit(RobustnessOptions, ctx))

    from pyrobayes.commands.robustness import robustness

    results = results_of(robustness, models, chosen, where, as_json, resume=resume)
    if not results:
        return
    for result in results:
        show_verdict(result)
    click.echo()
    tell_caveats(results)
    click.echo(
        f"Data: {results[0].data}, test images. Figures, robustness.json and the report (report.html) are in {where.results}."
    )


def show_verdict(verdict) -> None:
    """Print the success rates of a verdict, and its sheet of checks."""
    from pyrobayes.results.tables import sheet, verdict_rates

    doubted = f" (doubted by {', '.join(map(str, verdict.clean_doubts))})" if verdict.clean_doubts else ""
    click.echo(
        f"\n{verdict.model}: clean accuracy {verdict.clean_accuracy.percent()}%{doubted}, {verdict.images} images"
    )
    click.echo("Success rates (%):\n")
    show(verdict_rates(verdict))
    click.echo(f"\n{sheet(verdict).as_list()}")


def show_worst_cases(verdicts) -> None:
    """Print the worst cases of several verdicts; the sheets of checks are in the report."""
    from pyrobayes.results.tables import worst_cases

    click.echo("Success rates (%) of FGSM and in the worst case, at every eps:")
    show(worst_cases(verdicts))
    tell_caveats(verdicts)
