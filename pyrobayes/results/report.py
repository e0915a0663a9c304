"""A report of results: `report.md`, and the same as one HTML page, `report.html`, that needs no other file.

It is made of the files that are in a folder, `evaluation.json`, `attack.json`, `detection.json`, `robustness.json`,
`reproduction.json` and the figures, so that it can be written again at any time. The same files give the same bytes.
"""

import dataclasses
import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from pyrobayes import factorizations
from pyrobayes.errors import InputError
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.detection import Detection
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.reproduction import POSTER_IMAGES, Claim, Comparison
from pyrobayes.evaluation.robustness.checks import FAIL, NOT_APPLICABLE
from pyrobayes.evaluation.robustness.verdict import WORST, Verdict
from pyrobayes.factorizations import parse_formula
from pyrobayes.files import write_atomically
from pyrobayes.options import MINI, MODELS, NETWORKS, PRETRAINED, EvaluationOptions, TrainingOptions
from pyrobayes.results.caveats import caveats
from pyrobayes.results.page import page
from pyrobayes.results.store import FILES, Provenance, SavedReproduction, SavedResults, read_reproduction, read_results
from pyrobayes.tensor_files import digest, read_tensors
from pyrobayes.torchrun import rank
from pyrobayes.training.checkpoint import METRICS, MODEL, Config

MARKDOWN, HTML = "report.md", "report.html"
TOLD = 0.1  # the summary tells of the eps nearest to this one
DEFENDER = ("particles", "noise", "estimator", "prune")  # of the options, what tells one classifier from another
UPPER = "One attack gives an upper bound of the robustness only."
NORMS = {"linf": "L∞", "l2": "L2", "area": "share of the image"}


def write(folder: str | os.PathLike, runs: str | os.PathLike | None = None) -> list[Path]:
    """Write `report.md` and `report.html` of the results in a folder; returns both paths.

    What isn't there is left out. Under torchrun the first process writes, and the others return an empty list.

    Args:
        folder: of the results and their figures.
        runs: of the trained models, whose last epoch is told where they are; `folder` where left out.

    Raises:
        InputError: there are no results, or a file is damaged.
    """
    if rank():
        return []
    folder, found, published = Path(folder), read_results(folder), read_reproduction(folder)
    if not found and not published:
        commands = _listed(f"'pyrobayes {command}'" for command in FILES)
        raise InputError(f"no results in {folder}: {_listed(FILES.values())} are made by {commands}")
    text = markdown(found, _figures(folder), _last_epochs(found, Path(runs or folder)), published)
    written = {folder / MARKDOWN: text, folder / HTML: page(text, folder)}
    for path, content in written.items():
        write_atomically(path, content)
    return list(written)


def refuse_damaged(folder: str | os.PathLike, written: Sequence[str]) -> None:
    """Refuse damaged results that a report would be of, but for those that these commands are about to write."""
    read_results(folder, [command for command in FILES if command not in written])
    if "reproduce" not in written:
        read_reproduction(folder)


def markdown(
    found: Mapping[str, SavedResults],
    figures: Sequence[str] = (),
    last_epochs: Mapping[str, dict] | None = None,
    published: SavedReproduction | None = None,
) -> str:
    """The report, in GitHub's Markdown.

    Args:
        found: as :func:`pyrobayes.results.store.read_results` gives it.
        figures: file names of the figures that are there.
        last_epochs: by the SHA-256 of weights, the last line of their training's metrics.
        published: as :func:`pyrobayes.results.store.read_reproduction` gives it.
    """
    if not found:
        return "\n\n".join([f"# Reproduction on {_text(published.data)}", *_published(published, figures)]) + "\n"
    models = list(dict.fromkeys(result.model for each in found.values() for result in each.results))
    names = dict.fromkeys(each.data["name"] for each in found.values())
    blocks = [f"# Results on {_listed(map(_text, names))}", f"{_extent(found)}."]
    blocks += _summary(found, models)
    blocks += _models(found, models, last_epochs or {})
    if published:
        blocks += ["## Reproduction", *_published(published, figures)]
    if "evaluate" in found:
        blocks += _evaluations(found["evaluate"], figures)
    blocks += _samples(models, figures)
    if "attack" in found:
        blocks += _attacks(found, figures)
    if "detect" in found:
        blocks += _detections(found["detect"], figures)
    if "robustness" in found:
        blocks += _verdicts(found["robustness"], figures)
    return "\n\n".join([*blocks, *_configuration(found)]) + "\n"


