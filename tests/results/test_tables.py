"""Tables: the same cells for a terminal and in Markdown, and nothing in a name that Markdown takes for its own."""

import dataclasses

import pytest
from made_up import attack, certification, detection, evaluation, verdict

from pyrobayes.evaluation.particles import Effect, Mean
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.reproduction import Claim, Comparison, Spread
from pyrobayes.evaluation.robustness.verdict import IN_MOST, SHARE_OF_DRAWS, UPPER_BOUND
from pyrobayes.results import tables
from pyrobayes.results.markdown import code, listed, plain, text
from pyrobayes.results.tables import MODEL, NUMBER, STATUS, TEXT, Table
from pyrobayes.training.fit import Epoch

COMPARISONS = [
    Comparison("gbz", 0.1, 0.4041, Spread((0.36, 0.38), 1000), Spread((0.7,), 200), Spread((0.4,), 200)),
    Comparison("gbz", 0.2, 0.6073, Spread((0.55, 0.53), 1000)),
    Comparison("gby", 0.1, None, Spread((0.25, 0.25), 1000)),
]
CLAIMS = [
    Claim(statement, "gbz", "dfx", outcome, 1, 0.3, gap, 0.0272)
    for statement, outcome, gap in (("rate stays below", "holds", 0.1234), ("degradation is slower", "fails", -0.0002))
]
EPOCH = Epoch(20, -500.0, -470.25, 9.5, 0.825, False, 1e-3, 3.0)
MADE = {
    "trainings": tables.trainings({"gbz": [EPOCH]}, "runs"),
    "evaluations": tables.evaluations([evaluation("gbz"), evaluation("dfx")]),
    "attacks": tables.attacks([attack("gbz"), attack("gbz", "cw", "l2")]),
    "success_rates": tables.success_rates([attack("gbz"), attack("dfx")], {"gbz": verdict("gbz")}),
    "detections": tables.detections([detection("gbz"), detection("dfx", "marginal", "kl", meaningful=False)]),
    "certifications": tables.certifications([certification("gbz"), certification("dfx", 0.5)]),
    "verdict_rates": tables.verdict_rates(verdict("gbz")),
    "sheet": tables.sheet(verdict("gbz")),
    "worst_cases": tables.worst_cases([verdict("gbz"), verdict("gfz")]),
    "comparisons": tables.comparisons(COMPARISONS),
    "comparisons_by_eps": tables.comparisons_by_eps(COMPARISONS),
    "claims": tables.claims(CLAIMS),
    "claims in rows": Table.of(tables.CLAIM, CLAIMS),
}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_every_row_has_a_cell_a_column_in_both_forms(made):
    assert len(made.kinds) == len(made.header) and all(len(row) == len(made.header) for row in made.rows)
    lines = made.as_text().splitlines()
    assert len(lines[1].split("  ")) == len(made.header) and set(lines[1]) <= {"-", " "}
    assert all(line.isascii() for line in lines)
    shown = made.as_markdown().split("\n\n")[0].splitlines()
    assert len(shown) == len(made.rows) + 2
    for row, line in zip(made.rows, lines[2:]):
        assert row[0] in line


def test_cells_have_the_numbers_of_the_records():
    assert MADE["trainings"].rows == [["gbz", "20", "-470.25", "9.50", "82.5", "runs/gbz"]]
    assert MADE["evaluations"].rows[0] == [
        "gbz", "81.7 [70.1, 89.4]", "5.0 [1.7, 13.7]", "0.500", "0.040", "-", "2.50", "60",
    ]  # fmt: skip
    assert [row[:3] for row in MADE["attacks"].rows[2:4]] == [["gbz", "fgsm", "0.3"], ["gbz", "cw", "0 (L2)"]]
    most = ["55.0 [34.2, 74.2]", "90.0 [69.9, 97.2]"]  # of further draws
    assert MADE["success_rates"].rows[1][:2] == ["gbz", "worst case of 3 attacks"]
    assert MADE["success_rates"].rows[1][3:] == ["-", *most, "-", "4, 10"]
    assert MADE["verdict_rates"].rows[-3] == [IN_MOST, *most, "4, 10"]
    assert MADE["verdict_rates"].rows[-1][:2] == [UPPER_BOUND, "75.0 [53.1, 88.8]"]
    assert MADE["verdict_rates"].rows[-2] == [SHARE_OF_DRAWS, "60.0", "90.0", "4, 10"]
    assert MADE["worst_cases"].rows[0] == [
        "gbz",
        "80.0 [58.4, 91.9]",
        "60.0",
        "70.0",
        *most,
        "4, 10",
    ]
    assert MADE["detections"].rows[0][1:4] == ["kl", "pgd", "0.1"] and MADE["detections"].rows[1][7] == "-"
    assert MADE["detections"].rows[2][1:3] == ["marginal, without meaning", "pgd, evading × 0.5"]
    smoothed, share = "50.0 [15.0, 85.0]", "25.0 [4.6, 69.9]"
    assert MADE["certifications"].rows[0][:7] == ["gbz", "0.25", "75.0 [30.1, 95.4]", smoothed, smoothed, share, share]
    assert MADE["certifications"].rows[1][1] == "0.5" and MADE["certifications"].rows[1][7] == share
    assert [row[:2] for row in MADE["comparisons"].rows] == [
        ["gbz", "published"], ["gbz", "ours"], ["gbz", "difference"], ["gbz", "FGSM, 200 images"],
        ["gbz", "worst case, 200 images"], ["gby", "ours"],
    ]  # fmt: skip
    assert MADE["comparisons"].rows[0][2:] == ["40.41", "60.73"] and MADE["comparisons"].rows[5][3] == "-"
    assert MADE["comparisons"].rows[2][2].startswith("-3.4 ± ")
    assert MADE["claims"].rows == [
        ["GBZ, DFX", "holds", "+12.3 ± 2.7 at eps 0.3, seed 1", "fails", "+0.0 ± 2.7 at eps 0.3, seed 1"]
    ]


