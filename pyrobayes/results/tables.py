"""Tables of results, each described once: the command line, the report and the documentation show the same columns."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.evaluation.detection import Detection
from pyrobayes.evaluation.particles import Effect
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.reproduction import Claim, Comparison, Spread
from pyrobayes.evaluation.robustness.verdict import WORST, Verdict
from pyrobayes.results.markdown import Markdown, code, name, text
from pyrobayes.training.fit import Epoch

# Kinds of columns. Numbers stand to the right. A status may be followed by a colon and what was found.
NUMBER, TEXT, MODEL, CODE, STATUS = "number", "text", "model", "code", "status"
ASCII = str.maketrans({"×": "x", "±": "+/-"})  # terminals know these
NORMS = {"linf": "L∞", "l2": "L2", "area": "share of the image"}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        header: with the unit in brackets.
        cell: the text for a record.
        kind: NUMBER, TEXT, MODEL, CODE or STATUS.
        note: explains the header, under the table.
    """

    header: str
    cell: Callable[..., str]
    kind: str = NUMBER
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header.

    Attributes:
        kinds: of the columns.
        notes: terms and their explanations; a sentence has no term.
    """

    header: Sequence[str]
    kinds: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[tuple[str, str]] = field(default=())

    @classmethod
    def of(cls, columns: Sequence[Column], records: Iterable, notes: Sequence[tuple[str, str]] = ()) -> "Table":
        """One row a record; a tuple holds several arguments for the cells."""
        records = [each if isinstance(each, tuple) else (each,) for each in records]
        rows = [[column.cell(*record) for column in columns] for record in records]
        terms = [(column.header.split(" (")[0], column.note) for column in columns if column.note]
        return cls([column.header for column in columns], [column.kind for column in columns], rows, [*terms, *notes])

    @classmethod
    def across_eps(cls, labels: Mapping[str, str], rows: Sequence[tuple], doubted: bool = False) -> "Table":
        """One row a measurement, one column an eps.

        Args:
            labels: headers of the first columns, and their kinds.
            rows: the first cells, the others by eps, and with `doubted` the failed checks.
        """
        eps = sorted({value for row in rows for value in row[1]})
        header = [*labels, *(f"eps {value:g}" for value in eps), *(["doubted by checks"] if doubted else [])]
        cells = [[*row[0], *(row[1].get(value, "-") for value in eps), *row[2:]] for row in rows]
        return cls(header, [*labels.values(), *[NUMBER] * (len(header) - len(labels))], cells)

    def as_markdown(self) -> Markdown:
        """The table in GitHub's Markdown, its notes under it."""
        shown = {MODEL: name, CODE: code, STATUS: _bold_status}
        rows = [[shown.get(kind, text)(cell) for kind, cell in zip(self.kinds, row)] for row in self.rows]
        rule = ["---:" if kind == NUMBER else "---" for kind in self.kinds]
        lines = [[text(header) for header in self.header], rule, *rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        notes = " ".join(f"*{text(term)}*: {text(note)}." if term else text(note) for term, note in self.notes)
        return Markdown("\n\n".join(filter(None, [table, notes])))

    def as_text(self) -> str:
        """The table for a terminal, columns aligned, its notes under it."""
        rows = self._plain_rows()
        widths = [max(map(len, column)) for column in zip(self.header, *rows)]
        lines = [
            "  ".join(
                cell.rjust(width) if kind == NUMBER else cell.ljust(width)
                for kind, cell, width in zip(self.kinds, line, widths)
            ).rstrip()
            for line in [self.header, ["-" * width for width in widths], *rows]
        ]
        notes = " ".join(f"{term}: {note}." if term else note for term, note in self.notes)
        return "\n".join([*lines, *textwrap.wrap(notes, 110)]).translate(ASCII)

    def as_list(self) -> str:
        """The rows for a terminal, where cells are sentences: the first cell, and the others below it."""
        return "\n".join("\n    ".join(row) for row in self._plain_rows()).translate(ASCII)

    def _plain_rows(self) -> list[list[str]]:
        return [
            [_emphasised(cell, str.upper) if kind == STATUS else cell for kind, cell in zip(self.kinds, row)]
            for row in self.rows
        ]


def _emphasised(cell: str, emphasis: Callable[[str], str]) -> str:
    """A status, emphasised if it says that something failed, and what follows it."""
    status, colon, rest = cell.partition(": ")
    return (emphasis(status) if status.startswith("fail") else status) + colon + rest


def _bold_status(cell: str) -> Markdown:
    return Markdown(_emphasised(text(cell), lambda word: f"**{word}**"))


# Words of cells.


def number(value: float | None, places: int, times: float = 1) -> str:
    """A number with so many places; `-` for none."""
    return f"{round(times * value, places) + 0.0:.{places}f}" if isinstance(value, (int, float)) else "-"  # no -0.00


def percent(rate: Rate | Spread | None) -> str:
    """A share with its interval; `-` for none."""
    return rate.percent() if rate else "-"


def share(rate: Rate | Spread | float) -> str:
    """A share in per cent, without its interval."""
    return f"{100 * getattr(rate, 'share', rate):.1f}"


def points(difference: tuple[float, float] | None) -> str:
    """A difference of shares and half the width of its interval, in percentage points."""
    if difference is None:
        return "-"
    gap, half = (round(100 * each, 1) + 0.0 for each in difference)  # no -0.0
    return f"{gap:+.1f} ± {half:.1f}"


def doubts(verdict: Verdict, row: str) -> str:
    """The failed checks that put a row of success rates in doubt."""
    return ", ".join(map(str, verdict.doubts(row))) or "none"


def norm(of: str | None) -> str:
    """A norm as papers write it."""
    return NORMS.get(str(of), str(of))


def eps_of(value: float, of: str | None = "linf") -> str:
    """An eps, with its norm where that isn't L-infinity."""
    return f"{value:g}" + ("" if of == "linf" else f" ({norm(of)})")


def _at_every_eps(results: Iterable) -> list[tuple]:
    return [(result, i) for result in results for i in range(len(result.eps))]


# Training.

MODEL_NAME = Column("model", lambda result, *_: result.model, MODEL)
LAST_EPOCH = [
    Column("epochs", lambda epoch: f"{epoch.epoch}"),
    Column("validation ELBO (nats)", lambda epoch: number(epoch.validation_elbo, 2)),
    Column("validation KL (nats)", lambda epoch: number(epoch.validation_kl, 2)),
    Column("validation accuracy (%)", lambda epoch: number(epoch.validation_accuracy, 1, 100)),
]  # fmt: skip


def trainings(trained: Mapping[str, Sequence[Epoch]], runs) -> Table:
    """One row a model: its last epoch, and where it is."""
    columns = [
        Column("model", lambda model, epoch: model, MODEL),
        *(Column(each.header, lambda model, epoch, cell=each.cell: cell(epoch)) for each in LAST_EPOCH),
        Column("saved in", lambda model, epoch: f"{runs}/{model}", TEXT),
    ]
    return Table.of(columns, [(model, epochs[-1]) for model, epochs in trained.items()])


# Clean images.

EVALUATION = [
    MODEL_NAME,
    Column("accuracy (%)", lambda result: result.accuracy.percent()),
    Column("changed (%)", lambda result: result.flipped_by_resampling.percent(), note="predictions that another draw of the particles changes"),
    Column("NLL (nats)", lambda result: number(result.negative_log_likelihood, 3), note="mean of -log p(y|x)"),
    Column("ECE", lambda result: number(result.calibration_error, 3), note="expected calibration error, 15 equal bins"),
    Column("log p(x) (nats)", lambda result: number(result.log_evidence, 2)),
    Column("ESS", lambda result: number(result.effective_sample_size, 2), note="effective sample size of the importance weights"),
    Column("images", lambda result: f"{result.images:,}"),
]  # fmt: skip


def evaluations(results: Sequence[Evaluation]) -> Table:
    """One row a model on clean images."""
    return Table.of(EVALUATION, results)


# Attacks.

ATTACK = [
    MODEL_NAME,
    Column("attack", lambda result, i: result.attack, TEXT),
    Column("eps", lambda result, i: eps_of(result.eps[i], result.options.get("norm"))),
    Column("clean accuracy (%)", lambda result, i: result.clean_accuracy.percent()),
    Column("success rate (%)", lambda result, i: result.success(i).percent(), note="images that end up misclassified, of all"),
    Column("flipped (%)", lambda result, i: result.flipped(i).percent(), note="the same, of the initially correct images"),
    Column("target reached (%)", lambda result, i: percent(result.reached(i))),
    Column("images", lambda result, i: f"{result.images:,}"),
]  # fmt: skip


def attacks(results: Sequence[AttackResult]) -> Table:
    """One row a model, attack and eps."""
    aimed = any(result.reached(0) for result in results)
    columns = [column for column in ATTACK if aimed or not column.header.startswith("target")]
    return Table.of(columns, _at_every_eps(results))


def success_rates(results: Sequence[AttackResult], verdicts: Mapping[str, Verdict | None]) -> Table:
    """Success rates of an attack, one row a model, and below it the worst case where there is a verdict."""
    rows = []
    for result in results:
        verdict, every = verdicts.get(result.model), range(len(result.eps))
        doubted = doubts(verdict, result.attack) if verdict else "not checked"
        measured = [(result.attack, result.images, result.success)]
        if others := result.reached(0):
            measured.append(
                (f"{result.attack}, class {result.options['target']} reached", others.total, result.reached)
            )
        for what, images, rate in measured:
            cells = {eps: rate(i).percent() for eps, i in zip(result.eps, every)}
            rows.append(([result.model, what, f"{images:,}"], cells, doubted))
        if verdict:
            labels = [result.model, f"worst case of {len(verdict.success)} attacks", f"{verdict.images:,}"]
            rows.append((labels, dict(zip(verdict.eps, map(percent, verdict.worst))), doubts(verdict, WORST)))
    return Table.across_eps({"model": MODEL, "attack": TEXT, "images": NUMBER}, rows, doubted=True)


# Detection.


def _test(result: Detection) -> str:
    return result.test + ("" if result.meaningful else ", without meaning")


def _evading(result: Detection) -> str:
    weight = result.options["evade_weight"] if result.options["evade"] is not None else None
    return result.attack + (f", evading × {weight:g}" if weight is not None else "")


DETECTION = [
    MODEL_NAME,
    Column("test", lambda result, i: _test(result), TEXT),
    Column("attack", lambda result, i: _evading(result), TEXT),
    Column("eps", lambda result, i: eps_of(result.eps[i], result.options.get("norm"))),
    Column("success (%)", lambda result, i: result.success[i].percent(), note="attacked images that end up misclassified, of all"),
    Column("detected (%)", lambda result, i: result.detected[i].percent(), note="images that the test rejects, of those"),
    Column("undetected (%)", lambda result, i: result.undetected[i].percent(), note="images that end up misclassified and accepted, of all"),
    Column("AUC", lambda result, i: number(None if math.isnan(area := result.auc[i]) else area, 3),
           note="area under the ROC curve, successful adversarial images against clean ones"),
    Column("accuracy accepted (%)", lambda result, i: result.accepted_accuracy[i].percent()),
]  # fmt: skip


def detections(results: Sequence[Detection]) -> Table:
    """One row a model, test, attack and eps; clean images that are rejected are told below."""
    alarms = {
        (each.model, each.test): f"{each.model.upper()} {each.test} {each.false_alarms.sentence()}" for each in results
    }
    notes = [("", f"Clean test images that are rejected: {'; '.join(alarms.values())}.")]
    if any(result.options["evade"] is not None for result in results):
        notes.append(("evading", "the attack climbs against the test too, with this weight"))
    if not all(result.meaningful for result in results):
        notes.append(
            ("", "Without meaning: the model has no p(x|...), so that the test doesn't see the image's density.")
        )
    return Table.of(DETECTION, _at_every_eps(results), notes)


# Verdicts.


def verdict_rates(verdict: Verdict) -> Table:
    """Success rates of every attack and of the worst case, in per cent; one row an attack."""
    rows = [
        ([row], dict(zip(verdict.eps, map(percent, rates))), doubts(verdict, row))
        for row, rates in verdict.rows.items()
    ]
    if verdict.broken_in_most is not None:
        worst = doubts(verdict, WORST)
        for label, cells in (
            ("in most of further draws", map(percent, verdict.broken_in_most)),
            ("share of further draws", map(share, verdict.share_of_draws)),
        ):
            rows.append(([label], dict(zip(verdict.eps, cells)), worst))
    return Table.across_eps({"attack": TEXT}, rows, doubted=True)


def sheet(verdict: Verdict) -> Table:
    """One row a check: what should hold, and what was found."""
    found = []
    for check in verdict.checks:
        doubted = f". In doubt: {check.doubts}." if check.number in verdict.failed else ""
        found.append([f"{check.number}. {check.name}", f"{check.status}: {check.finding}{doubted}"])
    return Table(["what should hold", "what was found"], [TEXT, STATUS], found)


def worst_cases(verdicts: Sequence[Verdict]) -> Table:
    """One row a model: clean accuracy, FGSM, and the worst case at every eps."""
    eps = [f"{value:g}" for value in verdicts[0].eps]
    columns = [
        MODEL_NAME,
        Column("clean accuracy (%)", lambda verdict: verdict.clean_accuracy.percent()),
        *(Column(head, lambda verdict, i=i: share(verdict.success["fgsm"][i])) for i, head in enumerate([f"FGSM {eps[0]}", *eps[1:]])),
        *(Column(head, lambda verdict, i=i: verdict.worst[i].percent()) for i, head in enumerate([f"worst case {eps[0]}", *eps[1:]])),
        Column("doubted by", lambda verdict: doubts(verdict, WORST)),
    ]  # fmt: skip
    return Table.of(columns, verdicts)


# Reproduction.


def comparison_measures(comparisons: Sequence[Comparison]) -> dict[str, Callable[[Comparison], str]]:
    """The measurements of a comparison: headers, and the texts of their cells."""
    judged = next((f", {each.worst.images:,} images" for each in comparisons if each.worst), "")
    return {
        "published": lambda each: number(each.published, 2, 100),
        "ours": lambda each: each.ours.percent(),
        "difference": lambda each: points(each.difference),
        f"FGSM{judged}": lambda each: percent(each.judged),
        f"worst case{judged}": lambda each: percent(each.worst),
    }


def comparisons(results: Sequence[Comparison]) -> Table:
    """Success rates in per cent, published and ours, differences and worst cases: one row a model and measurement."""
    rows = []
    for model in dict.fromkeys(each.model for each in results):
        for measure, cell in comparison_measures(results).items():
            cells = {each.eps: cell(each) for each in results if each.model == model}
            if set(cells.values()) != {"-"}:
                rows.append(([model, measure], cells))
    return Table.across_eps({"model": MODEL, "": TEXT}, rows)


def comparisons_by_eps(results: Sequence[Comparison]) -> Table:
    """The measurements of :func:`comparisons` with one row a model and eps, which is narrower."""
    measures = [Column(f"{head} (%)", cell) for head, cell in comparison_measures(results).items()]
    return Table.of([MODEL_NAME, Column("eps", lambda each: f"{each.eps:g}"), *measures], results)


def _gap(claim: Claim) -> str:
    return f"{points((claim.gap, claim.half))} at eps {claim.eps:g}, seed {claim.seed}"


def _pair(claim: Claim) -> str:
    return f"{claim.generative.upper()}, {claim.discriminative.upper()}"


CLAIM = [
    Column("pair", _pair, TEXT),
    Column("claim about FGSM", lambda claim: claim.statement, TEXT),
    Column("outcome", lambda claim: claim.outcome, STATUS),
    Column("smallest gap (points)", _gap, TEXT),
]  # fmt: skip


def claims(results: Sequence[Claim]) -> Table:
    """One row a pair of models; two columns a claim."""
    statements = list(dict.fromkeys(claim.statement for claim in results))
    rows: dict[str, list[str]] = {}
    for claim in results:
        rows.setdefault(_pair(claim), []).extend([claim.outcome, _gap(claim)])
    header = ["pair", *(title for statement in statements for title in (statement, "smallest gap"))]
    return Table(header, [TEXT, *[STATUS, TEXT] * len(statements)], [[pair, *cells] for pair, cells in rows.items()])


# Particles.

EFFECT = {
    "accuracy": "correct (%)", "changed": "changed by another draw (%)", "size": "effective sample size",
    "bias": "bias of log p(x, y) (nats)", "pareto": "Pareto k: median (nine tenths)",
}  # fmt: skip


def effect_cell(effect: Effect, what: str, reference: Effect) -> str:
    """One cell of a table of the effect of particles; `what` is a key of EFFECT, `reference` the best estimate."""
    if rate := {"accuracy": effect.accuracy, "changed": effect.flipped_by_resampling}.get(what):
        return rate.percent()
    if what == "pareto":
        return "{1:.2f} ({0:.2f} to {2:.2f})".format(*effect.pareto_k) if effect.pareto_k else "-"
    mean = effect.effective_sample_size if what == "size" else effect.bias(reference)
    value, low, high = (number(each, 2) for each in (mean.value, *mean.interval))
    return f"{value} [{low}, {high}]"


def effects(measured: Sequence[Effect], what: str, counts: Sequence[int], best: Mapping[str, Effect]) -> Table:
    """One row a model and estimator, one column a number of particles."""
    rows: dict[str, list[str]] = {}
    for effect in measured:
        if effect.particles in counts:
            label = effect.model.upper() + (", mixture" if effect.estimator == "mixture" else "")
            rows.setdefault(label, []).append(effect_cell(effect, what, best[effect.model]))
    header = [EFFECT[what], *(f"K = {count}" for count in counts)]
    return Table(header, [TEXT, *[NUMBER] * len(counts)], [[label, *cells] for label, cells in rows.items()])
