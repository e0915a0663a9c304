"""`pyrobayes evaluate`: evaluate trained models on clean test images."""

from collections.abc import Sequence

from pyrobayes import evaluation
from pyrobayes.commands.context import Context
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.options import EvaluationOptions
from pyrobayes.results import figures, sections
from pyrobayes.results.registry import ResultCommand, register

EVALUATE = ResultCommand(
    "evaluate",
    "evaluation.json",
    EvaluationOptions,
    Evaluation,
    done="evaluated",
    section=sections.evaluations_section,
    figures=("confusion-*",),
)
register(EVALUATE)


def evaluate(
    models: Sequence[str] = (),
    options: EvaluationOptions = EvaluationOptions(),
    context: Context = Context(),
    *,
    resume: bool = False,
) -> list[Evaluation]:
    """Evaluate trained models; writes `evaluation.json` and a `confusion-MODEL` each."""
    options = context.settled(options)
    context.join()
    classifiers, test = context.open(models, options)
    limits = {"images": options.images, "batch_size": options.batch_size, "progress": context.progress}
    with context.store(EVALUATE, options, test, [(each, None) for each in classifiers], resume=resume) as store:
        for classifier in classifiers:
            name = classifier.name
            (result,), new = store.get(name, lambda by=classifier: [evaluation.evaluate(by, test, **limits)])
            store.draw(f"confusion-{name}", new, figures.confusion_matrix, result, test.classes)
        return store.results_of_named()
