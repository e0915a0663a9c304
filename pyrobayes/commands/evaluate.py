"""`pyrobayes evaluate`: evaluate trained models on clean test images."""

from collections.abc import Sequence

from pyrobayes import evaluation
from pyrobayes.commands.context import Context
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.options import EvaluationOptions
from pyrobayes.results import figures
from pyrobayes.results.registry import ResultCommand, register
from pyrobayes.results.sections import evaluations_section
from pyrobayes.results.store import ResultStore

EVALUATE = register(
    ResultCommand(
        "evaluate",
        "evaluation.json",
        EvaluationOptions,
        Evaluation,
        done="evaluated",
        section=evaluations_section,
        figures=("confusion-*",),
    )
)


def evaluate(
    models: Sequence[str] = (),
    options: EvaluationOptions = EvaluationOptions(),
    context: Context = Context(),
    *,
    resume: bool = False,
) -> list[Evaluation]:
    """Evaluate trained models; writes `evaluation.json` and a `confusion-MODEL` each (PDF and PNG).

    Args:
        models: their names, in any case; every trained model where left out.
        options: see :class:`pyrobayes.options.EvaluationOptions`.
        context: where the models are, and where results go.
        resume: reuse results of an earlier run that have the same options, versions, data and weights.
    """
    context.join()
    classifiers, test = context.open(models, options)
    units = [(classifier.factorization.name, None) for classifier in classifiers]
    given = (EVALUATE, context.results, options, test, context.provenance(classifiers), units)
    with ResultStore(*given, resume=resume, progress=context.progress) as store:
        for classifier in classifiers:

            def make(classifier=classifier) -> list[Evaluation]:
                limits = {"images": options.images, "batch_size": options.batch_size}
                return [evaluation.evaluate(classifier, test, **limits, progress=context.progress)]

            name = classifier.factorization.name
            (result,), new = store.get(name, make)
            store.draw(f"confusion-{name}", new, figures.confusion_matrix, result, test.classes)
        return store.results_of_named()
