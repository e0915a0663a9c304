"""No command takes away what an earlier one has written, wherever it ends."""

import dataclasses
import importlib
import json
import random

import pytest
import torch
from made_up import verdict

from pyrobayes import InputError, RobustnessOptions, evaluation, files
from pyrobayes.attacks.attack_options import AttackOptions
from pyrobayes.commands import robustness
from pyrobayes.commands.attack import attack
from pyrobayes.commands.context import Context
from pyrobayes.commands.evaluate import evaluate
from pyrobayes.commands.robustness import run_verdicts
from pyrobayes.evaluation.reproduction import Comparison, Spread
from pyrobayes.files import write_json
from pyrobayes.options import PRETRAINED, EvaluationOptions
from pyrobayes.results import figures
from pyrobayes.results.registry import registered
from pyrobayes.results.store import (
    Provenance,
    ResultStore,
    SavedReproduction,
    read_reproduction,
    read_results,
    write_reproduction,
)
from pyrobayes.tensor_files import read_tensors

FEW = {"images": 2, "particles": 1}
AT = {"eps": (0.1,)}
SMALL = {
    **FEW,
    **AT,
    "attack": ("pgd",),
    "steps": 1,
    "redraws": 1,
    "checked_images": 2,
    "brief": True,
    "train_images": 20,
}
FEW_DRAWS = {"draws": 5, "selection_draws": 2}  # attacks with noise have draws too


def small_options(command):
    """Options of a command by which it ends soon."""
    kind, small = registered()[command].options, SMALL | (FEW_DRAWS if command == "certify" else {})
    return kind(**{field.name: small[field.name] for field in dataclasses.fields(kind) if field.name in small})


def run(command, models, options, where):
    """Run a command on models, and reuse nothing."""
    call = getattr(importlib.import_module(f"pyrobayes.commands.{command}"), command)
    return call(models, options, where, resume=False)


pytestmark = pytest.mark.usefixtures("empty_figures")


@pytest.fixture
def where(tmp_path):
    return Context("fashion-mnist-mini", runs=PRETRAINED, out=tmp_path)


def interrupted_after(calls, monkeypatch, of, name):
    """Whoever calls it more often is interrupted."""
    real, made = getattr(of, name), []

    def call(*given, **more):
        made.append(name)
        if len(made) > calls:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(of, name, call)


def figures_in(folder):
    """The figures of an attack that weren't set aside, by name."""
    return {path.name for path in folder.glob("figure*") if path.name.count(".") == 1}


@pytest.mark.parametrize("command", registered())
def test_a_repeated_command_that_is_interrupted_leaves_what_was_there(command, where, tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "assess", lambda classifier, *more, **given: verdict(classifier.factorization.name))
    options = small_options(command)
    run(command, ["dfx", "dbx"], options, where)
    path = tmp_path / registered()[command].file
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        interrupted_after(1, patched, ResultStore, "get")
        with pytest.raises(KeyboardInterrupt):
            run(command, ["dfx", "dbx"], options, where)
    assert path.read_bytes() == before and len(list(tmp_path.glob(f"{path.stem}*.json"))) == 1
    # By other options it begins anew, and the earlier one is kept.
    other = dataclasses.replace(options, particles=2)
    interrupted_after(1, monkeypatch, ResultStore, "get")
    with pytest.raises(KeyboardInterrupt):
        run(command, ["dfx", "dbx"], other, where)
    assert (tmp_path / f"{path.stem}.1.json").read_bytes() == before
    assert {result.model for result in read_results(tmp_path, [command])[command].results} == {"dfx"}


