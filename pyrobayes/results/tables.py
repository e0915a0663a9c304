"""Tables of results, each described once: the command line, the report and the documentation show the same columns."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.certification import RADII, Certification
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.evaluation.detection import Detection
from pyrobayes.evaluation.particles import Effect, Mean
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.records import percent
from pyrobayes.evaluation.reproduction import Claim, Comparison, Spread
from pyrobayes.evaluation.robustness.verdict import WORST, Verdict
from pyrobayes.results.markdown import Markdown, code, text
from pyrobayes.results.names import model_name
from pyrobayes.training.metrics import Epoch

# Kinds of columns. Numbers stand to the right. A status may be followed by a colon and what was found.
NUMBER, TEXT, MODEL, CODE, STATUS = "number", "text", "model", "code", "status"
ASCII = str.maketrans({"×": "x", "±": "+/-"})  # terminals know these
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0", "area": "share of the image"}


@dataclass(frozen=True)
class Column:
    """A column of a table: its cell for a record is a text of that kind, and a note explains its header."""

    header: str  # with the unit in brackets
    cell: Callable[..., str]
    kind: str = NUMBER
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; notes are terms and their explanations, and a sentence has no term."""

    header: Sequence[str]
    kinds: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[tuple[str, str]] = ()

    @classmethod
    def of(cls, columns: Sequence[Column], records: Iterable, notes: Sequence[tuple[str, str]] = ()) -> "Table":
        """One row a record; a tuple holds several arguments for the cells."""
        records = [each if isinstance(each, tuple) else (each,) for each in records]
        rows = [[column.cell(*record) for column in columns] for record in records]
        terms = [(column.header.split(" (")[0], column.note) for column in columns if column.note]
        return cls([column.header for column in columns], [column.kind for column in columns], rows, [*terms, *notes])

    @classmethod
    def across(cls, labels: Mapping[str, str], rows: Iterable[tuple], column: str = "eps {:g}", last=()) -> "Table":
        """One row a measurement, one column an eps or another number.

        A row has its first cells (`labels` are their headers and kinds), cells by number, and those of the `last` columns.
        """
        rows = list(rows)
        numbers = sorted({value for _, cells, *_ in rows for value in cells})
        header = [*labels, *map(column.format, numbers), *last]
        cells = [[*first, *(by.get(value, "-") for value in numbers), *ends] for first, by, *ends in rows]
        return cls(header, [*labels.values(), *[NUMBER] * (len(header) - len(labels))], cells)

    def as_markdown(self) -> Markdown:
        """The table in GitHub's Markdown, its notes under it."""
        shown = {MODEL: lambda cell: text(model_name(cell)), CODE: code, STATUS: _bold_status}
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
        sides = [str.rjust if kind == NUMBER else str.ljust for kind in self.kinds]
        lines = [
            "  ".join(side(cell, width) for side, cell, width in zip(sides, line, widths)).rstrip()
            for line in [self.header, ["-" * width for width in widths], *rows]
        ]
        notes = " ".join(f"{term}: {note}." if term else note for term, note in self.notes)
        return "\n".join([*lines, *textwrap.wrap(notes, 110)]).translate(ASCII)

    def as_list(self) -> str:
        """The rows for a terminal, where cells are sentences: the first cell, and the others below it."""
        return "\n".join("\n    ".join(row) for row in self._plain_rows()).translate(ASCII)

    def _plain_rows(self) -> list[list[str]]:
        shown = {STATUS: lambda cell: _emphasised(cell, str.upper)}
        return [[shown.get(kind, str)(cell) for kind, cell in zip(self.kinds, row)] for row in self.rows]


def _emphasised(cell: str, emphasis: Callable[[str], str]) -> str:
    """A status, emphasised if it says that something failed, and what follows it."""
    status, colon, rest = cell.partition(": ")
    return (emphasis(status) if status.startswith("fail") else status) + colon + rest


def _bold_status(cell: str) -> Markdown:
    return Markdown(_emphasised(text(cell), lambda word: f"**{word}**"))


def grouped(pairs: Iterable[tuple]) -> dict:
    """By the first of each pair, the list of the seconds, in their order."""
    groups: dict = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def number(value: float | None, places: int, times: float = 1) -> str:
    """A number with so many places; `-` for none."""
    return f"{round(times * value, places) + 0.0:.{places}f}" if isinstance(value, (int, float)) else "-"  # no -0.00