def _figures(folder: Path) -> list[str]:
    return [path.name for path in sorted(folder.glob("*.png"))]


def _last_epochs(found: Mapping[str, SavedResults], runs: Path) -> dict[str, dict]:
    """By model, the last line of its metrics, where the run is the one that the results are of."""
    last = {}
    for model, trained in _trainings(found):
        try:
            if Config.read(runs / model) == trained.config:
                metrics = json.loads((runs / model / METRICS).read_text().splitlines()[-1])
                last |= {trained.weights: metrics} if metrics["epoch"] == trained.epochs else {}
        except (InputError, OSError, ValueError, LookupError, TypeError):
            continue  # it says nothing that the results need
    return last


def _trainings(found: Mapping[str, SavedResults]) -> list[tuple[str, Provenance]]:
    """Models and how they were trained; a model of which several trainings have results is there with each."""
    distinct = []
    for each in found.values():
        distinct += [pair for pair in each.trained.items() if pair not in distinct]
    return distinct


def _names_of(trainings: Sequence[tuple[str, Provenance]]) -> list[str]:
    """A name for each training, with the beginning of its weights' checksum where a model has several."""
    models = [model for model, _ in trainings]
    return [
        model.upper() + (f" ({trained.weights[:8]})" if models.count(model) > 1 else "") for model, trained in trainings
    ]


# Sections.


def _extent(found: Mapping[str, SavedResults]) -> str:
    """How many images of what were looked at."""
    done = {
        "evaluate": "evaluated",
        "attack": "attacked",
        "detect": "attacked and tested",
        "robustness": "attacked for a verdict on robustness",
    }
    images = {command: max(result.images for result in each.results) for command, each in found.items()}
    several = len({each.data["name"] for each in found.values()}) > 1
    return "; ".join(
        f"{images[command]:,} {_text(each.data['split'])} images{' of ' + _text(each.data['name']) if several else ''} "
        f"{done[command]}"
        for command, each in found.items()
    )


def _summary(found: Mapping[str, SavedResults], models: Sequence[str]) -> list[str]:
    lines = [f"* {' '.join(_sentences(found, model))}" for model in models]
    notes = [
        "Brackets are 95% Wilson intervals, of the sampling of images; the spread over training runs isn't in them."
    ]
    attacked = list(dict.fromkeys(result.model for result in found["attack"].results)) if "attack" in found else []
    for command, each in found.items():
        if missing := [model for model in each.models if not each.of(model)]:
            notes.append(
                f"{_code(f'pyrobayes {command}')} wasn't finished: it has no results of {_listed(map(_name, missing))}."
            )
    if without := [model for model in attacked if not _same(found, model)]:
        attacks = _listed(dict.fromkeys(_text(result.attack.upper()) for result in found["attack"].results))
        judged = [result.model for result in found["robustness"].results] if "robustness" in found else []
        named = _listed(_name(model) + (" as it was attacked" if model in judged else "") for model in without)
        judging = ["pyrobayes", "robustness", *attacked, *_where(found["attack"])]
        notes.append(
            f"There is no verdict on {named}: {attacks} alone gives an upper bound of the robustness "
            f"only, since other attacks may find more. {_code(shlex.join(judging))} tries many, and checks them."
        )
    return ["## Summary", "\n".join(lines), *notes]


