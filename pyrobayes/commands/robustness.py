"""`pyrobayes robustness`: reach a verdict on the robustness of trained models."""

import os
from collections.abc import Sequence
from pathlib import Path

from pyrobayes import distributed
from pyrobayes.commands import context
from pyrobayes.commands.context import is_trained, open_runs, read_provenance
from pyrobayes.commands.writing import draw, draw_missing, result_folder, results_in, reusable_results, writing
from pyrobayes.data.images import Images
from pyrobayes.evaluation.robustness.cache import ResultCache
from pyrobayes.evaluation.robustness.verdict import Verdict, assess
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.options import (
    RobustnessOptions,
)
from pyrobayes.progress import Progress, silent
from pyrobayes.results import figures, report
from pyrobayes.results.store import ResultsFile
from pyrobayes.training.checkpoint import Config, choose_device

PARTS = "robustness-parts"
TRANSFERRING = ("dfx", "cnn")  # decode nothing


def robustness(
    models: Sequence[str] = (),
    options: RobustnessOptions = RobustnessOptions(),
    *,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    out: str | os.PathLike | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> list[Verdict]:
    """Reach a verdict on the robustness of trained models; the others serve as sources of attacks by transfer.

    Writes `robustness.json`, one `robustness-MODEL` each (PDF and PNG), `robustness` of several, and a report (see :mod:`pyrobayes.results.report`) to `out`.
    An earlier `robustness.json`, of other models, weights, data or options, is kept there as `robustness.1.json` and so on.
    What has been computed is kept in `out/robustness-parts` until all is done, so that an interrupted run goes on where it
    stopped.

    Args:
        options: see :class:`pyrobayes.options.RobustnessOptions`.

    The other arguments are those of :func:`attack`.
    """
    distributed.join(choose_device(device))
    classifiers, test = open_runs(models, options, data=data, data_dir=data_dir, runs=runs, device=device)
    folder = result_folder(results_in(out, runs))
    if folder:
        report.refuse_damaged(folder, written=("robustness",))
    results = run_verdicts(classifiers, test, options, data_dir, runs, out, device, progress)
    if folder:
        report.write(folder, runs)
    return results


def run_verdicts(
    classifiers, test: Images, options, data_dir, runs, out, device, progress, resume: bool = False
) -> list[Verdict]:
    """Verdicts on opened models, written without a report; with `resume` those that are there, and on all of them, are kept."""
    kept = results_in(out, runs) / PARTS
    with writing("robustness", out, runs) as folder:
        trained = read_provenance(classifiers, runs)
        known, _ = reusable_results("robustness", options, test, trained, results_in(out, runs)) if resume else ([], {})
        known = [verdict for verdict in known if verdict.model in trained]
        # A verdict is of the other models too: all are kept or none. Of those that were interrupted the parts are there.
        results = known if len(known) == len(classifiers) else []
        draw_missing(folder, "robustness", results, figures.robustness)
        training, parts = context.load_split(test.name, "train", data_dir), ResultCache(kept)
        file = ResultsFile(folder, "robustness", options, test, trained) if folder else None
        for classifier in classifiers[len(results) :]:
            others = [other for other in classifiers if other is not classifier]
            others = others or _another(classifier.factorization.name, options, test, data_dir, runs, device)
            try:
                verdict = assess(classifier, test, training, options, sources=others, cache=parts, progress=progress)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"interrupted; what was computed is kept in {kept}, and the same command goes on from there"
                ) from None
            results.append(verdict)
            if file:
                file.write(results)
                figures.remove(folder / "robustness")  # until it is drawn of all that there are now
                draw(folder / f"robustness-{verdict.model}", figures.robustness, verdict)
        distributed.wait_for_all()  # before what the others may still read is removed
        if folder:
            if len(results) > 1:
                figures.save(figures.worst_cases(results), folder / "robustness")
            parts.remove()
    return results


def _another(
    name: str, options: RobustnessOptions, test: Images, data_dir, runs: str | os.PathLike, device: str
) -> list[BayesClassifier]:
    """A model trained beside the one of this name, on the same data, whose images cost little: for attacks by transfer."""
    folder = Path(runs)
    for other in TRANSFERRING:
        if other == name or not is_trained(folder / other):
            continue
        if Config.read(folder / other).data_sha256 == Config.read(folder / name).data_sha256:
            return open_runs([other], options, data=test.name, data_dir=data_dir, runs=runs, device=device)[0]
    return []