def test_what_transfers_is_made_anew_and_not_lost_meanwhile(where, tmp_path, monkeypatch):
    options = AttackOptions(**FEW, **AT, attack=("fgsm", "transfer"), steps=1)
    attack(["dfx", "dbx"], options, where)
    before = (tmp_path / "attack.json").read_bytes()
    made = []
    real = evaluation.attack

    def counted(classifier, *given, **more):
        made.append((more["by"].name, classifier.factorization.name))
        return real(classifier, *given, **more)

    monkeypatch.setattr(evaluation, "attack", counted)
    interrupted_after(1, monkeypatch, evaluation, "attack")
    with pytest.raises(KeyboardInterrupt):
        attack(["dfx", "dbx"], options, where, resume=True)
    assert made == [("transfer", "dfx")]
    saved = [json.loads(each) for each in (before, (tmp_path / "attack.json").read_bytes())]
    ours, again = ({(each["attack"], each["model"]): each for each in every["results"]} for every in saved)
    assert ours == again and len(ours) == 4


def test_a_figure_that_can_not_be_written_costs_no_result(where, tmp_path, monkeypatch):
    few, more = (AttackOptions(**AT, images=images, particles=1) for images in (2, 3))
    attack(["dfx"], few, where)

    def full(*given):
        raise InputError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(figures, "save", full)
        with pytest.raises(InputError, match="the disk is full"):
            attack(["dfx"], more, where)
    assert read_results(tmp_path, ["attack"])["attack"].options == more.settled()  # by the device
    assert json.loads((tmp_path / "attack.1.json").read_text())["options"]["images"] == 2
    assert not figures_in(tmp_path)  # of the earlier results none is left beside the new ones
    attack(["dfx"], more, where, resume=True)
    assert len(figures_in(tmp_path)) == 4  # whoever resumes has them


@pytest.mark.parametrize("command, figure", [("evaluate", "confusion"), ("robustness", "robustness")])
def test_a_figure_that_an_interruption_left_out_is_drawn_when_it_goes_on(command, figure, where, tmp_path, monkeypatch):
    classifiers, test = where.open(["dfx"], small_options(command))
    monkeypatch.setattr(robustness, "assess", lambda classifier, *given, **more: verdict(classifier.factorization.name))

    def run():
        if command == "evaluate":
            return evaluate(["dfx"], small_options(command), where, resume=True)
        return run_verdicts(classifiers, test, small_options(command), where, resume=True)

    run()
    figures.remove(tmp_path / f"{figure}-dfx")
    monkeypatch.setattr(evaluation, "evaluate", lambda *given, **more: pytest.fail("made anew"))
    monkeypatch.setattr(robustness, "assess", lambda *given, **more: pytest.fail("made anew"))
    run()
    assert len(list(tmp_path.glob(f"{figure}-dfx.p*"))) == 2


def test_results_that_can_not_be_written_leave_the_earlier_ones_in_their_place(where, tmp_path, monkeypatch):
    evaluate(["dfx"], small_options("evaluate"), where)
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="the disk is full; what was there before is unharmed"):
        evaluate(["dfx"], EvaluationOptions(images=3, particles=1), where)
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_saved_adversarial_images_stay_beside_their_results(where, tmp_path):
    few = AttackOptions(**FEW, **AT)
    attack(["dfx"], few, where, save_adversarial=True)
    first = read_tensors(tmp_path / "adversarial-dfx.safetensors")[0]["adversarial"]
    attack(["dfx"], few, where, save_adversarial=True)
    assert len(list(tmp_path.glob("adversarial*"))) == 1
    attack(["dfx"], dataclasses.replace(few, images=3), where, save_adversarial=True)
    kept, new = (read_tensors(tmp_path / f"adversarial-dfx{n}.safetensors")[0]["adversarial"] for n in (".1", ""))
    assert torch.equal(kept, first) and new.shape[1] == 3 and (tmp_path / "attack.1.json").is_file()


