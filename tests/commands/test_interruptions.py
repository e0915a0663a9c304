"""Signals, folders that go, and what killed processes leave, while results are made."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from pyrobayes import InputError, evaluation
from pyrobayes.attacks.attack_options import AttackOptions
from pyrobayes.commands.attack import attack
from pyrobayes.commands.context import Context
from pyrobayes.commands.evaluate import evaluate
from pyrobayes.evaluation.reproduction import Comparison, Spread
from pyrobayes.options import PRETRAINED, EvaluationOptions
from pyrobayes.progress import Progress
from pyrobayes.results.store import SavedReproduction, write_reproduction

FEW = EvaluationOptions(images=2, particles=1)


@pytest.fixture
def where(tmp_path):
    return Context("fashion-mnist-mini", runs=PRETRAINED, out=tmp_path / "results")


def test_the_signal_of_schedulers_keeps_what_is_finished(tmp_path):
    line = "evaluate dbx gfz --pretrained --images 150 --particles 1 --batch-size 1 --out".split()
    command = [sys.executable, "-m", "pyrobayes_cli", *line, tmp_path]
    how = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    with subprocess.Popen(command, text=True, **how) as process:
        for _ in range(6000):
            if (tmp_path / "confusion-dbx.png").exists():
                break
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in errors
    assert f"finished are in {tmp_path / 'evaluation.json'}, and --resume keeps them" in errors
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["models"] == ["dbx", "gfz"] and list(saved["trained"]) == ["dbx"]


def test_a_folder_that_is_deleted_meanwhile_is_not_made_anew(where, monkeypatch):
    real = evaluation.evaluate

    def deleted(*given, **more):
        shutil.rmtree(where.results)
        return real(*given, **more)

    monkeypatch.setattr(evaluation, "evaluate", deleted)
    with pytest.raises(InputError, match="was deleted or replaced"):
        evaluate(["dbx"], FEW, where)
    assert not where.results.exists()


@pytest.mark.parametrize("file", ["attack.json", "figure1.png", "figure2-dbx.pdf"])
def test_a_folder_in_the_place_of_a_file_is_noticed_at_the_start(file, where, monkeypatch):
    (where.results / file).mkdir(parents=True)
    monkeypatch.setattr(evaluation, "attack", lambda *given, **more: pytest.fail("computed"))
    with pytest.raises(InputError, match=f"{file} is where results are written, and is no file: move it elsewhere"):
        attack(["dbx"], AttackOptions(images=2, particles=1), where)


def test_what_killed_processes_left_is_removed(where):
    where.results.mkdir()
    ours, others = (where.results / f".{name}.abcd1234.pyrobayes" for name in ("evaluation.json", "attack.json"))
    for path in (ours, others, where.results / ".mine"):
        path.write_text("")
    evaluate(["dbx"], FEW, where)
    assert sorted(path.name for path in where.results.glob(".*") if path.suffix != ".lock") == [
        ".attack.json.abcd1234.pyrobayes",
        ".mine",
    ]


@pytest.fixture
def told():
    """The notes that were given to the progress of `listening`."""
    return []


@pytest.fixture
def listening(where, told):
    class Listening(Progress):
        def note(self, message):
            told.append(message)

    return dataclasses.replace(where, progress=Listening())


def test_earlier_results_that_are_set_aside_are_told_once(listening, told):
    options = AttackOptions(images=2, particles=1, eps=(0.1,))
    attack(["dbx"], options, listening)
    attack(["dbx"], options, listening)
    assert not told  # the same command again
    attack(["dfx", "dfz"], options, listening)
    kept = "earlier results of other options, models, data or versions are kept as"
    assert told == [f"{kept} {listening.results / 'attack.1.json'}"]
    evaluate(["dbx"], FEW, listening)
    evaluate(["dbx"], dataclasses.replace(FEW, images=3), listening)
    assert told[1:] == [f"{kept} {listening.results / 'evaluation.1.json'}"]
    for seed in (0, 0, 1):
        saved = SavedReproduction({}, 10, "d", [seed], 5, {}, [Comparison("gbz", 0.1, None, Spread((0.5,), 5))], [], {})
        write_reproduction(listening.results, saved, listening.progress)
    assert told[2:] == [f"{kept} {listening.results / 'reproduction.1.json'}"]


def test_a_damaged_file_is_told_set_aside_and_made_anew(where, listening, told):
    results = evaluate(["dbx"], FEW, where)
    path = where.results / "evaluation.json"
    whole = path.read_text()
    path.write_text(damaged := whole.replace('"images": 2', '"images": 3', 1))
    assert evaluate(["dbx"], FEW, listening, resume=True) == results
    assert told == [f"{path} is damaged (its checksum is wrong): it is set aside, and its results are made anew"]
    assert path.read_text() == whole and (where.results / "evaluation.1.json").read_text() == damaged
    assert os.listdir(where.results).count("evaluation.1.json") == 1
