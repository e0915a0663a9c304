"""A made-up command, as the page shows it, is computed, stored, resumed, printed and reported like the others."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyrobayes.codec import encode
from pyrobayes.commands.context import Context
from pyrobayes.commands.report import read_results, report
from pyrobayes.evaluation.rates import Rate
from pyrobayes.options import PRETRAINED, EvaluationOptions
from pyrobayes.results import registry
from pyrobayes.results.tables import Table

PAGE = Path(__file__).parents[2] / "docs" / "add-a-command.md"


@pytest.fixture
def page(monkeypatch):
    """The code of the page."""
    monkeypatch.setattr(registry, "_commands", dict(registry._commands))
    names = {"__name__": "page"}
    exec(re.search("```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1], names)
    return SimpleNamespace(**names)


def test_a_fifth_command(page, tmp_path, monkeypatch):
    context = Context("fashion-mnist-mini", runs=PRETRAINED, out=tmp_path)
    made, rate = [], Rate.of
    monkeypatch.setattr(Rate, "of", lambda counted: made.append(len(counted)) or rate(counted))
    results = page.brightness(["dbx", "dfx"], EvaluationOptions(images=20), context)
    assert made == [20, 20] and [result.model for result in results] == ["dbx", "dfx"]
    assert read_results(tmp_path)["brightness"].results == results
    assert json.loads((tmp_path / "brightness.json").read_text())["results"] == json.loads(json.dumps(encode(results)))
    other = EvaluationOptions(images=20, batch_size=3, memory=7)
    assert page.brightness(["dbx", "dfx"], other, context, resume=True) == results and made == [20, 20]
    page.brightness(["dbx"], EvaluationOptions(images=10), context, resume=True)
    assert made == [20, 20, 10] and (tmp_path / "brightness.1.json").is_file()
    assert "dbx" in Table.of(page.COLUMNS, results).as_text()
    text = report(context)[0].read_text()
    assert "10 test images looked at for brightness" in text and "## Brightness" in text
    assert re.search(r"\*\*DBX\*\*: Of its images, .* are bright\.", text)
    assert "pyrobayes brightness dbx --pretrained --images 10" in text
