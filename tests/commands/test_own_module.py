"""Modules of the user's on the command line: where they come from goes into the results."""

import hashlib
import json
import sys

import pytest
import safetensors.torch
import torch
from support import invoke
from torch import nn

from pyrobayes import InputError
from pyrobayes.commands.report import read_results
from pyrobayes.inference.own_modules import load_module

CODE = """
from torch import nn

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def kept_on():
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Dropout(0.5)).eval()
    module[2].train()
    return module

def soft():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(1))

def number():
    return 3

def broken():
    return {}["weights"]

def lazy():
    return nn.LazyLinear(10)
"""
ON_FEW = ["--data", "fashion-mnist-mini", "--images", 3]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, which holds a Python file and its weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(CODE)
    torch.manual_seed(0)
    state = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).state_dict()
    safetensors.torch.save_file(state, "small.safetensors")
    torch.save(state, "small.pt")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, "wrapped.pt")
    torch.save({"1.weight": state["1.weight"]}, "part.pt")
    torch.save(nn.Linear(2, 2), "whole.pt")
    torch.save({"epoch": 3}, "other.pt")
    (tmp_path / "damaged.safetensors").write_bytes(b"123")
    yield tmp_path
    sys.modules.pop("nets", None)


def test_every_command_takes_a_module_and_its_results_say_where_it_comes_from(place, quickly_broken, empty_figures):
    own = ["--model", "nets:small", "--weights", "small.safetensors", *ON_FEW]
    brief = ["--steps", 1, "--redraws", 2, "--checked-images", 1, "--eps-range", 0.1, "--brief"]
    for command in (
        ["evaluate"],
        ["attack", "--eps-range", 0.1],
        ["detect", "--eps-range", 0.1, "--train-images", 30, "--evade-weight", 1],
        ["certify", "--draws", 20, "--selection-draws", 5],
        ["robustness", *brief],
    ):
        done = invoke(*command, *own)
        assert done.exit_code == 0, done.output
        assert "nets-small: it gives logits alone" in done.output and "what it was trained on" in done.output
    sha256 = hashlib.sha256((place / "small.safetensors").read_bytes()).hexdigest()
    for saved in read_results("runs").values():
        trained = saved.trained["nets-small"]
        assert (trained.weights, trained.source.function, trained.source.sha256) == (sha256, "nets:small", sha256)
        assert trained.source.code == hashlib.sha256(CODE.encode()).hexdigest() and trained.config is None
    report = (place / "runs/report.md").read_text()
    assert "pyrobayes evaluate --data fashion-mnist-mini --model nets:small --weights small.safetensors" in report
    assert sha256 in report
    assert invoke("evaluate", *own, "--resume", "--json").exit_code == 0
    (place / "nets.py").write_text(CODE + "\n")
    sys.modules.pop("nets")
    assert invoke("evaluate", *own, "--resume").exit_code == 0  # other code: made again, and the earlier is kept
    assert (place / "runs/evaluation.1.json").is_file()


def test_a_module_stands_beside_our_models_and_keeps_its_dropout_on(place, empty_figures):
    done = invoke(
        "attack", "dfx", "--pretrained", "--model", "nets:kept_on", "--images", 6, "--eps-range", 0.1, "--json"
    )
    assert done.exit_code == 0, done.output
    ours, own = json.loads(done.stdout)
    assert (ours["model"], own["model"]) == ("dfx", "nets-kept_on") and "caveats" not in ours
    assert any("can't be bound to an image" in caveat for caveat in own["caveats"])


@pytest.mark.filterwarnings("default")
def test_what_would_spoil_an_evaluation_is_a_line_on_standard_error(place, empty_figures):
    done = invoke("evaluate", "--model", "nets:soft", *ON_FEW)
    assert "\nwarning: nets-soft: it gives probabilities, and their log is taken" in f"\n{done.stderr}"
    assert "nets-soft: it gives probabilities" in done.stdout


def test_pickles_are_read_only_if_trusted_and_then_tensors_alone(place):
    first, source = load_module("nets:small", "small.safetensors")
    with pytest.raises(InputError, match="is no .safetensors file: other files of weights are pickles, which can run"):
        load_module("nets:small", "small.pt")
    for file in ("small.pt", "wrapped.pt"):
        module, trusted = load_module("nets:small", file, trust_weights=True)
        assert torch.equal(module[1].weight, first[1].weight) and trusted.arguments[-1] == "--trust-weights"
    assert (
        source.arguments == ["--model", "nets:small", "--weights", "small.safetensors"] and source.name == "nets-small"
    )


@pytest.mark.parametrize(
    ("function", "weights", "words"),
    [
        ("nets", None, "model must be of the form package.module:function, got 'nets'"),
        ("nest:small", None, "nest can't be imported from here"),
        ("nets:large", None, "nets has no function large"),
        ("nets.py:small", None, "a module is named without .py, as Python imports it: nets:small"),
        ("nets:broken", None, r"nets:broken can't be made: KeyError: 'weights' \(.*nets.py, line 19\)"),
        ("nets:lazy", None, "nets:lazy gives a module with lazy layers: run it on an image within the function"),
        ("nets:number", None, "nets:number must give an nn.Module, got int"),
        ("nets:small", "none.safetensors", "no file of weights at none.safetensors"),
        ("nets:small", "damaged.safetensors", "can't read the weights in damaged.safetensors"),
        ("nets:small", "part.pt", 'don\'t fit the module: .* Missing key.* "1.bias".*load them within the function'),
        ("nets:small", "whole.pt", "whole.pt holds more than tensors, which is never run: save model.state_dict"),
        ("nets:small", "other.pt", "other.pt must hold a state dict, tensors by name, got entries epoch"),
    ],
)
def test_what_is_wrong_with_a_module_is_said_in_one_line(function, weights, words, place):
    with pytest.raises(InputError, match=words):
        load_module(function, weights, trust_weights=True)


def test_options_that_miss_something_are_refused(place):
    assert "name the data set (--data)" in invoke("evaluate", "--model", "nets:small").output.lower()
    assert "--weights and --trust-weights are those of a --model" in invoke("evaluate", "--weights", "small.pt").output