def _sentences(found: Mapping[str, SavedResults], model: str) -> list[str]:
    """What was found of a model, for the summary."""
    evaluations, attacks, detections, verdicts = (found[c].of(model) if c in found else [] for c in FILES)
    clean = [result.accuracy for result in evaluations] or [result.clean_accuracy for result in [*attacks, *verdicts]]
    name, said = f"**{_name(model)}**", []
    if clean:
        said.append(f"{name} classifies {clean[0].sentence()} of {clean[0].total:,} clean images correctly.")
    else:
        test = detections[0]
        said.append(
            f"{name} has a {_text(test.test)} test that rejects {test.false_alarms.sentence()} of the clean images."
        )
    for result in attacks:
        i = _nearest(result.eps)
        said.append(
            f"{_text(result.attack.upper())} at {_eps(result.eps[i], result.options.get('norm'))} has "
            f"{result.success(i).sentence()} of {result.images:,} images misclassified."
        )
    for verdict in verdicts:
        said.append(f"{_worst(verdict)} {_failed(verdict)}")
    trained = [each.trained[model] for each in found.values() if model in each.trained]
    if any(other != trained[0] for other in trained):
        said.append("These results are of different trainings of it.")
    for first in trained[:1]:
        if first.epochs < first.config.training.epochs:
            said.append(f"It has {first.epochs} of {first.config.training.epochs} epochs of its training behind it.")
    return said


def _same(found: Mapping[str, SavedResults], model: str) -> Verdict | None:
    """The verdict on what was attacked: the same training of a model, as the same classifier, on the same data."""
    attack, verdict = found["attack"], found.get("robustness")
    if verdict is None or verdict.data != attack.data or verdict.trained.get(model) != attack.trained.get(model):
        return None
    if any(getattr(verdict.options, name) != getattr(attack.options, name) for name in DEFENDER):
        return None
    return next(iter(verdict.of(model)), None)


def _models(found: Mapping[str, SavedResults], models: Sequence[str], last_epochs: Mapping[str, dict]) -> list[str]:
    trainings, rows = _trainings(found), []
    trainings += [(model, None) for model in models if model not in dict(trainings)]
    trainings.sort(key=lambda each: models.index(each[0]))
    for (model, trained), name in zip(trainings, _names_of(trainings)):
        known = model in factorizations.names(comparators=True)
        formula = factorizations.get(model).formula() if known else ""
        discriminative = any("x" in parents for parents in parse_formula(formula).values())
        last = last_epochs.get(trained.weights, {}) if trained else {}
        rows.append(
            [
                _text(name),
                _code(formula) if known else "-",
                ("discriminative" if discriminative else "generative") if known else "-",
                f"{trained.epochs}" if trained else "-",
                *(_number(last.get(what), 2) for what in ("validation_elbo", "validation_kl")),
                _number(last.get("validation_accuracy"), 1, 100),
            ]
        )
    header = ["model", "joint density", "kind", "epochs"]
    if not last_epochs:
        return ["## Models", table(header, [row[: len(header)] for row in rows], left=3)]
    header += ["ELBO (nats)", "KL (nats)", "accuracy (%)"]
    return [
        "## Models",
        table(header, rows, left=3),
        "ELBO, KL and accuracy: of the last epoch, on validation images.",
    ]


def _evaluations(found: SavedResults, figures: Sequence[str]) -> list[str]:
    models = [result.model for result in found.results]
    header = ["model", "accuracy (%)", "changed (%)", "NLL (nats)", "ECE", "log p(x) (nats)", "ESS", "images"]
    rows = [
        [
            _name(result.model),
            result.accuracy.percent(),
            result.changed.percent(),
            _number(result.negative_log_likelihood, 3),
            _number(result.calibration_error, 3),
            _number(result.log_evidence, 2),
            _number(result.effective_sample_size, 2),
            f"{result.images:,}",
        ]
        for result in found.results
    ]
    return [
        "## Clean images",
        table(header, rows),
        "*Changed*: share of the images whose predicted class is another one with another draw of the particles. *NLL*: mean "
        "of -log p(y|x). *ECE*: expected calibration error, 15 equal bins. *ESS*: effective sample size of the importance "
        "weights.",
        *caveats(found.results, _name),
        *_of_models("confusion", "Confusion", "Images of each class, by the class predicted.", models, figures),
    ]


def _of_models(stem: str, title: str, caption: str, models: Sequence[str], figures: Sequence[str]) -> list[str]:
    """A figure for each model that has one."""
    return [
        block for model in models for block in _figure(f"{stem}-{model}", f"{title}, {_name(model)}", caption, figures)
    ]


def _samples(models: Sequence[str], figures: Sequence[str]) -> list[str]:
    blocks = [
        *_of_models(
            "samples", "Samples", "Means of p(x|...) at z drawn from p(z|y), when they were drawn.", models, figures
        ),
        *_of_models("reconstructions", "Reconstructions", "Test images, and what their z decode to.", models, figures),
    ]
    return ["## Samples", *blocks] if blocks else []