def share(rate: Rate | Spread | float) -> str:
    """A share in per cent, without its interval."""
    return f"{100 * getattr(rate, 'share', rate):.1f}"


def points(difference: tuple[float, float] | None) -> str:
    """A difference of shares and half the width of its interval, in percentage points; `-` for none."""
    gap, half = difference or (None, 0)
    return "-" if gap is None else f"{round(100 * gap, 1) + 0.0:+.1f} ± {100 * half:.1f}"  # no -0.0


def eps_of(value: float, norm: str | None = "linf") -> str:
    """An eps, with its norm where that isn't L-infinity."""
    return f"{value:g}" + ("" if norm == "linf" else f" ({NORMS.get(norm, norm)})")


MODEL_NAME = Column("model", lambda result, *_: result.model, MODEL)
LAST_EPOCH = [
    Column("epochs", lambda epoch, *_: f"{epoch.epoch}"),
    Column("validation ELBO (nats)", lambda epoch, *_: number(epoch.validation_elbo, 2)),
    Column("validation KL (nats)", lambda epoch, *_: number(epoch.validation_kl, 2)),
    Column("validation accuracy (%)", lambda epoch, *_: number(epoch.validation_accuracy, 1, 100)),
]


def trainings(trained: Mapping[str, Sequence[Epoch]], runs) -> Table:
    """One row a model: its last epoch, and where it is."""
    name = Column("model", lambda epoch, model: model, MODEL)
    saved = Column("saved in", lambda epoch, model: f"{runs}/{model}", TEXT)
    return Table.of([name, *LAST_EPOCH, saved], [(epochs[-1], model) for model, epochs in trained.items()])


CHANGED = "predictions that another draw of the particles changes"
SIZE = "effective sample size of the importance weights"
EVALUATION = [
    MODEL_NAME,
    Column("accuracy (%)", lambda result: result.accuracy.percent()),
    Column("changed (%)", lambda result: result.flipped_by_resampling.percent(), note=CHANGED),
    Column("NLL (nats)", lambda result: number(result.negative_log_likelihood, 3), note="mean of -log p(y|x)"),
    Column("ECE", lambda result: number(result.calibration_error, 3), note="expected calibration error, 15 equal bins"),
    Column("log p(x) (nats)", lambda result: number(result.log_evidence, 2)),
    Column("ESS", lambda result: number(result.effective_sample_size, 2), note=SIZE),
    Column("images", lambda result: f"{result.images:,}"),
]


def evaluations(results: Sequence[Evaluation]) -> Table:
    """One row a model on clean images."""
    return Table.of(EVALUATION, results)


AT_EPS = Column("eps", lambda result, i: eps_of(result.eps[i], result.options.get("norm")))
ENDED_UP = "images that end up misclassified, of all"
ATTACK = [
    MODEL_NAME,
    Column("attack", lambda result, i: result.attack, TEXT),
    AT_EPS,
    Column("clean accuracy (%)", lambda result, i: result.clean_accuracy.percent()),
    Column("success rate (%)", lambda result, i: result.success(i).percent(), note=ENDED_UP),
    Column(
        "flipped (%)", lambda result, i: result.flipped(i).percent(), note="the same, of the initially correct images"
    ),
    Column("target reached (%)", lambda result, i: percent(result.reached(i))),
    Column("images", lambda result, i: f"{result.images:,}"),
]


def attacks(results: Sequence[AttackResult]) -> Table:
    """One row a model, attack and eps."""
    aimed = any(result.reached(0) for result in results)
    columns = [column for column in ATTACK if aimed or not column.header.startswith("target")]
    return Table.of(columns, [(result, i) for result in results for i in range(len(result.eps))])