def test_an_earlier_reproduction_is_kept(tmp_path):
    comparison = Comparison("gbz", 0.1, None, Spread((0.5,), 5))
    saved = SavedReproduction({"eps": (0.0, 0.1)}, 10, "d", [0], 5, {}, [comparison], [], {})
    for seeds in ([0], [0], [0, 1]):
        write_reproduction(tmp_path, dataclasses.replace(saved, seeds=seeds))
    kept = {path.name: json.loads(path.read_text())["seeds"] for path in tmp_path.iterdir()}
    assert kept == {"reproduction.json": [0, 1], "reproduction.1.json": [0]}
    for suffix in (".pdf", ".png"):
        (tmp_path / f"reproduction{suffix}").write_text(f"two seeds {suffix}")
    write_reproduction(tmp_path, dataclasses.replace(saved, seeds=[0, 1]))
    assert (tmp_path / "reproduction.png").is_file()  # the results are the same
    write_reproduction(tmp_path, saved)
    assert {path.name for path in tmp_path.iterdir()} == {
        "reproduction.json", "reproduction.1.json", "reproduction.2.json", "reproduction.2.pdf", "reproduction.2.png",
    }  # fmt: skip
    assert json.loads((tmp_path / "reproduction.2.json").read_text())["seeds"] == [0, 1]
    assert (tmp_path / "reproduction.2.png").read_text() == "two seeds .png"
    (tmp_path / "reproduction.json").write_text("{")
    write_reproduction(tmp_path, saved)
    assert (tmp_path / "reproduction.3.json").read_text() == "{"


def test_a_damaged_file_is_kept_too(where, tmp_path):
    write_json(tmp_path / "evaluation.json", {"results": []})
    evaluate(["dfx"], small_options("evaluate"), where)
    assert json.loads((tmp_path / "evaluation.1.json").read_text()) == {"results": []}


def test_a_verdict_that_took_hours_is_not_replaced_by_another(where, tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "assess", lambda classifier, *more, **given: verdict(classifier.factorization.name))
    quick, slow = RobustnessOptions(eps=(0.1, 0.2), brief=True), RobustnessOptions(eps=(0.1, 0.2))

    def kept():
        return sorted(path.name for path in tmp_path.glob("*.json"))

    robustness.robustness(["dfx"], quick, where)
    robustness.robustness(["dfx"], quick, where)
    assert kept() == ["robustness.json"]  # the same command again
    before = (tmp_path / "robustness.json").read_text()
    robustness.robustness(["dfx"], slow, where)
    robustness.robustness(["dbx", "dfx"], slow, where)
    assert kept() == ["robustness.1.json", "robustness.2.json", "robustness.json"]
    assert (tmp_path / "robustness.1.json").read_text() == before
    interrupted = json.loads((tmp_path / "robustness.json").read_text())
    del interrupted["sha256"], interrupted["results"][1]
    write_json(tmp_path / "robustness.json", interrupted)
    robustness.robustness(["dbx", "dfx"], slow, where)
    assert len(kept()) == 3
    read = Provenance.read
    monkeypatch.setattr(Provenance, "read", lambda run: dataclasses.replace(read(run), weights="5" * 64))
    robustness.robustness(["dbx", "dfx"], slow, where)
    assert len(kept()) == 4


def test_a_figure_of_earlier_results_is_not_left_beside_new_ones(where, tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "assess", lambda classifier, *more, **given: verdict(classifier.factorization.name))
    few = AttackOptions(eps=(0.1,), images=2, particles=1)
    robustness.robustness(["dfx", "dbx"], RobustnessOptions(eps=(0.1, 0.2)), where)
    attack(["dfx"], few, where)
    assert (tmp_path / "robustness.png").is_file() and (tmp_path / "figure1.png").is_file()
    monkeypatch.setattr(figures, "adversarial_examples", lambda *given: 1 / 0)  # an end in the middle
    with pytest.raises(ZeroDivisionError):
        attack(["dfx", "dbx"], few, where)
    robustness.robustness(["dfx"], RobustnessOptions(eps=(0.1,)), where)
    assert not list(tmp_path.glob("robustness.p*")) and not list(tmp_path.glob("figure1.p*"))


