"""The commands that measure trained models, print what they find and write it."""

import dataclasses
import functools
import importlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import click

from pyrobayes.attacks.attack_options import AttackOptions, DetectionOptions
from pyrobayes.options import QUICK_ROBUSTNESS, CertificationOptions, EvaluationOptions, RobustnessOptions
from pyrobayes.progress import ProgressBar
from pyrobayes.torchrun import rank
from pyrobayes_cli import options


def present(name: str, show: Callable, models, chosen, context, as_json: bool, **given) -> None:
    """Compute the results of the command `name`, with progress and warnings; show them, or print them as JSON."""
    compute = getattr(importlib.import_module(f"pyrobayes.commands.{name}"), name)
    with warnings.catch_warnings(), ProgressBar(lines=True) as progress:
        warnings.showwarning = tell_warning
        results = compute(models, chosen, dataclasses.replace(context, progress=progress), **given)
    warn_of_unfinished(dict.fromkeys(result.model for result in results), context.runs)
    if not as_json:
        show(results, context.results)
        return
    from pyrobayes.codec import encode

    click.echo(json.dumps(encode(results), indent=2))


def tell_warning(message: Warning, *_) -> None:
    """Print a warning as one line, without the place in the code."""
    click.echo(f"warning: {message}", err=True)


def warn_of_unfinished(models, runs) -> None:
    """Say which models were taken although their training hasn't ended."""
    from pyrobayes.results.store import Provenance

    runs = () if rank() else [Path(runs) / model for model in models]
    for run in filter(Path.is_dir, runs):
        if unfinished := Provenance.read(run).unfinished:
            click.echo(f"warning: {run.name} has {unfinished}", err=True)


def tell_caveats(results) -> None:
    """Say what noise and approximations change of results."""
    from pyrobayes.results.sections import caveats

    for line in caveats(results):
        click.echo(line)


def tell_places(results, folder, written: str) -> None:
    """Say on which data results are, and where they were written."""
    click.echo(f"Data: {results[0].data}, test images. {written} are in {folder}.")


def show_table(table: str, written: str, results, folder) -> None:
    """Print results as a table of :mod:`pyrobayes.results.tables`, their caveats, and where they are."""
    from pyrobayes.results import tables

    click.echo(getattr(tables, table)(results).as_text())
    tell_caveats(results)
    tell_places(results, folder, written)


show_evaluation = functools.partial(show_table, "evaluations", "Figures and evaluation.json")


@click.command("evaluate", short_help="Evaluate trained models on clean test images.")
@options.of_results(EvaluationOptions)
def evaluate(**given):
    """Evaluate MODELs, or every model trained under RUNS, on clean test images.

    Prints accuracy with its 95% Wilson interval, the share of predictions that change with another draw of
    the particles, negative log-likelihood and expected calibration error of the posterior, mean log p(x) and
    mean effective sample size. Writes evaluation.json and confusion-MODEL, as PDF and PNG.

    \b
    Examples:
      pyrobayes evaluate
      pyrobayes evaluate gbz --particles 100 --images 1000
    """
    present("evaluate", show_evaluation, **given)


@click.command("attack", short_help="Attack trained models.")
@click.option("--save-adversarial", is_flag=True, help="write all adversarial images too")
@options.of_results(AttackOptions)
def attack(**given):
    """Attack MODELs, or every model trained under RUNS, through the importance-sampled log p(x, y).

    Prints for each attack, model and eps the success rate (share of all images that end up misclassified)
    and the flipped share (share of the initially correct images that do), with 95% Wilson intervals. Writes
    attack.json, figure1 (success rate against eps) and figure2-MODEL (adversarial images), as PDF and PNG.
    Attacks that look for the nearest adversarial image (cw, fmn, ddn, fab, hop-skip-jump, boundary) also get the
    median of its distance with a 95% interval, and a figure of accuracy against distance.

    \b
    Examples:
      pyrobayes attack --eps-range 0:0.3:0.05
      pyrobayes attack gbz dfx --eps-range 0.05,0.1 --images 1000
      pyrobayes attack gbz --attack fgsm --attack pgd --attack-estimator mixture --eps-range 0.1
      pyrobayes attack gbz --attack cw --eps-range 0:2:0.5
      pyrobayes attack gbz --attack fmn --norm l1 --images 100
      pyrobayes attack gbz --attack transfer --source dfx --eps-range 0.1
    """
    present("attack", show_attack, **given)