def success_rates(results: Sequence[AttackResult], verdicts: Mapping[str, Verdict | None]) -> Table:
    """Success rates of an attack, one row a model, and below it the worst case where there is a verdict."""
    rows = []
    for result in results:
        verdict = verdicts.get(result.model)
        doubted = verdict.doubted(result.attack) if verdict else "not checked"
        measured = [(result.attack, result.images, result.success)]
        if others := result.reached(0):
            reached = f"{result.attack}, class {result.options['target']} reached"
            measured.append((reached, others.total, result.reached))
        for what, images, rate in measured:
            cells = {eps: rate(i).percent() for i, eps in enumerate(result.eps)}
            rows.append(([result.model, what, f"{images:,}"], cells, doubted))
        if verdict:
            labels = [result.model, f"worst case of {len(verdict.success)} attacks", f"{verdict.images:,}"]
            rows.append((labels, dict(zip(verdict.eps, map(percent, verdict.headline))), verdict.doubted(WORST)))
    return Table.across({"model": MODEL, "attack": TEXT, "images": NUMBER}, rows, last=["doubted by checks"])


def _evading(result: Detection, _) -> str:
    weight = result.options["evade_weight"]
    return result.attack + ("" if result.options["evade"] is None else f", evading × {weight:g}")


PASSED = "images that end up misclassified and accepted, of all"
AUC = "area under the ROC curve, successful adversarial images against clean ones"
DETECTION = [
    MODEL_NAME,
    Column("test", lambda result, i: result.test + ("" if result.meaningful else ", without meaning"), TEXT),
    Column("attack", _evading, TEXT),
    AT_EPS,
    Column("success (%)", lambda result, i: result.success[i].percent(), note=f"attacked {ENDED_UP}"),
    Column(
        "detected (%)", lambda result, i: result.detected[i].percent(), note="images that the test rejects, of those"
    ),
    Column("undetected (%)", lambda result, i: result.undetected[i].percent(), note=PASSED),
    Column("AUC", lambda result, i: number(None if math.isnan(result.auc[i]) else result.auc[i], 3), note=AUC),
    Column("accuracy accepted (%)", lambda result, i: result.accepted_accuracy[i].percent()),
]


def detections(results: Sequence[Detection]) -> Table:
    """One row a model, test, attack and eps; clean images that are rejected are told below."""
    alarms = {(each.model, each.test): each.false_alarms.sentence() for each in results}
    told = "; ".join(f"{model_name(model)} {test} {share}" for (model, test), share in alarms.items())
    notes = [("", f"Clean test images that are rejected: {told}.")]
    if any(result.options["evade"] is not None for result in results):
        notes.append(("evading", "the attack climbs against the test too, with this weight"))
    if not all(result.meaningful for result in results):
        why = "Without meaning: the model has no p(x|...), so that the test doesn't see the image's density."
        notes.append(("", why))
    return Table.of(DETECTION, [(result, i) for result in results for i in range(len(result.eps))], notes)


def _mean(mean: Mean) -> str:
    return "{} [{}, {}]".format(*(number(each, 2) for each in (mean.value, *mean.interval)))


CERTIFIED = "certified to be classified correctly within that radius in L2, of all images"
CERTIFICATION = [
    MODEL_NAME,
    Column("sigma", lambda result: f"{result.sigma:g}"),
    Column("without noise (%)", lambda result: result.clean_accuracy.percent(), note="accuracy of the model itself"),
    Column("smoothed (%)", lambda result: result.smoothed_accuracy.percent(), note="accuracy of the smoothed model"),
    Column("abstained (%)", lambda result: result.abstained.percent(), note="images without any certificate"),
    *(Column(f"radius {r:g} (%)", lambda result, r=r: result.certified(r).percent()) for r in RADII),
    Column("average radius", lambda result: _mean(result.average_radius), note="0 where the class is wrong"),
    Column("images", lambda result: f"{result.images:,}"),
]


def certifications(results: Sequence[Certification]) -> Table:
    """One row a model and sigma."""
    notes = [("radius", CERTIFIED)]
    for draws, alpha in dict.fromkeys((result.draws, result.alpha) for result in results):
        notes.append(("", f"Each certificate has {draws:,} draws, and is wrong with a chance of {alpha:g} at most."))
    return Table.of(CERTIFICATION, results, notes)


def verdict_rates(verdict: Verdict) -> Table:
    """Success rates of every attack and of the worst case, in per cent; one row an attack."""
    rows = [
        ([row], dict(zip(verdict.eps, map(percent, rates))), verdict.doubted(row))
        for row, rates in verdict.rows.items()
    ]
    return Table.across({"attack": TEXT}, rows, last=["doubted by checks"])


