"""The sections of a report, one a command. Each takes what the command saved, and gives blocks of Markdown.

A section's arguments are the command's :class:`pyrobayes.results.store.SavedResults`, the file names of the figures that
are there, and the saved results of all commands by name. Its text is in `resources/templates`.
"""

from collections.abc import Mapping, Sequence

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.certification import Certification
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.evaluation.detection import Detection
from pyrobayes.evaluation.robustness.checks import NOT_APPLICABLE
from pyrobayes.evaluation.robustness.verdict import Verdict
from pyrobayes.results import tables
from pyrobayes.results.markdown import Markdown, listed
from pyrobayes.results.names import model_name
from pyrobayes.results.page import render
from pyrobayes.results.registry import registered
from pyrobayes.results.store import SavedReproduction, SavedResults
from pyrobayes.results.tables import MODEL, NORMS, NUMBER, Table, eps_of, grouped

TOLD = 0.1  # the summary tells of the eps nearest to this one
FEW = 4  # of a verdict it tells of so many eps at most, else of that one too
DEFENDER = ("particles", "noise", "estimator", "prune")  # options that tell one classifier from another

Found = Mapping[str, SavedResults]


def _section(command: str, saved: SavedResults, figures: Sequence[str], **values) -> list[str]:
    return [render(command, figures, saved=saved, tables=tables, caveats=caveats(saved.results), **values)]


def evaluations_section(saved: SavedResults, figures: Sequence[str], found: Found) -> list[str]:
    """Models on clean images."""
    return _section("evaluate", saved, figures)


def attacks_section(saved: SavedResults, figures: Sequence[str], found: Found) -> list[str]:
    """Success rates of attacks, one part an attack, beside the verdicts on the same; a verdict's norm is L-infinity."""
    parts = []
    for attack, results in grouped((result.attack, result) for result in saved.results).items():
        norm = results[0].options.get("norm")
        verdicts = {result.model: same_verdict(found, result.model) if norm == "linf" else None for result in results}
        worst = {model: worst_case(each) if each else "No verdict is known." for model, each in verdicts.items()}
        part = {"name": attack.upper(), "norm": NORMS.get(norm, norm), "results": results, "worst": worst}
        part["notes"] = [sentence for result in results for sentence in attack_notes(result)]
        parts.append(part | {"table": tables.success_rates(results, verdicts)})
    return _section("attack", saved, figures, attacks=parts)


def detections_section(saved: SavedResults, figures: Sequence[str], found: Found) -> list[str]:
    """Tests that reject adversarial images."""
    evading = grouped(((each.model, each.attack), each.options["evade"]) for each in saved.results)
    return _section("detect", saved, figures, evading=evading)


def certifications_section(saved: SavedResults, figures: Sequence[str], found: Found) -> list[str]:
    """Certificates of smoothed models."""
    return _section("certify", saved, figures)


def verdicts_section(saved: SavedResults, figures: Sequence[str], found: Found) -> list[str]:
    """Verdicts, each with its sheet of checks."""
    return _section("robustness", saved, figures)


def samples_section(models: Sequence[str], figures: Sequence[str]) -> list[str]:
    """Images that models drew and reconstructed, where they did."""
    drawn = any(f"{stem}-{model}.png" in figures for stem in ("samples", "reconstructions") for model in models)
    return [render("samples", figures, models=models)] if drawn else []


def reproduction_section(saved: SavedReproduction, figures: Sequence[str], page: str) -> Markdown:
    """The published success rates of FGSM beside ours, and the poster's claims; `page` is the report of one seed."""
    per_model = grouped((_in_words(changes), model) for model, changes in saved.recipe.get("apart", {}).items())
    training = [_in_words(saved.recipe["training"]) or "each model as by default"]
    training += [f"{listed(map(model_name, models))}: {changes}" for changes, models in per_model.items()]
    clean = [[model, spread.percent(), f"{spread.images:,}"] for model, spread in saved.clean.items()]
    return render(
        "reproduction",
        figures,
        saved=saved,
        training="; ".join(training),
        versions=_in_words(saved.versions),
        reports=listed(Markdown(f"[seed {seed}](seed-{seed}/{page})") for seed in saved.seeds),
        clean=Table(["model", "clean accuracy (%)", "test images"], [MODEL, NUMBER, NUMBER], clean),
        judged=next((each.worst.images for each in saved.comparisons if each.worst), None),
        tables=tables,
    )


def _in_words(changes: Mapping) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in changes.items())


def attack_notes(result: AttackResult) -> list[str]:
    """Sentences on what the table of an attack doesn't show: images without a gradient, and distances."""
    model, attack, told = model_name(result.model), result.attack.upper(), []
    if result.unmoved.count and result.eps[-1] > 0:
        images = f"{result.unmoved.count:,} of {result.unmoved.total:,} images"
        told.append(f"{model} gave {attack} no gradient for {images}: their robustness is not known.")
    if result.distances is not None:
        told.append(
            f"{model}: the median {NORMS[result.options.get('norm', 'l2')]} distance to what {attack} found is {result.distance}, "
            "over the initially correct images (infinite where it found nothing that the model fell for"
            + (f" in most of {result.judges} further draws of its noise)." if result.judges else ").")
        )
    return told