def show_attack(results, folder) -> None:
    """Print success rates as a table, and what puts them in doubt."""
    from pyrobayes.results import sections, tables

    click.echo(tables.attacks(results).as_text())
    for note in (note for result in results for note in sections.attack_notes(result)):
        click.echo(note)
    tell_caveats(results)
    click.echo(
        "Other attacks may break more images than these: 'pyrobayes robustness' takes the worst of many and checks them."
    )
    tell_places(results, folder, "Figures and attack.json")


@click.command("detect", short_help="Reject adversarial images by log p(x, y), and attack that too.")
@options.of_results(DetectionOptions)
def detect(chosen, **given):
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
    thresholds = f"Thresholds: {100 * chosen.false_alarms:g}% of up to {chosen.train_images:,} training images"
    show = functools.partial(show_table, "detections", f"{thresholds}. Figures and detection.json")
    present("detect", show, chosen=chosen, **given)


@click.command("certify", short_help="Certify radii within which a smoothed model doesn't change its class.")
@options.of_results(CertificationOptions)
def certify(**given):
    """Certify MODELs, or every model trained under RUNS, by randomized smoothing (Cohen et al. 2019).

    The smoothed model gives the class that the model gives most often under Gaussian noise. Prints for each model and
    sigma the accuracy without noise and smoothed, the share of images without a certificate, the shares that are
    certified to be classified correctly within some radii in L2, and the average radius, with 95% intervals.
    Writes certification.json and certified-MODEL (certified accuracy against radius), as PDF and PNG.
    A certificate takes SELECTION-DRAWS + DRAWS classifications of an image.

    \b
    Examples:
      pyrobayes certify dfx --pretrained --draws 1000 --images 50 --particles 1
      pyrobayes certify --sigma 0.12,0.25,0.5,1
    """
    present("certify", functools.partial(show_table, "certifications", "Figures and certification.json"), **given)


@click.command("robustness", short_help="Attack in many ways, and say what of the result to believe.")
@click.option(
    "--quick",
    is_flag=True,
    help="500 images, eps 0.1 and 0.2, ten steps, ten redraws, 100 checked images, --brief and --negligible 0.01: under 20 "
    "minutes for GBZ with small networks on two cores",
)
@options.of_results(RobustnessOptions, resumes=True)
def robustness(chosen, quick, **given):
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
    if quick:
        chosen = dataclasses.replace(chosen, **QUICK_ROBUSTNESS | options.explicit(RobustnessOptions))
    present("robustness", show_verdicts, chosen=chosen, **given)


def show_verdicts(verdicts, folder) -> None:
    """Print the success rates and the sheet of checks of each verdict."""
    from pyrobayes.results import tables

    for verdict in verdicts:
        doubted = f" (doubted by {', '.join(map(str, verdict.clean_doubts))})" if verdict.clean_doubts else ""
        click.echo(
            f"\n{verdict.model}: clean accuracy {verdict.clean_accuracy.percent()}%{doubted}, {verdict.images} images\n"
            f"Success rates (%):\n\n{tables.verdict_rates(verdict).as_text()}\n\n{tables.sheet(verdict).as_list()}"
        )
    click.echo()
    if len(verdicts) > 1:
        show_worst_cases(verdicts)
    else:
        tell_caveats(verdicts)
    tell_places(verdicts, folder, "Figures, robustness.json and the report (report.html)")


def show_worst_cases(verdicts) -> None:
    """Print the worst cases of several verdicts; the sheets of checks are in the report."""
    from pyrobayes.results import tables

    click.echo(
        f"Success rates (%) of FGSM and in the worst case, at every eps:\n{tables.worst_cases(verdicts).as_text()}"
    )
    tell_caveats(verdicts)
