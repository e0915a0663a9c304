"""`pyrobayes robustness`."""

import dataclasses

import click

from pyrobayes.options import QUICK_ROBUSTNESS, RobustnessOptions
from pyrobayes_cli import options
from pyrobayes_cli.output import results_of, table, tell_caveats


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
@options.of_runs
@click.pass_context
def command(ctx, models, data, data_dir, runs, out, device, quick, as_json, **given):
    """Attack MODELs, or every model trained under RUNS, in many ways, and check the attacks.

    Prints success rates of each attack and of the worst case image by image, with 95% Wilson intervals; how much of
    it stands under further draws of the noise; and a sheet of twelve checks, with the numbers of those that failed
    beside every success rate that they put in doubt. Writes robustness.json, robustness-MODEL, as PDF and PNG, and
    a report of all results in the folder, as one HTML page (report.html) and as Markdown.
    What is done is kept: after an interruption the same command goes on where it stopped. An earlier verdict on other
    models or weights, or by other options, is kept as robustness.1.json.

    \b
    Examples:
      pyrobayes robustness gbz --quick
      pyrobayes robustness gbz dfx --eps-range 0.1,0.2
    """
    chosen = options.record(RobustnessOptions, given)
    if quick:
        chosen = dataclasses.replace(chosen, **QUICK_ROBUSTNESS | options.explicit(RobustnessOptions, ctx))

    from pyrobayes.commands.robustness import robustness

    where = {"data": data, "data_dir": data_dir, "runs": runs, "out": out, "device": device}
    results = results_of(robustness, models, chosen, as_json, **where)
    if not results:
        return
    for result in results:
        show_verdict(result)
    click.echo()
    tell_caveats(results)
    click.echo(
        f"Data: {results[0].data}, test images. Figures, robustness.json and the report (report.html) are in {out or runs}."
    )


def show_verdict(result) -> None:
    """Print the success rates of a verdict, and its sheet of checks."""
    doubted = " (doubted by 10)" if result.clean_doubted else ""
    click.echo(
        f"\n{result.model}: clean accuracy {result.clean_accuracy.percent()}%{doubted}, {result.images} images\n"
    )
    rows = [
        [name, *(rate.percent() for rate in rates), ", ".join(map(str, result.doubts(name)))]
        for name, rates in result.rows.items()
    ]
    if result.broken_in_most is not None:
        doubts = rows[-1][-1]  # those of the worst case
        rows.append(["  in most of further draws", *(rate.percent() for rate in result.broken_in_most), doubts])
        rows.append(["  share of further draws", *(f"{100 * share:.1f}" for share in result.share_of_draws), doubts])
    table(["success rate (%) at eps", *(f"{eps:g}" for eps in result.eps), "doubted by"], rows)
    click.echo()
    for check in result.checks:
        failed = check.number in result.failed
        click.echo(f"{check.number:2d}  {check.status.upper() if failed else check.status}  {check.name}")
        click.echo(f"    {check.finding}")
        if failed:
            click.echo(f"    in doubt: {check.doubts}")


def show_worst_cases(results) -> None:
    """Print the worst cases of several verdicts, and which of their checks failed; the sheets are in the report."""
    table(
        ["worst case (%) at eps", *(f"{eps:g}" for eps in results[0].eps), "failed checks", "attacks", "images"],
        [
            [
                result.model,
                *(rate.percent() for rate in result.worst),
                ", ".join(map(str, result.failed)) or "none",
                f"{len(result.success)}",
                f"{result.images}",
            ]
            for result in results
        ],
    )
    tell_caveats(results)