def _detections(found: SavedResults, figures: Sequence[str]) -> list[str]:
    header = [
        "model",
        "test",
        "attack",
        "eps",
        "success (%)",
        "detected (%)",
        "undetected (%)",
        "AUC",
        "accuracy accepted (%)",
    ]
    rows = [
        [
            _name(result.model),
            _text(result.test) + ("" if result.meaningful else ", without meaning"),
            _text(result.attack) + (f", evading × {_plain(weight)}" if (weight := _evading(result)) else ""),
            _eps(eps, result.options.get("norm")).removeprefix("eps "),
            *(rates[i].percent() for rates in (result.success, result.detected, result.undetected)),
            _number(None if math.isnan(result.auc[i]) else result.auc[i], 3),
            result.accepted_accuracy[i].percent(),
        ]
        for result in found.results
        for i, eps in enumerate(result.eps)
    ]
    alarms = {
        (result.model, result.test): f"{_name(result.model)} {_text(result.test)} {result.false_alarms.sentence()}"
        for result in found.results
    }
    blocks = [
        "## Detection",
        "*Success*: share of all attacked images that end up misclassified. *Detected*: share of those that the test rejects. "
        "*Undetected*: share of all that end up misclassified and accepted. *AUC*: area under the ROC curve, successful "
        "adversarial images against clean ones. *Evading*: the attack climbs against the test too, with this weight.",
        table(header, rows, left=3),
        f"Clean test images that are rejected: {_listed(alarms.values())}.",
    ]
    if not all(result.meaningful for result in found.results):
        blocks.append("Without meaning: the model has no p(x|...), so that the test doesn't see the image's density.")
    for model, name in dict.fromkeys((result.model, result.attack) for result in found.results):
        which = found.options.which(model, name)
        caption = (
            "ROC curves of the tests; the dotted line is the threshold in use. Below, where the attack evaded the tests too: images that are "
            "misclassified and accepted, against the weight of the evasion; the band is of the attack that ignores the test."
        )
        blocks += _figure(
            f"detection-{which}", f"Detection, {_name(model)} under {_text(name.upper())}", caption, figures
        )
    return [*blocks, *caveats(found.results, _name)]


def _evading(result: Detection) -> float | None:
    return result.options["evade_weight"] if result.options["evade"] is not None else None


def _attacks(found: Mapping[str, SavedResults], figures: Sequence[str]) -> list[str]:
    attack = found["attack"]
    names = list(dict.fromkeys(result.attack for result in attack.results))
    blocks = [
        f"## {_listed(_text(name.upper()) for name in names)}",
        *_figure("figure1", "Figure 1", f"Success rate against eps, with 95% Wilson intervals. {UPPER}", figures),
        "The success rate is the share of *all* attacked images that end up misclassified, those included that were "
        "misclassified before; in per cent.",
    ]
    for name in names:
        results = [result for result in attack.results if result.attack == name]
        if len(names) > 1:
            blocks.append(f"### {_text(name.upper())}, {_norm(results[0].options.get('norm'))}")
        bounded = results[0].options.get("norm") == "linf"  # as in a verdict
        verdicts = {result.model: _same(found, result.model) for result in results if bounded}
        blocks += _success_rates(results, verdicts)
        for result in results:
            if result.unmoved.count and result.eps[-1] > 0:
                blocks.append(
                    f"{_name(result.model)} gave {_text(name.upper())} no gradient for {result.unmoved.count:,} of "
                    f"{result.unmoved.total:,} images: their robustness is not known."
                )
            if result.distances is not None:
                blocks.append(
                    f"{_name(result.model)}: the median L2 distance to what {_text(name.upper())} found is "
                    f"{result.median_distance:.3g}, over the initially correct images (infinite where it found nothing that the "
                    "model fell for)."
                )
        for result in results:
            which = attack.options.which(result.model, name)
            caption = f"Images under {_text(name.upper())}, each with its predicted class and the posterior of that. "
            caption += _bound(verdicts.get(result.model))
            blocks += _figure(f"figure2-{which}", f"Figure 2, {_name(result.model)}", caption, figures)
    return [*blocks, *caveats(attack.results, _name)]


