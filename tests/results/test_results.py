"""No command takes away what an earlier one has written, wherever it ends."""

import dataclasses
import json

import pytest
import torch
from made_up import verdict

from pyrobayes import InputError, RobustnessOptions, evaluation, files
from pyrobayes.commands import runs
from pyrobayes.files import write_json
from pyrobayes.options import PRETRAINED, AttackOptions, DetectionOptions, EvaluationOptions
from pyrobayes.progress import silent
from pyrobayes.results import figures
from pyrobayes.results.store import FILES, read_results, write_reproduction
from pyrobayes.training.checkpoint import read_tensors

FEW = {"images": 2, "particles": 1}
AT = {"eps": (0.1,)}
OPTIONS = {
    "evaluate": EvaluationOptions(**FEW),
    "attack": AttackOptions(**FEW, **AT, attack=("fgsm", "uniform")),
    "detect": DetectionOptions(**FEW, **AT, attack=("fgsm",)),
    "robustness": RobustnessOptions(**FEW, **AT, steps=1, redraws=1, checked_images=2, brief=True),
}
INSIDE = {
    "evaluate": (evaluation, "evaluate"),
    "attack": (evaluation, "attack"),
    "detect": (evaluation, "attack"),
    "robustness": (runs, "assess"),
}


@pytest.fixture
def where(tmp_path):
    return {"data": "fashion-mnist-mini", "runs": PRETRAINED, "out": tmp_path}


def interrupted_after(calls, monkeypatch, of, name):
    """Whoever calls it more often is interrupted."""
    real, made = getattr(of, name), []

    def call(*given, **more):
        made.append(name)
        if len(made) > calls:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(of, name, call)


@pytest.mark.parametrize("command", FILES)
def test_a_repeated_command_that_is_interrupted_leaves_what_was_there(command, where, tmp_path, monkeypatch, request):
    if command == "robustness":
        request.getfixturevalue("quickly_broken")
    run = getattr(runs, command)
    run(["dfx", "dbx"], OPTIONS[command], **where)
    path = tmp_path / FILES[command]
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        interrupted_after(1, patched, *INSIDE[command])
        with pytest.raises(KeyboardInterrupt):
            run(["dfx", "dbx"], OPTIONS[command], **where)
    assert path.read_bytes() == before and len(list(tmp_path.glob(f"{path.stem}*.json"))) == 1
    # By other options it begins anew, and the earlier one is kept.
    other = dataclasses.replace(OPTIONS[command], particles=2)
    interrupted_after(1, monkeypatch, *INSIDE[command])
    with pytest.raises(KeyboardInterrupt):
        run(["dfx", "dbx"], other, **where)
    assert (tmp_path / f"{path.stem}.1.json").read_bytes() == before
    assert {result.model for result in read_results(tmp_path, [command])[command].results} == {"dfx"}


def test_what_transfers_is_made_anew_and_not_lost_meanwhile(where, tmp_path, monkeypatch):
    options = AttackOptions(**FEW, **AT, attack=("fgsm", "transfer"), steps=1)
    runs.attack(["dfx", "dbx"], options, **where)
    before = (tmp_path / "attack.json").read_bytes()
    made = []
    attack = evaluation.attack

    def counted(classifier, *given, **more):
        made.append((more["by"].name, classifier.factorization.name))
        return attack(classifier, *given, **more)

    monkeypatch.setattr(evaluation, "attack", counted)
    interrupted_after(1, monkeypatch, evaluation, "attack")
    with pytest.raises(KeyboardInterrupt):
        runs.attack(["dfx", "dbx"], options, resume=True, **where)
    assert made == [("transfer", "dfx")]
    saved = [json.loads(each) for each in (before, (tmp_path / "attack.json").read_bytes())]
    ours, again = ({(each["attack"], each["model"]): each for each in every["results"]} for every in saved)
    assert ours == again and len(ours) == 4


