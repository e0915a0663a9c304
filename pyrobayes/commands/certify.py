"""`pyrobayes certify`: certify trained models by randomized smoothing."""

import itertools
from collections.abc import Sequence
from functools import partial

from pyrobayes.commands.context import Context
from pyrobayes.evaluation import certification
from pyrobayes.evaluation.certification import Certification
from pyrobayes.inference.interface import Classifier
from pyrobayes.options import CertificationOptions
from pyrobayes.results import figures, sections
from pyrobayes.results.registry import ResultCommand, register

CERTIFY = ResultCommand(
    "certify",
    "certification.json",
    CertificationOptions,
    Certification,
    done="smoothed and certified",
    section=sections.certifications_section,
    sentences=sections.certification_sentences,
    figures=("certified-*",),
)
register(CERTIFY)


def certify(
    models: Sequence[str] = (),
    options: CertificationOptions = CertificationOptions(),
    context: Context = Context(),
    *,
    resume: bool = False,
) -> list[Certification]:
    """Certify trained models for every sigma; writes `certification.json` and a `certified-MODEL` each."""
    options = context.settled(options)
    context.join()
    classifiers, test = context.open(models, options)
    given = {name: getattr(options, name) for name in ("draws", "selection_draws", "alpha", "images", "batch_size")}
    given["progress"] = context.progress
    planned = list(itertools.product(classifiers, options.sigma))

    def certified(by: Classifier, sigma: float) -> list[Certification]:
        return [certification.certify(by, test, sigma, **given)]

    with context.store(CERTIFY, options, test, planned, resume=resume) as store:
        for classifier in classifiers:
            name = classifier.name
            units = [store.get(name, partial(certified, classifier, sigma), sigma) for sigma in options.sigma]
            results = [result for made, _ in units for result in made]
            store.draw(f"certified-{name}", any(new for _, new in units), figures.certificates, results)
        return store.results_of_named()