def caveats(results: Sequence) -> list[str]:
    """Sentences on how much noise and approximations change of the results, and on a module's oddities; each once."""
    said = []
    for result in results:
        # The table of clean images has a column for it.
        noise = None if isinstance(result, Evaluation) else getattr(result, "flipped_by_resampling", None)
        approximation, signs = getattr(result, "approximation", None), getattr(result, "gradient_signs", None)
        told = [
            noise
            and f"another draw of the noise changes {noise.sentence()} of the predictions on {noise.total:,} clean images.",
            approximation
            and f"lower precision or pruning changes {approximation.sentence()} of {approximation.total:,} predictions "
            "on clean images, with the same noise.",
            signs
            and f"approximations change the sign of the gradient at {100 * signs.share:.2g}% of the pixels of clean "
            "images, with the same noise.",
            *(f"{caveat}." for caveat in getattr(result, "caveats", ())),
        ]
        said += [f"{model_name(result.model)}: {sentence}" for sentence in told if sentence]
    return list(dict.fromkeys(said))


def summary(found: Found, model: str) -> str:
    """Sentences on one model: its clean accuracy, then what each command says of its results."""
    results = [(command, result) for command, saved in found.items() for result in saved.of(model)]
    accuracies = (getattr(each, "accuracy", None) or getattr(each, "clean_accuracy", None) for _, each in results)
    told = []
    if clean := next(filter(None, accuracies), None):
        told.append(f"It classifies {clean.sentence()} of {clean.total:,} clean images correctly.")
    told += [sentence for command, result in results for sentence in registered()[command].sentences(result)]
    trained = [saved.trained[model] for saved in found.values() if model in saved.trained]
    if any(other != trained[0] for other in trained):
        told.append("These results are of different trainings of it.")
    if trained and trained[0].unfinished:
        told.append(f"It has {trained[0].unfinished}.")
    return " ".join(dict.fromkeys(told))


def attack_sentences(result: AttackResult) -> list[str]:
    """The success rate at the eps nearest to 0.1."""
    i = _nearest(result.eps)
    eps = eps_of(result.eps[i], result.options.get("norm"))
    broken = f"{result.success(i).sentence()} of {result.images:,} images"
    return [f"{result.attack.upper()} at eps {eps} has {broken} misclassified."]


def detection_sentences(result: Detection) -> list[str]:
    """The share of clean images that the test rejects."""
    return [f"The {result.test} test rejects {result.false_alarms.sentence()} of the clean images."]


def certification_sentences(result: Certification) -> list[str]:
    """The share of the images that are certified within a radius of sigma."""
    certified = f"{result.certified(result.sigma).sentence()} of {result.images:,} images"
    return [
        f"Under noise of sigma {result.sigma:g}, {certified} are certified within an L2 radius of {result.sigma:g}."
    ]


def verdict_sentences(verdict: Verdict) -> list[str]:
    """The worst case, and how many checks failed."""
    return [worst_case(verdict), _failed(verdict)]


def worst_case(verdict: Verdict) -> str:
    """A sentence on the worst case of all attacks, at every eps where there are a few."""
    told = range(len(verdict.eps)) if len(verdict.eps) <= FEW else [_nearest(verdict.eps)]
    at = {verdict.eps[i]: verdict.headline[i] for i in told}
    most = " in most further draws of the noise" if verdict.broken_in_most else ""
    return (
        f"In the worst case of {len(verdict.success)} attacks at eps {listed(f'{eps:g}' for eps in at)}, "
        f"{listed(rate.sentence() for rate in at.values())} of {verdict.images:,} images are misclassified{most}."
    )


def _failed(verdict: Verdict) -> str:
    failed = list(map(str, verdict.failed))
    out = sum(check.status == NOT_APPLICABLE for check in verdict.checks)
    said = f"Of {len(verdict.checks)} checks, {len(failed) or 'none'} failed"
    said += f" (number{'s' if len(failed) > 1 else ''} {listed(failed)})" if failed else ""
    return said + (f", and {out} did not apply." if out else ".")


def _nearest(eps: Sequence[float]) -> int:
    return min(range(len(eps)), key=lambda i: abs(eps[i] - TOLD))


def same_verdict(found: Found, model: str) -> Verdict | None:
    """The verdict on what was attacked: the same training of a model, as the same classifier, on the same data."""
    attack, verdict = found["attack"], found.get("robustness")
    if verdict is None or verdict.data != attack.data or verdict.trained.get(model) != attack.trained.get(model):
        return None
    if any(getattr(verdict.options, option) != getattr(attack.options, option) for option in DEFENDER):
        return None
    return next(iter(verdict.of(model)), None)
