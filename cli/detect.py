"""`pyrobayes detect`."""

import click

from pyrobayes.attacks.attack_options import DetectionOptions
from pyrobayes_cli import options
from pyrobayes_cli.output import results_of, show, tell_caveats


@click.command("detect", short_help="Reject adversarial images by log p(x, y), and attack that too.")
@options.models
@options.eps_range
@options.of_record(DetectionOptions)
@options.resume()
@options.of_runs
def command(models, where, resume, as_json, **given):
    """Fit three tests to training images of MODELs, or of every model trained under RUNS, and attack both.

    The tests reject an image whose log p(x) is too low (marginal), whose log p(x, y) is too low for the predicted
    class y (logit), or whose posterior is too far from that class's mean posterior (kl). Prints false alarms on
    clean test images, the success rate of the attack, the share of its successes that each test detects and of
    all images that pass as another class undetected, the area under the ROC curve, and the accuracy over what
    the test accepts. Writes detection.json and detection-MODEL, as PDF and PNG.

    \b
    Examples:
      pyrobayes detect gbz --eps-range 0.1,0.2 --images 500
      pyrobayes detect gbz --attack pgd --eps-range 0.1 --evade-weight 0.1 --evade-weight 1 --images 100
    """
    chosen = options.record(DetectionOptions, given)

    from pyrobayes.commands.detect import detect

    results = results_of(detect, models, chosen, where, as_json, resume=resume)
    if not results:
        return
    from pyrobayes.results.tables import detections

    show(detections(results))
    tell_caveats(results)
    click.echo(
        f"Data: {results[0].data}, test images. Thresholds: {100 * chosen.false_alarms:g}% of up to {chosen.train_images:,} "
        f"training images. Figures and detection.json are in {where.results}."
    )
