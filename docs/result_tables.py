"""The tables of the pages: every function makes one, in Markdown, from a file in `docs/results`."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from attack_strengths import judged

from pyrobayes.attacks import base
from pyrobayes.codec import decode
from pyrobayes.commands.report import read_results
from pyrobayes.data.declared import DATASETS
from pyrobayes.errors import is_number
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.certification import Certification
from pyrobayes.evaluation.detection import Detection
from pyrobayes.evaluation.particles import Effect, references
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.robustness.checks import CHECKS, FAIL, NOT_APPLICABLE
from pyrobayes.options import COMPARATORS, DETECTION_TESTS, MODELS
from pyrobayes.results import tables
from pyrobayes.results.markdown import Markdown, code
from pyrobayes.results.names import model_name
from pyrobayes.results.tables import NUMBER, STATUS, TEXT, Table, grouped, share
from pyrobayes_cli.main import main as main_command

RESULTS = Path(__file__).parent / "results"
MIDDLE = 0.1  # the eps at which every attack is told
PARTICLES = (1, 10, 100)  # of which the tables tell
CERTIFIED_RADII = (0, 0.25, 0.5, 1, 1.5, 2)  # of which the table of certificates tells


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, kind: str = NUMBER) -> str:
    """A table in Markdown; the first columns are text, the others of a kind."""
    return Table(header, [TEXT] * left + [kind] * (len(header) - left), rows).as_markdown()


def results(command: str, folder: str = "") -> list:
    """The results of a command that `docs/results`, or a folder in it, has."""
    return read_results(RESULTS / folder, [command])[command].results


def worst_cases() -> str:
    """FGSM and the worst case of every model at every eps."""
    return tables.worst_cases(results("robustness")).as_markdown()


def attacks() -> str:
    """Every attack on every model at one eps."""
    verdicts = results("robustness")
    at = verdicts[0].eps.index(MIDDLE)
    names = dict.fromkeys(name for verdict in verdicts for name in verdict.success)
    names |= dict.fromkeys(name for verdict in verdicts for name in verdict.judged)
    rows = [[name, *(share(v.rows[name][at]) if name in v.rows else "-" for v in verdicts)] for name in names]
    return table([f"eps {MIDDLE:g}", *(model_name(verdict.model) for verdict in verdicts)], rows)


def declared_attacks() -> str:
    """The registered attacks: what each does, the norms that can bound it, and its own options with their defaults."""
    offered = base.offered()
    everybody = offered["norm"]  # every attack has a norm
    shared = {field.name for field in dataclasses.fields(base.Attack)}

    def option(name: str, attack: str) -> str:
        default = getattr(everybody[attack], name)
        return code("--" + name.replace("_", "-")) + (f" {default:g}" if is_number(default) else "")

    own = {
        attack: [name for name, able in offered.items() if attack in able and name not in shared]
        for attack in everybody
    }
    rows = [
        [
            code(attack),
            " ".join(cls.__doc__.split("\n\n")[0].split()),
            Markdown(", ".join(map(code, cls.norms))),
            Markdown(", ".join(option(name, attack) for name in own[attack]) or "-"),
        ]
        for attack, cls in everybody.items()
    ]
    return table(["name", "what", "norms", "own options and defaults"], rows, left=4)


def data_sets() -> str:
    """The declared data sets: by which name each is asked for, its classes, and which checksums its files are held to."""
    rows = [
        [code(name), data.title, ", ".join(data.classes), "the package's" if data.sums else "recorded when fetched"]
        for name, data in DATASETS.items()
    ]
    return table([code("--data"), "images", "classes", "checksums"], rows, left=4)


def commands() -> str:
    """The commands, each with its page and what it does."""
    offered = sorted(main_command.commands.items())
    rows = [[Markdown(f"[`pyrobayes {name}`]({name}.md)"), command.short_help.rstrip(".")] for name, command in offered]
    return table(["command", "does"], rows, left=2)


def checks() -> str:
    """The checks of a verdict, as they are registered."""
    rows = [[str(each.number), each.name, each.__doc__.split("\n\n")[0], each.doubts] for each in CHECKS.values()]
    return table(["", "what should hold", "why", "in doubt where it fails"], rows, left=4)


def sheet() -> str:
    """The checks of every model."""
    verdicts = results("robustness")
    rows = [
        [
            str(checks[0].number),
            checks[0].name,
            *("-" if each.status == NOT_APPLICABLE else each.status for each in checks),
        ]
        for checks in zip(*(verdict.checks for verdict in verdicts))
    ]
    return table(["", "check", *(model_name(verdict.model) for verdict in verdicts)], rows, left=2, kind=STATUS)


def findings() -> str:
    """Failed checks, and how success grows with estimates and particles, by model."""
    rows = [
        [model_name(verdict.model), str(check.number), check.status, check.finding]
        for verdict in results("robustness")
        for check in verdict.checks
        if check.status == FAIL or check.number == 6 and check.status != NOT_APPLICABLE
    ]
    return Table(["model", "check", "", "found"], [TEXT, TEXT, STATUS, TEXT], rows).as_markdown()


def detections() -> str:
    """The share of every attack that the tests detect, and the accuracy on what they accept."""
    by_attack: dict[tuple, list[Detection]] = {}
    for each in results("detect"):
        by_attack.setdefault((each.model, each.attack), []).append(each)
    tests = " / ".join(DETECTION_TESTS)
    told = f"detected: {tests}", "undetected", "accuracy of the accepted", "AUC"
    header = ["model", "attack", "eps", "success", *told]

    def cells(i: int, of_tests: list[Detection]) -> list[str]:
        rates = ("detected", "undetected", "accepted_accuracy")
        told = [[share(getattr(each, name)[i]) for each in of_tests] for name in rates]
        told.append([f"{each.auc[i]:.2f}" for each in of_tests])
        meaningful = [each.meaningful for each in of_tests]
        told = [" / ".join(cell if means else "-" for cell, means in zip(column, meaningful)) for column in told]
        first = of_tests[0]
        return [model_name(first.model), first.attack.upper(), f"{first.eps[i]:g}", share(first.success[i]), *told]

    rows = [cells(i, of_tests) for of_tests in by_attack.values() for i in range(len(of_tests[0].eps))]
    return table(header, rows, left=2)


def evasions(folder: str = "evading") -> str:
    """Images that pass a test, from an attack that ignores it and from those that evade it, by the weight of its statistic."""
    found: dict[tuple, dict[str, list[Detection]]] = {}
    for each in results("detect", folder):
        for_test = found.setdefault((each.model, each.attack), {})
        for_test.setdefault(each.test, []).append(each)
    rows = []
    for (model, attack), of_tests in found.items():
        first = next(iter(of_tests.values()))[0]
        for i, eps in enumerate(first.eps):
            cells = [[share(each.undetected[i]) for each in of_tests[test]] for test in DETECTION_TESTS]
            meaningful = [of_tests[test][0].meaningful for test in DETECTION_TESTS]
            told = [" / ".join(cell) if means else "-" for cell, means in zip(cells, meaningful)]
            rows.append([model_name(model), attack.upper(), f"{eps:g}", share(first.success[i]), *told])
    header = ["model", "attack", "eps", "success", *(f"undetected by {test}" for test in DETECTION_TESTS)]
    return table(header, rows, left=2)


def unknown_images() -> str:
    """Images of another data set that the tests reject, and how well their scores tell them apart, as `docs/unknown_images.py` measured it."""
    rows: dict[str, list[str]] = {}
    for row in saved_rows("unknown_images"):
        rejected, false_alarms = (share(decode(Rate, row[what])) for what in ("rejected", "false_alarms"))
        rows.setdefault(row["model"], []).append((rejected, false_alarms, f"{row['auc']:.2f}"))
    header = [
        "model",
        *(f"{what}: {' / '.join(DETECTION_TESTS)}" for what in ("digits rejected (%)", "false alarms (%)", "AUC")),
    ]
    alone = [("-",) * 3] * (len(DETECTION_TESTS) - 1)  # of models without log p(x), beside the test of posteriors
    told = {model: found if len(found) > 1 else alone + found for model, found in rows.items()}
    return table(header, [[model_name(model), *map(" / ".join, zip(*found))] for model, found in told.items()])


def clean() -> str:
    """Every model on clean images."""
    return tables.evaluations(results("evaluate")).as_markdown()


def summary() -> str:
    """Every model on clean images, under FGSM, and in the worst case."""
    verdicts = {verdict.model: verdict for verdict in results("robustness")}
    judged = next(iter(verdicts.values())).eps
    header = ["", "accuracy (%)", *(f"{what} {eps:g}" for what in ("FGSM", "worst case") for eps in judged), "changed"]
    rows = []
    for each in results("evaluate"):
        found = verdicts[each.model]
        rates = map(share, [*found.success["fgsm"], *found.headline])
        rows.append([model_name(each.model), each.accuracy.percent(), *rates, share(each.flipped_by_resampling)])
    return table(header, rows)


def ablations(of: str) -> str:
    """The gain of training options for GBZ, or for the others, as `docs/ablations.py` measured it."""
    rows = saved_rows("ablations")
    rows = [row for row in rows if (row["model"] == "gbz") == (of == "gbz")]
    eps = rows[0]["settings"]["eps"]
    header = [
        "option" if of == "gbz" else code("pyrobayes train"),
        "accuracy (%)",
        "NLL (nats)",
        "changed by another draw (%)",
        "KL (nats)",
    ]
    header += [f"FGSM {eps:g}", f"worst of three {eps:g}"]
    rates = ("accuracy", "changed", "fgsm", "worst")

    def line(row: dict) -> list[str]:
        accuracy, changed, fgsm, worst = (Rate(row[name]["count"], row[name]["total"]) for name in rates)
        nll, kl = f"{row['negative_log_likelihood']:.3f}", f"{round(row['kl'], 1) + 0.0:.1f}"
        told = [accuracy.percent(), nll, share(changed), kl, share(fgsm), worst.percent()]
        given = row["given"] if of == "gbz" else f"{row['model']} {row['given']}".strip()
        return [code(given) if given else "none", *told]

    return table(header, [line(row) for row in rows])


def attack_strengths() -> str:
    """The generative models under single attacks, and what each adds to eot-mim, with the gradients that it computes."""
    rows = saved_rows("attack_strengths")
    models = [model for model in MODELS if any(row["model"] == model for row in rows)]

    def told(found: dict) -> str:
        return f"{share(decode(Rate, found['most']))} / {100 * found['share']:.1f}"

    def line(name: str, gradients: str, found: dict[str, dict]) -> list[str]:
        return [name, gradients, *(told(found[model]) if model in found else "-" for model in models)]

    def lines(name: str, ours: list[dict]) -> Iterator[list[str]]:
        yield line(name, f"{ours[0]['gradients']:,}", {row["model"]: row for row in ours})
        together = {row["model"]: row["with eot-mim"] for row in ours if "with eot-mim" in row}
        if together:
            yield line(f"eot-mim and {name}", "", together)

    images = rows[0]["most"]["total"]
    verdicts = {verdict.model: verdict for verdict in results("robustness")}
    earlier = {}
    for model in models:
        shares = torch.tensor(verdicts[model].resampled[verdicts[model].eps.index(rows[0]["eps"])][:images])
        earlier[model] = judged(shares)
    header = ["in most draws / share of draws (%)", "gradients", *map(str.upper, models)]
    attacks = grouped((row["attack"], row) for row in rows)
    body = [each for name, ours in attacks.items() for each in lines(name, ours)]
    return table(header, [line("the worst of all attacks of the earlier suite", "", earlier), *body])


def independent_attacks() -> str:
    """The generative models under attacks by others, and under eot-mim on the same images."""
    found = {(row["attack"], row["model"]): row for row in saved_rows("independent_attacks")}
    attacks, models = (list(dict.fromkeys(key[i] for key in found)) for i in range(2))

    def told(row: dict) -> str:
        return f"{decode(Rate, row['most']).percent()} / {100 * row['share']:.1f}"

    body = [[attack, *(told(found[attack, model]) for model in models)] for attack in attacks]
    return table(["in most draws / share of draws (%)", *map(str.upper, models)], body)


def least_distances() -> str:
    """The median distance of the nearest adversarial images, one row an attack and norm, one column a model."""
    found = [decode(AttackResult, row["result"]) for row in saved_rows("least_distances")]
    models = list(dict.fromkeys(result.model for result in found))
    by_attack = grouped(((result.attack, result.options["norm"]), result) for result in found)
    rows = []
    for (attack, norm), results in by_attack.items():
        told = {
            result.model: f"{result.distance}, {share(Rate.among(map(math.isinf, result.distances)))}"
            for result in results
        }
        rows.append([attack, tables.NORMS[norm], *(told.get(model, "-") for model in models)])
    return table(["median distance, images without one (%)", "norm", *map(str.upper, models)], rows, left=2)


def library_attacks() -> str:
    """The images that our attacks and those of libraries break, by model and noise."""
    rows = saved_rows("library_attacks")
    columns = list(dict.fromkeys((row["model"], row["noise"]) for row in rows))
    found = {(row["model"], row["noise"], row["attack"]): decode(Rate, row["misclassified"]) for row in rows}

    def told(rate: Rate | None) -> str:
        return f"{rate.percent()} of {rate.total}" if rate else "-"

    body = [
        [name, *(told(found.get((*column, name))) for column in columns)]
        for name in dict.fromkeys(row["attack"] for row in rows)
    ]
    return table(["misclassified (%)", *(f"{model_name(model)}, {noise}" for model, noise in columns)], body)


def saved_rows(name: str) -> list[dict]:
    """The rows of a results file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def certified_accuracy() -> str:
    """Models trained and smoothed with noise of one sigma: images without a certificate, and certified accuracy at some radii."""
    rows = saved_rows("certified_accuracy")
    found = decode(list[Certification], [row["certification"] for row in rows])
    header = ["model", "sigma", "images", "draws", "without noise (%)", "abstained (%)"]
    header += [f"radius {radius:g} (%)" for radius in CERTIFIED_RADII]

    def line(each: Certification) -> list[str]:
        rates = [each.clean_accuracy, each.abstained, *map(each.certified, CERTIFIED_RADII)]
        told = [model_name(each.model), f"{each.sigma:g}", f"{each.images:,}", f"{each.draws:,}"]
        return [*told, *(rate.percent() for rate in rates)]

    return table(header, [line(each) for each in found])


