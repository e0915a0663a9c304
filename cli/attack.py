"""`pyrobayes attack`."""

import click

from pyrobayes.attacks.attack_options import AttackOptions
from pyrobayes.torchrun import rank
from pyrobayes_cli import options
from pyrobayes_cli.output import results_of, show, tell_caveats


@click.command("attack", short_help="Attack trained models.")
@options.models
@options.eps_range
@options.of_record(AttackOptions)
@click.option("--save-adversarial", is_flag=True, help="write all adversarial images too")
@options.resume()
@options.of_runs
def command(models, where, save_adversarial, resume, as_json, **given):
    """Attack MODELs, or every model trained under RUNS, through the importance-sampled log p(x, y).

    Prints for each attack, model and eps the success rate (share of all images that end up misclassified)
    and the flipped share (share of the initially correct images that do), with 95% Wilson intervals. Writes
    attack.json, figure1 (success rate against eps) and figure2-MODEL (adversarial images), as PDF and PNG.

    \b
    Examples:
      pyrobayes attack --eps-range 0:0.3:0.05
      pyrobayes attack gbz dfx --eps-range 0.05,0.1 --images 1000
      pyrobayes attack gbz --attack fgsm --attack pgd --attack-estimator mixture --eps-range 0.1
      pyrobayes attack gbz --attack cw --eps-range 0:2:0.5
      pyrobayes attack gbz --attack transfer --source dfx --eps-range 0.1
    """
    chosen = options.record(AttackOptions, given)

    from pyrobayes.commands.attack import attack

    results = results_of(attack, models, chosen, where, as_json, save_adversarial=save_adversarial, resume=resume)
    if not results:
        return
    show_attack(results, where.results)


def show_attack(results, folder) -> None:
    """Print success rates as a table, and what puts them in doubt."""
    from pyrobayes.results.tables import attacks

    show(attacks(results))
    for result in () if rank() else results:
        if result.unmoved.count and result.eps[-1] > 0:
            click.echo(
                f"warning: {result.model} gave {result.attack} no gradient for {result.unmoved.count} of "
                f"{result.unmoved.total} images: their robustness is not known",
                err=True,
            )
    for result in results:
        if result.distances is not None:
            click.echo(
                f"{result.model}: the median L2 distance to what {result.attack} found is {result.median_distance:.3g}, "
                "over the initially correct images (infinite where it found nothing that the model fell for)."
            )
    tell_caveats(results)
    click.echo(
        "Other attacks may break more images than these: 'pyrobayes robustness' takes the worst of many and checks them."
    )
    click.echo(f"Data: {results[0].data}, test images. Figures and attack.json are in {folder}.")
