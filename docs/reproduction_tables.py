"""The tables of docs/reproduction.md, from files in `docs/results`, as in `result_tables.py`."""

import json

import result_tables

from pyrobayes.commands.report import read_reproduction
from pyrobayes.evaluation import reproduction
from pyrobayes.evaluation.rates import Rate
from pyrobayes.results import tables
from pyrobayes.results.markdown import Markdown
from pyrobayes.results.names import model_name
from pyrobayes.results.tables import share

# Clean accuracy to reach, and the success rate of FGSM at that eps to stay below, in per cent.
AIMS = {
    "gfz": (90, 35), "gfy": (90, 35), "gbz": (88, 30), "gby": (88, 35), "dfx": (92, None), "dfz": (92, None), "dbx": (90, None),
}  # fmt: skip


def aims(folder: str) -> str:
    """Clean accuracy and FGSM at one eps against what was aimed at, with the worst case; what is reached in bold."""
    found = read_reproduction(result_tables.RESULTS / folder)
    at = {each.model: each for each in found.comparisons if each.eps == result_tables.MIDDLE}
    header = [
        "model",
        "clean (%): poster",
        "aim",
        "ours",
        f"FGSM {result_tables.MIDDLE:g} (%): poster",
        "aim",
        "ours",
        "worst case",
    ]
    rows, published = [], reproduction.published()
    for model, (accuracy, fgsm) in AIMS.items():
        clean, ours, theirs = found.clean[model], at[model].ours, published.get(model)
        reached = [clean.share >= accuracy / 100, fgsm is not None and ours.share < fgsm / 100]
        told = [
            Markdown(f"**{each.percent()}**") if good else each.percent() for each, good in zip((clean, ours), reached)
        ]
        rows.append(
            [
                model_name(model),
                f"{100 * (1 - theirs[0.0]):.2f}" if theirs else "-",
                f"{accuracy:g}",
                told[0],
                f"{100 * theirs[result_tables.MIDDLE]:.2f}" if theirs else "-",
                "as measured" if fgsm is None else f"below {fgsm:g}",
                told[1],
                at[model].worst.percent() if at[model].worst else "-",
            ]
        )
    return result_tables.table(header, rows)


def trainings(folder: str) -> str:
    """Clean accuracy, FGSM and the worst case at one eps, of every training by itself."""
    found = read_reproduction(result_tables.RESULTS / folder)
    at = {each.model: each for each in found.comparisons if each.eps == result_tables.MIDDLE}
    measured = {
        "clean accuracy": found.clean,
        f"FGSM {result_tables.MIDDLE:g}": {model: each.ours for model, each in at.items()},
        f"worst case {result_tables.MIDDLE:g}": {model: each.worst for model, each in at.items()},
    }
    rows = [
        [f"{what}, seed {seed}", *(share(of_models[model].shares[i]) for model in AIMS)]
        for what, of_models in measured.items()
        for i, seed in enumerate(found.seeds)
    ]
    return result_tables.table(["", *map(model_name, AIMS)], rows)


def differences(folder: str) -> str:
    """Published and our success rates of FGSM, and the worst case, by model and eps."""
    return tables.comparisons(read_reproduction(result_tables.RESULTS / folder).comparisons).as_markdown()


def originals() -> str:
    """FGSM's published success rates, and those of models by the poster's recipe with two kinds of networks."""
    at = {(each.model, each.eps): each for each in read_reproduction(result_tables.RESULTS / "poster").comparisons}
    rows = []
    for each in result_tables.results("attack", "original"):
        ours = [at[each.model, eps] for eps in each.eps]
        told = {
            "published": [f"{100 * one.published:.1f}" for one in ours],
            "`paper`": [one.ours.percent() for one in ours],
            "`original`": [each.success(i).percent() for i in range(len(ours))],
        }
        rows += [[model_name(each.model), Markdown(networks), *cells] for networks, cells in told.items()]
    return result_tables.table(["model", "networks", *(f"eps {eps:g}" for eps in each.eps)], rows, left=2)


def claims(folder: str) -> str:
    """The poster's claims, and whether they hold."""
    return tables.claims(read_reproduction(result_tables.RESULTS / folder).claims).as_markdown()


def fgsm_variants() -> str:
    """The effect of details of FGSM, as `docs/fgsm_variants.py` measured it."""
    rows = json.loads((result_tables.RESULTS / "poster" / "fgsm_variants.json").read_text())

    def line(row: dict) -> list[str]:
        found = [
            " / ".join(share(Rate(at["count"], at["total"])) for at in of_eps) for of_eps in row["success"].values()
        ]
        return [model_name(row["model"]), *found]

    return result_tables.table(["model", *rows[0]["success"]], [line(row) for row in rows])


TABLES = {each.__name__: each for each in (aims, trainings, differences, originals, claims, fgsm_variants)}