def _bound(verdict: Verdict | None) -> str:
    """What a figure of one attack says of robustness, with the worst case where it is known."""
    return f"{UPPER} {_worst(verdict)}" if verdict else f"{UPPER} No verdict is known."


def _worst(verdict: Verdict) -> str:
    i = _nearest(verdict.eps)
    return (
        f"In the worst case of {len(verdict.success)} attacks at {_eps(verdict.eps[i])}, {verdict.worst[i].sentence()} of "
        f"{verdict.images:,} images are misclassified."
    )


def _failed(verdict: Verdict) -> str:
    failed = list(map(str, verdict.failed))
    out = sum(check.status == NOT_APPLICABLE for check in verdict.checks)
    said = f"Of {len(verdict.checks)} checks, {len(failed) or 'none'} failed"
    said += f" (number{'s' if len(failed) > 1 else ''} {_listed(failed)})" if failed else ""
    return said + (f", and {out} did not apply." if out else ".")


def _success_rates(results: Sequence[AttackResult], verdicts: Mapping[str, Verdict | None]) -> list[str]:
    """Success rates of an attack on several models, beside the worst case of those that there is a verdict on."""
    worst = [verdict for verdict in verdicts.values() if verdict]
    columns = sorted({value for each in [*results, *worst] for value in each.eps})

    def row(model: str, what: str, images: int, eps: Sequence[float], rates: Iterable[Rate], doubts: str) -> list[str]:
        at = dict(zip(eps, map(Rate.percent, rates)))
        return [_name(model), what, f"{images:,}", *(at.get(value, "-") for value in columns), doubts]

    rows = []
    for result in results:
        model, verdict, attack = result.model, verdicts.get(result.model), _text(result.attack)
        doubts = _doubts(verdict, result.attack) if verdict else "not checked"
        every = range(len(result.eps))
        rows.append(row(model, attack, result.images, result.eps, map(result.success, every), doubts))
        if others := result.reached(0):
            what = f"{attack}, class {_text(result.options.get('target'))} reached"
            rows.append(row(model, what, others.total, result.eps, map(result.reached, every), doubts))
        if verdict:
            what = f"worst case of {len(verdict.success)} attacks"
            rows.append(row(model, what, verdict.images, verdict.eps, verdict.worst, _doubts(verdict, WORST)))
    header = ["model", "attack", "images", *(f"eps {value:g}" for value in columns), "doubted by checks"]
    return [table(header, rows, left=2)]


def _verdicts(found: SavedResults, figures: Sequence[str]) -> list[str]:
    blocks = [
        "## Robustness",
        "The success rate of every attack in per cent, and of the worst of them image by image; beside it the numbers of the "
        "failed checks that put it in doubt. What was found is judged again: *in most of further draws* is the share of all "
        "images whose worst adversarial image is misclassified in most of the further draws of the noise, *share of further "
        "draws* the mean of the share of those draws.",
    ]
    if len(found.results) > 1:  # else it is of another run
        caption = (
            "Images classified correctly against eps, under FGSM alone and in the worst case, with 95% intervals; in "
            "brackets the failed checks that put the worst case in doubt."
        )
        blocks += _figure("robustness", "Robustness of all models", caption, figures)
    for verdict in found.results:
        blocks += [
            f"### {_name(verdict.model)}",
            f"{verdict.clean_accuracy.sentence()} of {verdict.images:,} clean images are classified correctly"
            f"{', which check 10 puts in doubt' if verdict.clean_doubted else ''}.",
        ]
        rows = [
            [_text(name), *map(Rate.percent, rates), _doubts(verdict, name)] for name, rates in verdict.rows.items()
        ]
        if verdict.broken_in_most is not None:
            doubts = _doubts(verdict, WORST)
            rows.append(["in most of further draws", *map(Rate.percent, verdict.broken_in_most), doubts])
            rows.append(
                ["share of further draws", *(_number(share, 1, 100) for share in verdict.share_of_draws), doubts]
            )
        blocks.append(table(["attack", *(f"eps {value:g}" for value in verdict.eps), "doubted by checks"], rows))
        sheet = [
            [
                f"{check.number}. {_text(check.name)}",
                f"**{_text(check.status)}**: {_text(check.finding)}. In doubt: {_text(check.doubts)}."
                if check.status == FAIL
                else f"{_text(check.status)}: {_text(check.finding)}",
            ]
            for check in verdict.checks
        ]
        blocks.append(table(["what should hold", "what was found"], sheet, left=2))
        title, caption = (
            f"Robustness, {_name(verdict.model)}",
            "Images classified correctly against eps; in brackets the failed checks.",
        )
        blocks += _figure(f"robustness-{verdict.model}", title, caption, figures)
    return [*blocks, *caveats(found.results, _name)]


