"""The sections of a report, one a command. Each takes what the command saved, and gives blocks of Markdown.

A section's arguments are the command's :class:`pyrobayes.results.store.SavedResults`, the file names of the figures that
are there, and the saved results of all commands by name.
"""

from collections.abc import Mapping, Sequence

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.robustness.sheet import NOT_APPLICABLE
from pyrobayes.evaluation.robustness.verdict import Verdict
from pyrobayes.results import tables
from pyrobayes.results.caveats import caveats
from pyrobayes.results.markdown import Markdown, listed
from pyrobayes.results.store import SavedReproduction, SavedResults
from pyrobayes.results.tables import eps_of
from pyrobayes.results.templates import render

TOLD = 0.1  # the summary tells of the eps nearest to this one
DEFENDER = ("particles", "noise", "estimator", "prune")  # options that tell one classifier from another
UPPER_BOUND = "One attack gives an upper bound of the robustness only."

Found = Mapping[str, SavedResults]


def evaluations_section(saved: SavedResults, figures: Sequence[str], found: Found) -> list[str]:
    """Models on clean images."""
    models = [result.model for result in saved.results]
    table, told = tables.evaluations(saved.results), caveats(saved.results)
    return [render("evaluate", figures, table=table, caveats=told, models=models)]


def samples_section(models: Sequence[str], figures: Sequence[str]) -> list[str]:
    """Images that models drew and reconstructed, where they did."""
    drawn = any(f"{stem}-{model}.png" in figures for stem in ("samples", "reconstructions") for model in models)
    return [render("samples", figures, models=models)] if drawn else []


def attacks_section(saved: SavedResults, figures: Sequence[str], found: Found) -> list[str]:
    """Success rates of attacks, one part an attack."""
    by_name: dict[str, list[AttackResult]] = {}
    for result in saved.results:
        by_name.setdefault(result.attack, []).append(result)
    parts = [_attack(results, saved, found) for results in by_name.values()]
    told, names = caveats(saved.results), [each.upper() for each in by_name]
    return [render("attack", figures, names=names, attacks=parts, caveats=told, upper_bound=UPPER_BOUND)]


def _attack(results: Sequence[AttackResult], saved: SavedResults, found: Found) -> dict:
    """One attack on several models, beside the verdicts on the same; a verdict's norm is L-infinity."""
    attack, norm = results[0].attack.upper(), results[0].options.get("norm")
    verdicts = {result.model: same_verdict(found, result.model) if norm == "linf" else None for result in results}
    drawn = []
    for result in results:
        worst = worst_case(verdict) if (verdict := verdicts[result.model]) else "No verdict is known."
        caption = (
            f"Images under {attack}, each with its predicted class and the posterior of that. {UPPER_BOUND} {worst}"
        )
        stem = f"figure2-{saved.options.file_suffix(result.model, result.attack)}"
        drawn.append((stem, f"Figure 2, {result.model.upper()}", caption))
    return {
        "title": f"{attack}, {tables.norm(norm)}",
        "table": tables.success_rates(results, verdicts),
        "lines": attack_warnings(results),
        "figures": drawn,
    }


def attack_warnings(results: Sequence[AttackResult]) -> list[str]:
    """Sentences on images that an attack got no gradient for, and on distances."""
    told = []
    for result in results:
        name, attack = result.model.upper(), result.attack.upper()
        if result.unmoved.count and result.eps[-1] > 0:
            told.append(
                f"{name} gave {attack} no gradient for {result.unmoved.count:,} of {result.unmoved.total:,} images: "
                "their robustness is not known."
            )
        if result.distances is not None:
            told.append(
                f"{name}: the median L2 distance to what {attack} found is {result.median_distance:.3g}, over the initially "
                "correct images (infinite where it found nothing that the model fell for)."
            )
    return told


