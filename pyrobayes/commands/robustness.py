"""`pyrobayes robustness`: reach a verdict on the robustness of trained models."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from pyrobayes import distributed
from pyrobayes.commands.context import Context, is_trained
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError
from pyrobayes.evaluation.robustness.cache import ResultCache
from pyrobayes.evaluation.robustness.verdict import Verdict, assess
from pyrobayes.files import remove_leftovers
from pyrobayes.inference.interface import Classifier
from pyrobayes.options import RobustnessOptions
from pyrobayes.results import figures, report, sections
from pyrobayes.results.registry import ResultCommand, register
from pyrobayes.training.checkpoint import Config

ROBUSTNESS = ResultCommand(
    "robustness",
    "robustness.json",
    RobustnessOptions,
    Verdict,
    done="attacked for a verdict on robustness",
    section=sections.verdicts_section,
    sentences=sections.verdict_sentences,
    figures=("robustness.p*", "robustness-*"),
    overview="robustness",
    joint=True,
    resumed=True,
)
register(ROBUSTNESS)

PARTS = "robustness-parts"
TRANSFERRING = ("dfx", "cnn")  # they decode nothing, so that their images cost little


def robustness(
    models: Sequence[str] = (),
    options: RobustnessOptions = RobustnessOptions(),
    context: Context = Context(),
    *,
    resume: bool = True,
) -> list[Verdict]:
    """Reach a verdict on the robustness of trained models; the others serve as sources of attacks by transfer.

    Writes `robustness.json`, a `robustness-MODEL` each, `robustness` of several, and a report (see
    :mod:`pyrobayes.results.report`). Measurements are kept in `robustness-parts` until all is done, so that an interrupted
    run goes on where it stopped. A verdict depends on the other models too, so all verdicts are reused or none.
    """
    options = context.settled(options)
    context.join()
    opened = context.open(models, options)
    if writes := distributed.rank() == 0:
        report.refuse_damaged(context.results, written=("robustness",))
    results = run_verdicts(*opened, options, context, resume=resume)
    if writes:
        report.write(context.results, context.runs)
    return results


def run_verdicts(
    classifiers: Sequence[Classifier], test: Images, options: RobustnessOptions, context: Context, *, resume: bool
) -> list[Verdict]:
    """Verdicts on opened models, written without a report; see :func:`robustness`."""
    folder, planned = context.results / PARTS, [(classifier, None) for classifier in classifiers]
    with context.store(ROBUSTNESS, options, test, planned, resume=resume) as store:
        if store.writes:
            remove_leftovers(folder)
        if store.writes and not resume:
            for part in folder.glob("*.safetensors"):
                part.unlink()
        training, cache = context.images(test.source or test.name, "train"), ResultCache(folder)

        def judge(classifier: Classifier) -> list[Verdict]:
            others = [other for other in classifiers if other is not classifier]
            sources = others or _another(classifier.name, options, context)
            shared = {"cache": cache, "progress": context.progress}
            return [assess(classifier, test, training, options, sources=sources, **shared)]

        for classifier in classifiers:
            name = classifier.name
            (verdict,), new = store.get(name, lambda each=classifier: judge(each))
            store.draw(f"robustness-{name}", new, figures.robustness, verdict)
            if verdict.budget is not None:
                store.draw(f"robustness-{name}-budget", new, figures.budget, verdict)
        distributed.wait_for_all()  # before what the others may still read is removed
        if len(classifiers) > 1:
            store.draw("robustness", False, figures.worst_cases, store.results_of_named())
        if store.writes:
            cache.remove()
        return store.results_of_named()


def _another(name: str, options: RobustnessOptions, context: Context) -> list[Classifier]:
    """A model beside the one of this name, trained on the same data, as the source of attacks by transfer."""
    folder, trained = Path(context.runs), context.without_module()
    for other in TRANSFERRING:
        if other == name or not is_trained(folder / other):
            continue
        if not is_trained(folder / name):  # a module of the user's
            with contextlib.suppress(InputError):  # trained on other images
                return trained.open([other], options)[0]
        elif Config.read(folder / other).data_sha256 == Config.read(folder / name).data_sha256:
            return trained.open([other], options)[0]
    return []