def _stated(changes: Mapping) -> str:
    """Options that a recipe gives, in words."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in changes.items())


def _published(saved: SavedReproduction, figures: Sequence[str]) -> list[str]:
    """The published success rates of FGSM beside ours, and the claims that were made of them."""
    comparisons, seeds, recipe = saved.comparisons, saved.seeds, saved.recipe
    judged = next((each.worst.images for each in comparisons if each.worst), None)
    clean = [[_name(model), spread.percent(), f"{spread.images:,}"] for model, spread in saved.clean.items()]
    apart: dict[str, list[str]] = {}  # models by what sets them apart
    for model, changes in recipe.get("apart", {}).items():
        apart.setdefault(_stated(changes), []).append(_name(model))
    training = _stated(recipe["training"]) or "each model as by default"
    training += "".join(f"; {_listed(models)}: {changes}" for changes, models in apart.items())
    each = _listed(f"[seed {seed}](seed-{seed}/{HTML})" for seed in seeds)
    return [
        f"Networks {_text(recipe['networks'])}, K = {saved.particles}, {'seed' if len(seeds) == 1 else 'seeds'} "
        f"{_listed(map(str, seeds))}; training: {_text(training)}. Versions: "
        f"{_text(', '.join(f'{name} {version}' for name, version in saved.versions.items()))}.",
        *(
            [f"Formulas, checks, configuration and figures are in the report of each: {each}."]
            if len(seeds) > 1
            else []
        ),
        table(["model", "clean accuracy (%)", "test images"], clean, left=1),
        f"Success rates of FGSM in per cent, published (poster by Delavande and Megdoud, {POSTER_IMAGES:,} test images) and ours, of "
        f"{saved.images:,} test images; their difference in points"
        + (
            f"; and our worst case over several attacks, of {judged:,} images, beside FGSM on the same"
            if judged
            else ""
        )
        + ". In brackets 95% intervals, which are for the choice of the images"
        + (" and of the seeds." if len(seeds) > 1 else " and not of the seed."),
        compared(comparisons),
        *_figure(
            "reproduction", "Success rates, published and ours, and the worst case", "Bars: 95% intervals.", figures
        ),
        "The poster's claims for pairs of a generative and a discriminative model, on the same images, at every eps from 0.05 to "
        "0.3 and for every seed; and where each fails, or comes closest to it. It holds where every gap is beyond its 95% interval, and "
        "fails where one is the other way, beyond an interval that allows for so many comparisons. These are claims about FGSM, and not about robustness.",
        tested(saved.claims),
    ]


def compared(comparisons: Sequence[Comparison]) -> str:
    """A table of success rates, published and ours, their differences, and worst cases, by model and eps."""
    eps = sorted({each.eps for each in comparisons})
    at = {(each.model, each.eps): each for each in comparisons}
    rows = []
    for model in dict.fromkeys(each.model for each in comparisons):
        ours = [at[model, value] for value in eps]
        if any(each.published is not None for each in ours):
            rows.append([_name(model), "published", *(_number(each.published, 2, 100) for each in ours)])
        rows.append([_name(model), "ours", *(each.ours.percent() for each in ours)])
        if any(each.difference for each in ours):
            rows.append([_name(model), "difference", *(_points(each.difference) for each in ours)])
        for name, what in (("FGSM", "judged"), ("worst case", "worst")):
            spreads = [getattr(each, what) for each in ours]
            if known := [spread for spread in spreads if spread]:
                cells = (spread.percent() if spread else "-" for spread in spreads)
                rows.append([_name(model), f"{name}, {known[0].images:,} images", *cells])
    return table(["model", "", *(f"eps {value:g}" for value in eps)], rows, left=2)


def tested(claims: Sequence[Claim]) -> str:
    """A table of what became of the claims: a row a pair of models, and two columns a claim."""
    statements = list(dict.fromkeys(claim.statement for claim in claims))
    pairs: dict[tuple, list[str]] = {}
    for claim in claims:
        cells = pairs.setdefault((claim.generative, claim.discriminative), [])
        cells.append("**fails**" if claim.outcome == "fails" else claim.outcome)
        cells.append(f"{_points((claim.gap, claim.half))} at eps {claim.eps:g}, seed {claim.seed}")
    header = ["pair", *(title for statement in statements for title in (_text(statement), "smallest gap"))]
    return table(header, [[", ".join(map(_name, pair)), *cells] for pair, cells in pairs.items()], left=len(header))


def _points(difference: tuple[float, float] | None) -> str:
    if difference is None:
        return "-"
    gap, half = (round(100 * each, 1) + 0.0 for each in difference)  # and no -0.0
    return f"{gap:+.1f} ± {half:.1f}"


def _configuration(found: Mapping[str, SavedResults]) -> list[str]:
    trainings = _trainings(found)
    names = _names_of(trainings)
    sums = dict.fromkeys(
        [(each.data["name"], each.data["split"], each.data["sha256"]) for each in found.values()]
        + [(each.config.data, "train", each.config.data_sha256) for _, each in trainings]
    )
    training = {
        name: {"data": each.config.data} | vars(each.config.networks) | vars(each.config.training)
        for name, (_, each) in zip(names, trainings)
    }
    return [
        "## Configuration",
        "These commands give the same again. `--runs`, `--out`, `--data-dir` and `--device` are left out.",
        "```\n" + "\n".join(_commands(found)) + "\n```",
        "### Data",
        table(["data", "images", "sha256"], [[_text(n), _text(s), _code(h)] for n, s, h in sums], left=3),
        "### Options",
        "Options that were given nowhere, and have no default, are left out.",
        _columns("option", {command: _given(each.options) for command, each in found.items()}),
        *_described(found),
        "### Training",
        _columns("option", training),
        "### Weights",
        table(
            ["model", "sha256"],
            [[_text(name), _code(each.weights)] for name, (_, each) in zip(names, trainings)],
            left=2,
        ),
        "### Versions",
        _columns("of", {command: each.versions for command, each in found.items()}),
    ]


def _given(options: EvaluationOptions) -> dict:
    return vars(options) | ({"images": "all"} if options.images is None else {})


def _commands(found: Mapping[str, SavedResults]) -> list[str]:
    """The command lines that give the results again."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for model, trained in _trainings(found):
        if _packaged(model, trained):
            continue
        config = trained.config
        data = [] if config.data == "fashion-mnist" else ["--data", config.data]
        changes = {name: flags(config.networks, preset) for name, preset in NETWORKS.items()}
        nearest = min(changes, key=lambda name: len(changes[name]))
        networks = [*([] if nearest == "paper" else ["--networks", nearest]), *changes[nearest]]
        given = (*networks, *flags(config.training, TrainingOptions.of(model)), *data)
        alike.setdefault(given, []).append(model)
    lines = [["train", *models, *given] for given, models in alike.items()]
    for command, each in found.items():
        models = dict.fromkeys(result.model for result in each.results)
        lines.append([command, *models, *_where(each), *flags(each.options, type(each.options)())])
    return [" ".join(shlex.join(["pyrobayes", *line]).split()) for line in lines]


