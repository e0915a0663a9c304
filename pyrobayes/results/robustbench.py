"""A result as RobustBench records one: the entries of its `model_info` files (Croce et al. 2021), of a verdict or of AutoAttack.

RobustBench itself takes deterministic classifiers and its own data sets alone. What it wouldn't take is said in the footnote,
and such a result is marked as unreliable.
"""

import math
from dataclasses import replace

from pyrobayes import attacks
from pyrobayes.errors import InputError
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.robustness.verdict import Verdict

AUTOATTACK = "autoattack"
ABOUT = ("link", "name", "authors", "additional_data", "number_forward_passes", "venue", "reported")


def robustbench_record(result: Verdict | AttackResult, eps: float, *, architecture: str | None = None, **about) -> dict:
    """The entries of a `model_info` file, as plain JSON values; accuracies are in per cent, as text.

    Args:
        result: a verdict with a row of AutoAttack (:class:`pyrobayes.RobustnessOptions`, `autoattack`), whose worst case, judged
            by further draws, becomes `external`; or AutoAttack's own result.
        eps: one of the result's.
        architecture: the classifier's name in the result where left out.
        about: what no result knows: link, name, authors, additional_data, number_forward_passes, venue, reported.
    """
    if unknown := sorted(about.keys() - set(ABOUT)):
        raise InputError(f"RobustBench's record has no {', '.join(unknown)}; it has {', '.join(ABOUT)}")
    place = next((i for i, value in enumerate(result.eps) if math.isclose(value, eps)), None)
    if place is None:
        raise InputError(f"the result has no eps {eps:g}, it has {', '.join(f'{value:g}' for value in result.eps)}")
    verdict = isinstance(result, Verdict)
    options = result.options.get(AUTOATTACK) if verdict else result.options if result.attack == AUTOATTACK else None
    if options is None:
        raise InputError("autoattack_acc needs AutoAttack: attack by 'autoattack', or ask for it in RobustnessOptions")
    left = 1 - (result.success[AUTOATTACK][place] if verdict else result.success(place)).share
    random = result.broken_in_most is not None if verdict else options["variant"] == "rand"
    doubts = list(result.caveats) + (["its predictions are random"] if random else []) + _other_settings(options)
    record = {name: about[name] for name in ABOUT if name in about} | {
        "dataset": result.data,
        "architecture": architecture or result.model,
        "eps": _fraction(eps),
        "clean_acc": _percent(result.clean_accuracy.share),
        "autoattack_acc": _percent(left),
    }
    if verdict:
        record["external"] = _percent(1 - result.headline[place].share)
        doubts += [f"checks {', '.join(map(str, result.failed))} of the verdict failed"] if result.failed else []
    footnote = "; ".join([f"{result.images:,} images", *doubts])
    return record | {"footnote": footnote, "unreliable": random or bool(verdict and result.failed)}


def _other_settings(options: dict) -> list[str]:
    """AutoAttack's settings that aren't its authors'."""
    usual = replace(attacks.get(AUTOATTACK), variant=options["variant"], norm=options["norm"]).described()
    other = [f"{name} {options[name]}" for name in ("steps", "queries", "targets") if options[name] != usual[name]]
    return [f"AutoAttack with {', '.join(other)}"] if other else []


def _fraction(eps: float) -> str:
    """Eps as RobustBench writes it: 8/255 where it is a whole number of grey values."""
    grey = round(255 * eps)
    return f"{grey}/255" if grey and math.isclose(255 * eps, grey, rel_tol=1e-6) else f"{eps:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