def test_a_figure_that_can_not_be_written_costs_no_result(where, tmp_path, monkeypatch):
    few, more = (AttackOptions(**AT, images=images, particles=1) for images in (2, 3))
    runs.attack(["dfx"], few, **where)

    def full(*given):
        raise InputError("the disk is full")

    monkeypatch.setattr(figures, "save", full)
    with pytest.raises(InputError, match="the disk is full"):
        runs.attack(["dfx"], more, **where)
    assert read_results(tmp_path, ["attack"])["attack"].options == more
    assert json.loads((tmp_path / "attack.1.json").read_text())["options"]["images"] == 2
    assert not list(tmp_path.glob("figure*"))  # of the earlier results none is left beside the new ones
    monkeypatch.undo()
    runs.attack(["dfx"], more, resume=True, **where)
    assert len(list(tmp_path.glob("figure*"))) == 4  # whoever resumes has them


@pytest.mark.parametrize("command, figure", [("evaluate", "confusion"), ("robustness", "robustness")])
def test_a_figure_that_an_interruption_left_out_is_drawn_when_it_goes_on(command, figure, where, tmp_path, monkeypatch):
    classifiers, test = runs.open_runs(["dfx"], OPTIONS[command], data=where["data"], runs=PRETRAINED)
    monkeypatch.setattr(runs, "assess", lambda classifier, *given, **more: verdict(classifier.factorization.name))

    def run():
        if command == "evaluate":
            return runs.evaluate(["dfx"], OPTIONS[command], resume=True, **where)
        given = (OPTIONS[command], None, PRETRAINED, tmp_path, "cpu", silent)
        return runs._judged(classifiers, test, *given, resume=True)

    run()
    figures.remove(tmp_path / f"{figure}-dfx")
    monkeypatch.setattr(evaluation, "evaluate", lambda *given, **more: pytest.fail("made anew"))
    monkeypatch.setattr(runs, "assess", lambda *given, **more: pytest.fail("made anew"))
    run()
    assert len(list(tmp_path.glob(f"{figure}-dfx.p*"))) == 2


def test_results_that_can_not_be_written_leave_the_earlier_ones_in_their_place(where, tmp_path, monkeypatch):
    runs.evaluate(["dfx"], OPTIONS["evaluate"], **where)
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="the disk is full; what was there before is unharmed"):
        runs.evaluate(["dfx"], EvaluationOptions(images=3, particles=1), **where)
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_saved_adversarial_images_stay_beside_their_results(where, tmp_path):
    few = AttackOptions(**FEW, **AT)
    runs.attack(["dfx"], few, save_adversarial=True, **where)
    first = read_tensors(tmp_path / "adversarial-dfx.safetensors")[0]["adversarial"]
    runs.attack(["dfx"], few, save_adversarial=True, **where)
    assert len(list(tmp_path.glob("adversarial*"))) == 1
    runs.attack(["dfx"], dataclasses.replace(few, images=3), save_adversarial=True, **where)
    kept, new = (read_tensors(tmp_path / f"adversarial-dfx{n}.safetensors")[0]["adversarial"] for n in (".1", ""))
    assert torch.equal(kept, first) and new.shape[1] == 3 and (tmp_path / "attack.1.json").is_file()


def test_an_earlier_reproduction_is_kept(tmp_path):
    saved = {"recipe": {"eps": (0.0, 0.1)}, "particles": 10, "data": "d", "seeds": [0], "images": 5, "versions": {}}
    for seeds in ([0], [0], [0, 1]):
        write_reproduction(tmp_path, saved | {"seeds": seeds})
    kept = {path.name: json.loads(path.read_text())["seeds"] for path in tmp_path.iterdir()}
    assert kept == {"reproduction.json": [0, 1], "reproduction.1.json": [0]}
    (tmp_path / "reproduction.json").write_text("{")
    write_reproduction(tmp_path, saved)
    assert (tmp_path / "reproduction.2.json").read_text() == "{"


def test_a_damaged_file_is_kept_too(where, tmp_path):
    write_json(tmp_path / "evaluation.json", {"results": []})
    runs.evaluate(["dfx"], OPTIONS["evaluate"], **where)
    assert json.loads((tmp_path / "evaluation.1.json").read_text()) == {"results": []}
