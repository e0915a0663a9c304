"""The models that come with the package."""

import json

import pytest
import torch
from support import invoke

from pyrobayes import InputError, evaluate, factorizations, load_data, pretrained
from pyrobayes.attacks.attack_options import AttackOptions
from pyrobayes.commands.attack import attack
from pyrobayes.commands.context import Context
from pyrobayes.options import MODELS, PRETRAINED
from pyrobayes.training.checkpoint import MODEL


@pytest.fixture(scope="module")
def test_images():
    return load_data("fashion-mnist-mini", "test").head(100)


def test_each_classifies(name, test_images):
    if name not in MODELS:
        pytest.skip("registered by the tests")
    result = evaluate(pretrained(name.upper()), test_images)
    assert result.accuracy.share > 0.75
    assert (PRETRAINED / name / MODEL).stat().st_size < 4e6
    card = (PRETRAINED / name / "README.md").read_text()
    formula = factorizations.get(name).formula()
    assert (
        formula in card and "of 10,000 test images, K = 10" in card and "**Worst case** of" in card and "Apache" in card
    )


def test_an_unknown_one_is_refused():
    with pytest.raises(InputError, match="unknown pretrained model 'gbx': did you mean 'gb"):
        pretrained("gbx")


def test_results_go_to_runs_and_not_into_the_package(tmp_path, monkeypatch, empty_figures):
    monkeypatch.chdir(tmp_path)
    before = sorted(PRETRAINED.rglob("*"))
    result = invoke("attack", "gbz", "--pretrained", "--images", 3, "--eps-range", "0,0.1")
    assert result.exit_code == 0, result.output
    assert "Data: fashion-mnist-mini" in result.stdout and "attack.json are in runs." in result.stdout
    assert json.loads((tmp_path / "runs" / "attack.json").read_text())["data"]["name"] == "fashion-mnist-mini"
    (again,) = attack(["gbz"], AttackOptions(images=3, eps=(0.1,)), Context(runs=PRETRAINED))
    assert again.data == "fashion-mnist-mini"
    assert sorted(PRETRAINED.rglob("*")) == before


def test_generate_takes_them(tmp_path):
    result = invoke("generate", "gby", "--pretrained", "--per-class", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "samples-gby.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "attack gbz --pretrained --runs here",
            "--pretrained takes the models that come with the package: leave --runs",
        ),
        ("attack gbz --pretrained --data mnist", "was trained on fashion-mnist, not on mnist"),
        ("evaluate cnn --pretrained", "no trained model in"),
    ],
)
def test_refusals(arguments, message):
    result = invoke(*arguments.split())
    assert result.exit_code and message in result.stderr


def test_float16_weights_are_computed_with_in_float32():
    classifier = pretrained("dbx", device="cpu")
    assert all(weight.dtype == torch.float32 for weight in classifier.factorization.parameters())