def _where(found: SavedResults) -> list[str]:
    """The options of a command that say of which models and data its results are."""
    pretrained = all(_packaged(model, trained) for model, trained in found.trained.items())
    usual = MINI if pretrained else next(iter(found.trained.values())).config.data
    where = ["--pretrained"] if pretrained else []
    return where if found.data["name"] == usual else [*where, "--data", found.data["name"]]


def _packaged(model: str, trained: Provenance) -> bool:
    """Whether the weights are those that come with the package."""
    return model in MODELS and digest(read_tensors(PRETRAINED / model / MODEL)[0], {}) == trained.weights


def flags(options, default) -> list[str]:
    """An options record as a command line takes it, but for what is as in another."""
    given = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is None or value == getattr(default, field.name):
            continue
        if field.name == "eps":
            given += ["--eps-range", ",".join(map(_plain, value))]
        elif isinstance(value, tuple):
            given += [part for each in value for part in flag(field.name, each)]
        else:
            given += flag(field.name, value)
    return given


def flag(name: str, value) -> list[str]:
    """An option as a command line takes it: `--train-particles 2`, `--antithetic`."""
    option = f"--{name.replace('_', '-')}"
    return [option] if value is True else [option, str(value)]


def _described(found: Mapping[str, SavedResults]) -> list[str]:
    """A table of the attacks with their own options, each once."""
    attacks: dict[tuple[str, str], list[str]] = {}
    for result in found["attack"].results if "attack" in found else []:
        attacks.setdefault((result.attack, _own(result.options)), []).append(result.model)
    for result in found["detect"].results if "detect" in found else []:
        attacks.setdefault((result.attack, _own(result.options)), []).append(result.model)
    for verdict in found["robustness"].results if "robustness" in found else []:
        for name, options in verdict.options.items():
            attacks.setdefault((name, _own(options)), []).append(verdict.model)
    rows = [
        [_text(name), _listed(map(_name, dict.fromkeys(models))), _text(options)]
        for (name, options), models in attacks.items()
    ]
    return ["### Attacks", table(["attack", "on", "options"], rows, left=3)] if rows else []