def sheet(verdict: Verdict) -> Table:
    """One row a check: what should hold, and what was found."""
    found = []
    for check in verdict.checks:
        doubted = f". In doubt: {check.doubts}." if check.number in verdict.failed else ""
        found.append([f"{check.number}. {check.name}", f"{check.status}: {check.finding}{doubted}"])
    return Table(["what should hold", "what was found"], [TEXT, STATUS], found)


def worst_cases(verdicts: Sequence[Verdict]) -> Table:
    """One row a model: clean accuracy, FGSM, and the worst case at every eps, in most further draws where there are any."""
    first, *others = (f"{value:g}" for value in verdicts[0].eps)
    header = ["model", "clean accuracy (%)", f"FGSM {first}", *others, f"worst case {first}", *others, "doubted by"]
    rows = []
    for verdict in verdicts:
        rates = [*map(share, verdict.success["fgsm"]), *map(percent, verdict.headline)]
        rows.append([verdict.model, verdict.clean_accuracy.percent(), *rates, verdict.doubted(WORST)])
    return Table(header, [MODEL, *[NUMBER] * (len(header) - 1)], rows)


def _measures(results: Sequence[Comparison]) -> dict[str, Callable[[Comparison], str]]:
    """The measurements of a comparison: headers, and the texts of their cells."""
    judged = next((f", {each.worst.images:,} images" for each in results if each.worst), "")
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
        for measure, cell in _measures(results).items():
            cells = {each.eps: cell(each) for each in results if each.model == model}
            if set(cells.values()) != {"-"}:
                rows.append(([model, measure], cells))
    return Table.across({"model": MODEL, "": TEXT}, rows)


def comparisons_by_eps(results: Sequence[Comparison]) -> Table:
    """The measurements of :func:`comparisons` with one row a model and eps, which is narrower."""
    measures = [Column(f"{head} (%)", cell) for head, cell in _measures(results).items()]
    return Table.of([MODEL_NAME, Column("eps", lambda each: f"{each.eps:g}"), *measures], results)


def _gap(claim: Claim) -> str:
    return f"{points((claim.gap, claim.half))} at eps {claim.eps:g}, seed {claim.seed}"


CLAIM = [
    Column("pair", lambda claim: f"{model_name(claim.generative)}, {model_name(claim.discriminative)}", TEXT),
    Column("claim about FGSM", lambda claim: claim.statement, TEXT),
    Column("outcome", lambda claim: claim.outcome, STATUS),
    Column("smallest gap (points)", _gap, TEXT),
]


def claims(results: Sequence[Claim]) -> Table:
    """One row a pair of models; two columns a claim."""
    statements = dict.fromkeys(claim.statement for claim in results)
    rows: dict[str, list[str]] = {}
    for claim in results:
        pair, _, *cells = (column.cell(claim) for column in CLAIM)
        rows.setdefault(pair, [pair]).extend(cells)
    header = ["pair", *(title for statement in statements for title in (statement, "smallest gap"))]
    return Table(header, [TEXT, *[STATUS, TEXT] * len(statements)], list(rows.values()))


def _pareto_k(effect: Effect, _) -> str:
    return "{1:.2f} ({0:.2f} to {2:.2f})".format(*effect.pareto_k) if effect.pareto_k else "-"


# Cells are of an effect and of the best estimate for the same model.
EFFECT = {
    "accuracy": Column("correct (%)", lambda effect, best: effect.accuracy.percent()),
    "changed": Column("changed by another draw (%)", lambda effect, best: effect.flipped_by_resampling.percent()),
    "size": Column("effective sample size", lambda effect, best: _mean(effect.effective_sample_size)),
    "bias": Column("bias of log p(x, y) (nats)", lambda effect, best: _mean(effect.bias(best))),
    "pareto": Column("Pareto k: median (nine tenths)", _pareto_k),
}


def effects(measured: Sequence[Effect], what: str, counts: Sequence[int], best: Mapping[str, Effect]) -> Table:
    """One row a model and estimator, one column a number of particles; `what` is a key of EFFECT."""
    rows: dict[str, dict[int, str]] = {}
    for effect in measured:
        if effect.particles in counts:
            label = model_name(effect.model) + (", mixture" if effect.estimator == "mixture" else "")
            rows.setdefault(label, {})[effect.particles] = EFFECT[what].cell(effect, best[effect.model])
    return Table.across({EFFECT[what].header: TEXT}, (([label], cells) for label, cells in rows.items()), "K = {}")