def test_earlier_results_keep_their_figures(where, tmp_path, monkeypatch):
    few = AttackOptions(eps=(0.1,), images=2, particles=1)
    attack(["dfx", "dbx"], few, where)
    drawn = figures_in(tmp_path)
    assert len(drawn) == 6
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupted_after(1, patched, ResultStore, "get")
        attack(["dbx", "dfx"], dataclasses.replace(few, images=3), where)
    kept = {name.replace(".", ".1.") for name in drawn}
    assert figures_in(tmp_path) == {"figure2-dbx.pdf", "figure2-dbx.png"}  # none that isn't of the results beside it
    assert {path.name for path in tmp_path.glob("figure*.1.*")} == kept


def test_figures_of_reused_results_stay(where, tmp_path, monkeypatch):
    few, read = AttackOptions(eps=(0.1,), images=2, particles=1), Provenance.read
    attack(["dfx", "dbx"], few, where)

    def trained_anew(run):
        return dataclasses.replace(read(run), weights="5" * 64) if run.name == "dbx" else read(run)

    monkeypatch.setattr(Provenance, "read", trained_anew)
    attack(["dfx", "dbx"], few, where, resume=True)
    assert (tmp_path / "attack.1.json").is_file()
    assert len(figures_in(tmp_path)) == 6 and not list(tmp_path.glob("figure*.1.*"))


@pytest.mark.parametrize("command", registered())
def test_two_processes_that_write_the_same_results_are_refused(command, where, monkeypatch):
    options = small_options(command)

    def meanwhile(*given, **more):
        with pytest.raises(InputError, match=f"another process writes the results of 'pyrobayes {command}'; choose"):
            run(command, ["dbx"], options, where)
        raise KeyboardInterrupt

    monkeypatch.setattr(ResultStore, "get", meanwhile)
    for _ in range(2):  # the first has left nothing locked
        with pytest.raises(KeyboardInterrupt):
            run(command, ["dfx"], options, where)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file of results of each command, and of a reproduction, as they are written."""
    folder = tmp_path_factory.mktemp("written")
    attack_options = AttackOptions(images=5, eps=(0.1,), particles=1)
    attack(["dbx"], attack_options, Context("fashion-mnist-mini", runs=PRETRAINED, out=folder))
    write_reproduction(
        folder, SavedReproduction({}, 10, "d", [0], 5, {}, [Comparison("gbz", 0.1, 0.25, Spread((0.5,), 5))], [], {})
    )
    return folder


@pytest.mark.parametrize("file, read", [("attack.json", read_results), ("reproduction.json", read_reproduction)])
def test_every_changed_digit_is_noticed(file, read, written, tmp_path):
    text = (written / file).read_text()
    digits = [i for i, letter in enumerate(text) if letter.isdecimal()]
    chosen = random.Random(0)
    for place in chosen.sample(digits, 100) if len(digits) > 100 else digits:
        other = chosen.choice([digit for digit in "0123456789" if digit != text[place]])
        (tmp_path / file).write_text(text[:place] + other + text[place + 1 :])
        with pytest.raises(InputError, match=f"damaged file .*{file}: .*make it again with 'pyrobayes") as refused:
            read(tmp_path)
        assert len(str(refused.value).splitlines()) == 1
    (tmp_path / file).write_text(text)
    assert read(tmp_path)


@pytest.mark.parametrize(
    "content", ["[" * 200_000, '{"a":' * 200_000, "[]", "7", "null", '"text"', "{}", "", "\xff", '{"results": NaN}']
)
def test_another_content_is_one_line(content, tmp_path):
    for file, read in (("attack.json", read_results), ("reproduction.json", read_reproduction)):
        (tmp_path / file).write_text(content, encoding="latin-1")
        with pytest.raises(InputError, match=f"damaged file .*{file}: ") as refused:
            read(tmp_path)
        assert len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < 500
        (tmp_path / file).unlink()


def test_a_file_without_a_checksum_is_read(written, tmp_path):
    content = json.loads((written / "attack.json").read_text())
    del content["sha256"]
    write_json(tmp_path / "attack.json", content)
    assert read_results(tmp_path)["attack"].results[0].predictions == content["results"][0]["predictions"]