def _own(options: Mapping) -> str:
    """The options of an attack that say something, in words."""
    silent = {"name", *(["evade_weight"] if not options.get("evade") else [])}
    told = {
        name: _plain(value)
        for name, value in options.items()
        if name not in silent and value is not None and value is not False
    }
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items() if value)


def _columns(first: str, columns: Mapping[str, Mapping]) -> str:
    """A table with a row for each key; names that have the same of all share a column."""
    alike: dict[str, list[str]] = {}
    for name, column in columns.items():
        alike.setdefault(json.dumps(column), []).append(name)
    shown = [json.loads(column) for column in alike]
    keys = dict.fromkeys(key for column in shown for key in column if any(each.get(key) is not None for each in shown))
    rows = [
        [_text(key.replace("_", " ")), *(_text(_plain(column[key])) if key in column else "-" for column in shown)]
        for key in keys
    ]
    return table([first, *(_text(_listed(names)) for names in alike.values())], rows, left=1 + len(shown))


# Words and Markdown.


def _name(model: str) -> str:
    return _text(model.upper())


def _number(value: float | None, places: int, times: float = 1) -> str:
    return f"{round(times * value, places) + 0.0:.{places}f}" if isinstance(value, (int, float)) else "-"  # no -0.00


def _nearest(eps: Sequence[float]) -> int:
    """Where the eps is that the summary tells of."""
    return min(range(len(eps)), key=lambda i: abs(eps[i] - TOLD))


def _eps(value: float, norm: str | None = "linf") -> str:
    return f"eps {value:g}" + ("" if norm == "linf" else f" ({_norm(norm)})")


def _norm(norm: str | None) -> str:
    return NORMS.get(str(norm), _text(norm))


def _doubts(verdict: Verdict, row: str) -> str:
    return ", ".join(map(str, verdict.doubts(row))) or "none"


def _listed(words) -> str:
    """Words in a sentence: `a, b and c`."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _plain(value) -> str:
    """An option's value as somebody would type it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "-" if value is None else str(value)


def _text(value) -> str:
    """A text that stands for itself in Markdown."""
    return re.sub(r"([\\`*_\[\]<>~&#])", r"\\\1", " ".join(str(value).split()))


def _code(text: str) -> str:
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{padding}{' '.join(text.split())}{padding}{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of Markdown's under a header; the first columns to the left, the others to the right."""
    lines = [header, ["---" if i < left else "---:" for i in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _figure(stem: str, title: str, caption: str, figures: Sequence[str]) -> list[str]:
    """A figure with its caption, where its file is there."""
    return [f"![{title}]({quote(stem)}.png)", f"*{title}. {caption}*"] if f"{stem}.png" in figures else []
