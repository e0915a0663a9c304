"""`pyrobayes attack`."""

import json

import click

from pyrobayes.options import AttackOptions, EvaluationOptions
from pyrobayes.torchrun import rank
from pyrobayes_cli import options
from pyrobayes_cli.output import Progress, percent, table, tell_approximation, warn_of_unfinished


@click.command("attack", short_help="Attack trained models with FGSM.")
@options.models
@options.eps_range
@options.of_record(EvaluationOptions)
@click.option("--save-adversarial", is_flag=True, help="write all adversarial images too")
@options.data_of_runs
@options.data_dir
@options.runs
@options.out
@options.device
@options.as_json
def command(models, data, data_dir, runs, out, device, save_adversarial, as_json, **given):
    """Attack MODELs, or every model trained under RUNS, by FGSM through the importance-sampled log p(x, y).

    Prints for each model and eps the success rate (share of all images that end up misclassified) and the
    flipped share (share of the initially correct images that do), with 95% Wilson intervals. Writes
    attack.json, figure1 (success rate against eps) and figure2-MODEL (adversarial images), as PDF and PNG.

    \b
    Examples:
      pyrobayes attack --eps-range 0:0.3:0.05
      pyrobayes attack gbz dfx --eps-range 0.05,0.1 --images 1000
    """
    chosen = options.record(AttackOptions, given)

    from pyrobayes.runs import attack

    with Progress() as progress:
        results = attack(
            models,
            chosen,
            data=data,
            data_dir=data_dir,
            runs=runs,
            out=out,
            device=device,
            save_adversarial=save_adversarial,
            progress=progress,
        )
    warn_of_unfinished([result.model for result in results], runs)
    if as_json:
        click.echo(json.dumps([result.as_dict() for result in results], indent=2))
        return
    show_attack(results, out or runs)


def show_attack(results, folder) -> None:
    """Print success rates as a table, and what puts them in doubt."""
    table(
        ["model", "eps", "clean accuracy (%)", "success rate (%)", "flipped (%)", "images"],
        [
            [
                result.model,
                f"{eps:g}",
                percent(result.clean_accuracy),
                percent(result.success(i)),
                percent(result.flipped(i)),
                f"{len(result.labels)}",
            ]
            for result in results
            for i, eps in enumerate(result.eps)
        ],
    )
    for result in () if rank() else results:
        if result.unmoved.count and result.eps[-1] > 0:
            click.echo(
                f"warning: {result.model} gave no gradient for {result.unmoved.count} of {result.unmoved.total} images, "
                "which the attack left as they were: their robustness is not known",
                err=True,
            )
    tell_approximation(results)
    click.echo(f"Data: {results[0].data}, test images. Figures and attack.json are in {folder}.")
