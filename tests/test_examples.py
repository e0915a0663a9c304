"""Every example runs, in its quick form."""

import runpy
import sys
from pathlib import Path

import pytest

from pyrobayes.factorizations import base

EXAMPLES = sorted(Path(__file__).parents[1].glob("examples/*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example, monkeypatch, tmp_path, capsys):
    assert len(example.read_text().splitlines()) < 80
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example), "--quick"])
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    try:
        runpy.run_path(str(example), run_name="__main__")
    except ModuleNotFoundError as missing:
        if missing.name not in ("art", "torchattacks"):
            raise
        pytest.skip(f"{missing.name} is not installed")
    assert capsys.readouterr().out