def detections_section(saved: SavedResults, figures: Sequence[str], found: Found) -> list[str]:
    """Tests that reject adversarial images."""
    drawn = []
    for model, attack in dict.fromkeys((result.model, result.attack) for result in saved.results):
        caption = "ROC curves of the tests; the dotted line is the threshold in use."
        evading = [result for result in saved.results if (result.model, result.attack) == (model, attack)]
        if any(result.options["evade"] is not None for result in evading):
            caption += (
                " Below: images that are misclassified and accepted, against the weight of the test in an attack that evades "
                "it; the band is the attack that ignores the test."
            )
        stem = f"detection-{saved.options.file_suffix(model, attack)}"
        drawn.append((stem, f"Detection, {model.upper()} under {attack.upper()}", caption))
    table, told = tables.detections(saved.results), caveats(saved.results)
    return [render("detect", figures, table=table, drawn=drawn, caveats=told)]


def verdicts_section(saved: SavedResults, figures: Sequence[str], found: Found) -> list[str]:
    """Verdicts, each with its sheet of checks."""
    verdicts = [(each, tables.verdict_rates(each), tables.sheet(each)) for each in saved.results]
    return [render("robustness", figures, verdicts=verdicts, caveats=caveats(saved.results))]


def reproduction_section(saved: SavedReproduction, figures: Sequence[str], page: str) -> Markdown:
    """The published success rates of FGSM beside ours, and the poster's claims; `page` is the report of one seed."""
    per_model: dict[str, list[str]] = {}
    for model, changes in saved.recipe.get("apart", {}).items():
        per_model.setdefault(_in_words(changes), []).append(model.upper())
    training = [_in_words(saved.recipe["training"]) or "each model as by default"]
    training += [f"{listed(models)}: {changes}" for changes, models in per_model.items()]
    columns = [
        tables.Column("model", lambda model, spread: model, tables.MODEL),
        tables.Column("clean accuracy (%)", lambda model, spread: spread.percent()),
        tables.Column("test images", lambda model, spread: f"{spread.images:,}"),
    ]
    return render(
        "reproduction",
        figures,
        saved=saved,
        training="; ".join(training),
        versions=_in_words(saved.versions),
        reports=listed(Markdown(f"[seed {seed}](seed-{seed}/{page})") for seed in saved.seeds),
        clean=tables.Table.of(columns, list(saved.clean.items())),
        judged=next((each.worst.images for each in saved.comparisons if each.worst), None),
        compared=tables.comparisons(saved.comparisons),
        claims=tables.claims(saved.claims),
    )


def _in_words(changes: Mapping) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in changes.items())


# The summary.


def summary(found: Found, model: str) -> list[str]:
    """Sentences on one model: how it does on clean images, under attack, and in the worst case."""
    results = [result for saved in found.values() for result in saved.of(model)]
    accuracies = [getattr(each, "accuracy", None) or getattr(each, "clean_accuracy", None) for each in results]
    told = []
    if clean := next(filter(None, accuracies), None):
        told.append(f"classifies {clean.sentence()} of {clean.total:,} clean images correctly.")
    elif tests := found["detect"].of(model) if "detect" in found else []:
        told.append(f"has a {tests[0].test} test that rejects {tests[0].false_alarms.sentence()} of the clean images.")
    for result in found["attack"].of(model) if "attack" in found else []:
        i = _nearest(result.eps)
        told.append(
            f"{result.attack.upper()} at eps {eps_of(result.eps[i], result.options.get('norm'))} has "
            f"{result.success(i).sentence()} of {result.images:,} images misclassified."
        )
    for verdict in found["robustness"].of(model) if "robustness" in found else []:
        told += [worst_case(verdict), _failed(verdict)]
    trained = [saved.trained[model] for saved in found.values() if model in saved.trained]
    if any(other != trained[0] for other in trained):
        told.append("These results are of different trainings of it.")
    if trained and trained[0].epochs < (epochs := trained[0].config.training.epochs):
        told.append(f"It has {trained[0].epochs} of {epochs} epochs of its training behind it.")
    return told


def worst_case(verdict: Verdict) -> str:
    """A sentence on the worst case of all attacks."""
    i = _nearest(verdict.eps)
    return (
        f"In the worst case of {len(verdict.success)} attacks at eps {verdict.eps[i]:g}, {verdict.worst[i].sentence()} of "
        f"{verdict.images:,} images are misclassified."
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
