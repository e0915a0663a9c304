"""`pyrobayes evaluate`: evaluate trained models on clean test images."""

import os
from collections.abc import Sequence

from pyrobayes import distributed, evaluation
from pyrobayes.commands.context import open_runs, read_provenance
from pyrobayes.commands.writing import draw, draw_missing, results_in, reusable_results, writing
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.options import (
    EvaluationOptions,
)
from pyrobayes.progress import Progress, silent
from pyrobayes.results import figures
from pyrobayes.results.store import ResultsFile
from pyrobayes.training.checkpoint import choose_device


def evaluate(
    models: Sequence[str] = (),
    options: EvaluationOptions = EvaluationOptions(),
    *,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    out: str | os.PathLike | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: Progress = silent,
) -> list[Evaluation]:
    """Evaluate trained models; writes `evaluation.json` and one `confusion-MODEL` each (PDF and PNG) to `out`.

    The arguments are those of :func:`attack`.
    """
    distributed.join(choose_device(device))
    classifiers, test = open_runs(models, options, data=data, data_dir=data_dir, runs=runs, device=device)
    named = read_provenance(classifiers, runs)
    with writing("evaluate", out, runs) as folder:
        kept, beside = reusable_results("evaluate", options, test, named, results_in(out, runs)) if resume else ([], {})
        trained = named | beside
        found = dict.fromkeys(named) | {result.model: result for result in kept}
        file = ResultsFile(folder, "evaluate", options, test, trained, resume) if folder else None
        draw_missing(folder, "confusion", kept, figures.confusion_matrix, test.classes)
        for classifier in classifiers:
            if found[classifier.factorization.name]:
                continue
            result = evaluation.evaluate(
                classifier, test, images=options.images, batch_size=options.batch_size, progress=progress
            )
            found[result.model] = result
            if file:
                file.write(filter(None, found.values()))
                draw(folder / f"confusion-{result.model}", figures.confusion_matrix, result, test.classes)
        return [found[name] for name in named]