def test_a_reached_target_has_a_column_and_a_row_of_its_own():
    result = attack("gbz")
    result.options["target"] = 1
    assert "target reached (%)" in tables.attacks([result]).header
    assert "target reached (%)" not in MADE["attacks"].header
    rows = tables.success_rates([result], {}).rows
    assert [row[1:3] for row in rows] == [["fgsm", "30"], ["fgsm, class 1 reached", "20"]]


def test_a_failed_status_stands_out():
    assert "| **fails** |" in MADE["claims"].as_markdown() and "  FAILS  " in MADE["claims"].as_text()
    markdown, lines = MADE["sheet"].as_markdown(), MADE["sheet"].as_list().splitlines()
    assert "| **fail**: found 4 &lt; \\*7\\*. In doubt: all. |" in markdown and markdown.count("**") == 4
    assert lines[:2] == ["1. holds | 1", "    pass: found 1 < *7*"]
    assert lines[7] == "    FAIL: found 4 < *7*. In doubt: all."


def test_columns_are_aligned_by_their_kind():
    table = Table(
        ["model", "number", "text"], [MODEL, NUMBER, TEXT], [["g|b", "1", "a"], ["gfz", "10", "bc"]], [("n", "m")]
    )
    assert table.as_text().splitlines() == [
        "model  number  text", "-----  ------  ----", "g|b         1  a", "gfz        10  bc", "n: m.",
    ]  # fmt: skip
    assert table.as_markdown().splitlines() == [
        "| model | number | text |", "| --- | ---: | --- |", "| g\\|b | 1 | a |", "| GFZ | 10 | bc |", "", "*n*: m.",
    ]  # fmt: skip
    assert Table(["s"], [STATUS], [["pass"]]).as_list() == "pass"


def test_texts_stand_for_themselves():
    assert text("a*b <i>[x](y)\n& `c`") == "a\\*b &lt;i&gt;\\[x\\](y) \\& \\`c\\`"
    assert text("82.4 [81.7, 83.2]") == "82.4 [81.7, 83.2]" and text("[-1.0, 2]") == "[-1.0, 2]"
    assert text("[1, 2](http://x)") == "\\[1, 2\\](http://x)" and text(text("a*")) == "a\\*"
    assert code("a`b") == "``a`b``" and code("`") == "`` ` ``" and code("<b>") == "&lt;b&gt;"
    assert listed(["a", "b", "c*"]) == "a, b and c\\*" and listed(["a"]) == "a"
    assert plain({"a": (1, 2.5), "b": None, "c": True, "d": 1 / 3}) == f"a 1, 2.5, c yes, d {1 / 3!r}"


@pytest.mark.parametrize("what", tables.EFFECT)
def test_every_measurement_of_the_particles_has_a_cell(what):
    effect = Effect(
        "gbz",
        "mixture",
        "d",
        True,
        10,
        30,
        Rate(3, 4),
        Rate(1, 4),
        Mean(2.5, 0.5),
        (0.1, 0.5, 0.9),
        [1.0, 3.0, 1.0, 3.0],
    )
    best = dataclasses.replace(effect, log_joint=[1.5, 4.5, 1.5, 4.5])
    table = tables.effects([effect], what, (10,), {"gbz": best})
    cells = {"accuracy": "75.0 [30.1, 95.4]", "changed": "25.0 [4.6, 69.9]", "size": "2.50 [2.00, 3.00]"}
    cells |= {"bias": "-1.00 [-1.57, -0.43]", "pareto": "0.50 (0.10 to 0.90)"}
    assert table.header == [tables.EFFECT[what].header, "K = 10"] and table.rows == [["GBZ, mixture", cells[what]]]
