"""A made-up command, registered in one place, is computed, stored, resumed, printed and reported like the others."""

import json
from dataclasses import dataclass

import pytest

from pyrobayes.codec import encode
from pyrobayes.commands.context import Context
from pyrobayes.commands.report import read_results, report
from pyrobayes.evaluation.rates import Rate
from pyrobayes.options import PRETRAINED, EvaluationOptions
from pyrobayes.results import registry
from pyrobayes.results.markdown import Markdown
from pyrobayes.results.registry import ResultCommand, register
from pyrobayes.results.store import ResultStore
from pyrobayes.results.tables import Column, Table


@dataclass(frozen=True)
class Brightness:
    """How many images are bright."""

    model: str
    images: int
    bright: Rate


COLUMNS = [Column("model", lambda result: result.model), Column("bright (%)", lambda result: result.bright.percent())]


def section(saved, figures, found):
    return [Markdown("## Brightness\n\n" + Table.of(COLUMNS, saved.results).as_markdown())]


made = []


def brightness(models, options, context, *, resume=False):
    classifiers, test = context.open(models, options)
    units = [(classifier.factorization.name, None) for classifier in classifiers]
    given = (BRIGHTNESS, context.results, options, test, context.provenance(classifiers), units)
    with ResultStore(*given, resume=resume) as store:
        for name, _ in units:

            def make(name=name):
                made.append(name)
                return [
                    Brightness(
                        name, options.images, Rate.of(test.head(options.images).pixels.float().mean((1, 2, 3)) > 50)
                    )
                ]

            store.get(name, make)
        return store.results_of_named()


BRIGHTNESS = ResultCommand(
    "brightness", "brightness.json", EvaluationOptions, Brightness, done="looked at for brightness", section=section
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_commands", dict(registry._commands))
    register(BRIGHTNESS)
    made.clear()


def test_a_fifth_command(tmp_path):
    context = Context("fashion-mnist-mini", runs=PRETRAINED, out=tmp_path)
    results = brightness(["dbx", "dfx"], EvaluationOptions(images=20), context)
    assert made == ["dbx", "dfx"] and results[0].bright.total == 20
    assert read_results(tmp_path)["brightness"].results == results
    assert json.loads((tmp_path / "brightness.json").read_text())["results"] == json.loads(json.dumps(encode(results)))
    again = brightness(["dbx", "dfx"], EvaluationOptions(images=20, batch_size=3, memory=7), context, resume=True)
    assert made == ["dbx", "dfx"] and again == results
    brightness(["dbx"], EvaluationOptions(images=10), context, resume=True)
    assert made == ["dbx", "dfx", "dbx"] and (tmp_path / "brightness.1.json").is_file()
    assert "dbx" in Table.of(COLUMNS, results).as_text()
    text = report(context)[0].read_text()
    assert "10 test images looked at for brightness" in text and "## Brightness" in text
    assert "pyrobayes brightness dbx --pretrained --images 10" in text