def black_box(of: str) -> str:
    """The success of images made without the victim's gradient, or how many the victim's tests reject; a column a victim."""
    rows = saved_rows("black_box")
    found = {(row["source"], row["victim"]): row for row in rows}
    victims = [name for name in dict.fromkeys([*MODELS, *COMPARATORS]) if any(name == victim for _, victim in found)]
    sources = dict.fromkeys(["unchanged", *victims, *(row["source"] for row in rows)])

    def cell(row: dict | None) -> str:
        if row is None:
            return "-"
        if of == "success":
            return decode(Rate, row["success"]).percent()
        return " / ".join(
            share(decode(Rate, row["rejected"][test])) for test in DETECTION_TESTS if test in row["rejected"]
        )

    lines = [
        [
            model_name(name),
            *(cell(found.get((name, each))) for each in victims),
        ]
        for name in sources
    ]
    return table([f"{of} (%)", *map(str.upper, victims)], lines)


def kernel_density() -> str:
    """A classifier that knows the training images by heart, by the variance of its likelihood."""
    rows = saved_rows("kernel_density")
    header = [
        "variance",
        "accuracy (%)",
        "NLL (nats)",
        f"FGSM {rows[0]['eps']:g}",
        f"worst of three {rows[0]['eps']:g}",
    ]

    def line(row: dict) -> list[str]:
        accuracy, fgsm, worst = (Rate(row[name]["count"], row[name]["total"]) for name in ("accuracy", "fgsm", "worst"))
        nll = f"{row['negative_log_likelihood']:.3f}"
        return [f"{row['variance']:g}", accuracy.percent(), nll, share(fgsm), worst.percent()]

    return table(header, [line(row) for row in rows])


def particles(what: str) -> str:
    """The effect of the number of particles, as `examples/effect_of_particles.py` measured it, for a few numbers."""
    effects = decode(list[Effect], json.loads((RESULTS / "particles.json").read_text()))
    return tables.effects(effects, what, PARTICLES, references(effects)).as_markdown()


TABLES = {
    name: globals()[name]
    for name in (
        "summary clean worst_cases attacks declared_attacks data_sets commands checks sheet findings detections "
        "evasions unknown_images particles ablations kernel_density attack_strengths independent_attacks least_distances "
        "library_attacks certified_accuracy black_box"
    ).split()
}
