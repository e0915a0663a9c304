"""Records as JSON: every file that is there, and what is refused."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pyrobayes.codec import decode, encode, saved
from pyrobayes.commands.report import read_reproduction, read_results
from pyrobayes.evaluation.particles import Effect
from pyrobayes.evaluation.rates import Rate
from pyrobayes.options import ClassifierOptions
from pyrobayes.results.registry import registered

RESULTS = Path(__file__).parents[1] / "docs/results"
NAMES = {command.file: name for name, command in registered().items()}
SAVED = sorted(path for path in RESULTS.rglob("*.json") if path.name in {*NAMES, "reproduction.json", "particles.json"})


def read(path):
    if path.name in NAMES:
        return read_results(path.parent, [NAMES[path.name]])[NAMES[path.name]]
    if path.name == "reproduction.json":
        return read_reproduction(path.parent)
    return decode(list[Effect], json.loads(path.read_text()))


def comparable(value, ends=tuple):
    """JSON without what may differ from an older file: options that it lacks, which are None, and an interval's last digits."""
    if isinstance(value, dict):
        plain = {key: comparable(each, ends) for key, each in value.items() if each is not None}
        return plain | ({"interval_95": ends(value["interval_95"])} if value.get("interval_95") else {})
    return [comparable(each, ends) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", SAVED, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_file_that_is_read_has_the_same_content_when_it_is_written_again(path):
    content = json.loads(path.read_text())
    if isinstance(content, dict):
        content.pop("sha256", None)
    written = json.loads(json.dumps(encode(read(path))))
    assert comparable(written) == comparable(content, lambda ends: pytest.approx(tuple(ends), abs=1e-5))


@dataclass(frozen=True)
class Record:
    bounds: tuple[float, ...]
    rows: list[list[int]]
    rates: dict[str, list[Rate]]
    shape: tuple[int, int]
    anything: dict
    options: ClassifierOptions
    flag: bool = False
    renamed: Rate | None = field(default=None, metadata=saved("before"))
    far: list[float] | None = field(
        default=None,
        metadata=saved(
            encode=lambda values: values and [None if value == math.inf else value for value in values],
            decode=lambda values: values and [math.inf if value is None else value for value in values],
        ),
    )
    left_out: Any = field(default=None, metadata=saved(omit=True))
    DERIVED = {"count": lambda self: len(self.rows)}


RECORD = Record(
    (0.5, 1.0), [[1], [2]], {"a": [Rate(1, 2)]}, (3, 4), {"x": {"y": 1}}, ClassifierOptions(3), True, Rate(0, 0), [math.inf, 1.0]
)  # fmt: skip


def test_a_record_comes_back():
    written = json.loads(json.dumps(encode(RECORD), allow_nan=False))
    assert decode(Record, written) == RECORD
    assert written["count"] == 2 and written["far"] == [None, 1.0] and "left_out" not in written
    assert written["before"] == {"count": 0, "total": 0, "share": None, "interval_95": None}
    assert written["rates"]["a"][0]["share"] == 0.5 and written["options"]["particles"] == 3
    assert decode(dict[str, Rate], {"a": {"count": 1, "total": 2, "share": 7}}) == {"a": Rate(1, 2)}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"rows": [[1], [1.5]]}, "expected a whole number, got 1.5 at rows[1][0]"),
        ({"rows": "12"}, "expected a list, got '12' at rows"),
        ({"bounds": [True]}, "expected a finite number, got True at bounds[0]"),
        ({"bounds": [math.inf]}, "expected a finite number, got inf at bounds[0]"),
        ({"bounds": ["0.5"]}, "expected a finite number, got '0.5' at bounds[0]"),
        ({"shape": [1, 2, 3]}, "expected a list of 2 values, got [1, 2, 3] at shape"),
        ({"anything": []}, "expected an object, got [] at anything"),
        ({"flag": 1}, "expected true or false, got 1 at flag"),
        ({"rates": {"a": [{"count": 1}]}}, "an entry is missing at rates['a'][0].total"),
        ({"options": {"particles": 0}}, "particles must be a whole number of at least 1, got 0 at options"),
        ({"renamed": None}, "unknown entries renamed"),
    ],
)
def test_another_content_is_refused(changes, said):
    with pytest.raises(ValueError) as refused:
        decode(Record, encode(RECORD) | changes)
    assert str(refused.value) == said
