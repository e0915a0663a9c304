"""The command line: what it prints, what it writes, and how it refuses."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from support import FEW_IMAGES, invoke

from pyrobayes import factorizations, load, load_data
from pyrobayes.attacks.attack_options import AttackOptions
from pyrobayes.codec import encode
from pyrobayes.evaluation.robustness.checks import CHECKS
from pyrobayes.evaluation.robustness.verdict import IN_MOST, SHARE_OF_DRAWS, UPPER_BOUND
from pyrobayes.options import COMPARATORS, EPS, MODELS
from pyrobayes.progress import ProgressBar
from pyrobayes.results.store import Provenance
from pyrobayes.tensor_files import digest, read_tensors
from pyrobayes_cli.models import how_to_go_on

TINY = "--networks small --channels 4 --hidden 16 --latent 6 --data fashion-mnist-mini".split()
FEW = {"evaluate": ("--images", 5, "--particles", 1)}
FEW["certify"] = (*FEW["evaluate"], "--draws", 20, "--selection-draws", 5)
FEW["attack"] = FEW["detect"] = (*FEW["evaluate"], "--eps-range", "0.1")


def few_images(patched):
    """Commands of this process see the first 200 images alone, as those of another process by FEW_IMAGES."""
    patched.setattr("pyrobayes.commands.context.load_data", lambda *given: load_data(*given).head(200))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """GBZ and DBX, tiny, trained for one epoch by the command line."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched:
        few_images(patched)
        result = invoke("train", "GBZ", "dbx", *TINY, "--epochs", 1, "--runs", folder)
    assert result.exit_code == 0, result.output
    assert re.search(r"gbz +1 +-\d+\.\d\d", result.stdout)
    assert "epoch 1/1" in result.stderr
    return folder


@pytest.fixture
def runs(trained, empty_figures):
    """The folder of the trained models; figures of results on them are empty."""
    return trained


@pytest.mark.parametrize(
    "command",
    [
        "",
        "train",
        "attack",
        "detect",
        "certify",
        "robustness",
        "evaluate",
        "show",
        "generate",
        "report",
        "reproduce",
        "data",
        "data fetch",
    ],
)
def test_every_command_has_help(command):
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    if command != "data":
        assert "Example" in result.output or "First steps" in result.output


def test_the_gradient_of_an_attack_is_recorded(runs, tmp_path):
    few = ("--runs", runs, "--out", tmp_path, "--eps-range", 0.1, "--images", 10, "--particles", 2)
    result = invoke(
        "attack", "gbz", *few, "--attack", "fgsm", "--attack", "square", "--steps", 2, "--gradient", "fisher"
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "attack.json").read_text())
    assert report["options"]["gradient"] == "fisher"
    assert [each["options"].get("gradient") for each in report["results"]] == ["fisher", None]
    refused = invoke("attack", "gbz", *few, "--gradient", "both", "--term", "x")
    assert refused.exit_code and "leave term or gradient out" in refused.output


def test_attack(runs, tmp_path):
    result = invoke(
        "attack", "--runs", runs, "--out", tmp_path, "--eps-range", "0:0.2:0.1", "--images", 30, "--particles", 1,
        "--save-adversarial",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if line.startswith(("gbz", "dbx"))]
    assert len(rows) == 6 and all(row.endswith("30") for row in rows)
    assert "Data: fashion-mnist-mini" in result.stdout
    report = json.loads((tmp_path / "attack.json").read_text())
    assert report["options"]["eps"] == [0.0, 0.1, 0.2]
    assert [result["model"] for result in report["results"]] == ["gbz", "dbx"]
    assert len(report["results"][0]["predictions"][2]) == 30
    assert report["results"][0]["rates"][1]["success"]["total"] == 30
    assert report["options"]["seed"] == 0 and report["options"]["images"] == 30
    assert report["data"] == {
        "name": "fashion-mnist-mini",
        "split": "test",
        "sha256": load_data("fashion-mnist-mini", "test").sha256,
    }
    assert {"pyrobayes", "python", "torch", "torchvision", "pyro", "numpy"} == set(report["versions"])
    assert report["trained"]["gbz"]["epochs"] == 1 and report["trained"]["gbz"]["config"]["networks"]["channels"] == 4
    weights = load(runs / "gbz").factorization.state_dict()
    assert report["trained"]["gbz"]["weights"] == digest(weights, {})
    for figure in ("figure1", "figure2-gbz", "figure2-dbx"):
        assert (tmp_path / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
        assert (tmp_path / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    tensors, _ = read_tensors(tmp_path / "adversarial-gbz.safetensors")
    assert tensors["adversarial"].shape == (3, 30, 1, 28, 28)


def test_attack_is_the_same_from_python(runs, tmp_path):
    from pyrobayes import AttackOptions
    from pyrobayes.commands.attack import attack
    from pyrobayes.commands.context import Context

    shown = json.loads(invoke("attack", "gbz", "--runs", runs, "--out", tmp_path, "--images", 4, "--json").stdout)
    (result,) = attack(["gbz"], AttackOptions(images=4), Context(runs=runs, out=tmp_path))
    assert shown == [json.loads(json.dumps(encode(result)))]


def without_checksum(text):
    """The content of a file of results, to be changed and read as one from before there was a checksum."""
    content = json.loads(text)
    del content["sha256"]
    return content


@pytest.mark.parametrize("command, file", [("attack", "attack.json"), ("evaluate", "evaluation.json")])
def test_an_interrupted_run_goes_on(command, file, runs, tmp_path):
    line = (command, "--runs", runs, "--out", tmp_path, *FEW[command])
    whole, path = invoke(*line), tmp_path / file
    assert whole.exit_code == 0, whole.output
    saved, before = json.loads(path.read_text()), path.read_bytes()
    del saved["results"][0], saved["trained"]["gbz"], saved["sha256"]  # the first model's
    path.write_text(json.dumps(saved))
    again = invoke(*line, "--resume")
    assert again.exit_code == 0 and again.stdout == whole.stdout and path.read_bytes() == before
    assert "gbz  image 5/5" in again.stderr and "dbx" not in again.stderr
    changed = without_checksum(before)
    for part, key, value in (("options", "seed", 1), ("data", "sha256", "0"), ("versions", "torch", "2.0.0")):
        path.write_text(json.dumps(changed | {part: changed[part] | {key: value}}))
        told = invoke(*line, "--resume").stderr
        assert all(f"{model}  image 5/5" in told for model in ("gbz", "dbx"))
    changed = without_checksum(before)
    changed["trained"]["gbz"]["weights"] = "0"
    path.write_text(json.dumps(changed))
    assert "dbx" not in invoke(*line, "--resume").stderr and path.read_bytes() == before


@pytest.mark.parametrize("command, file", [("attack", "attack.json"), ("evaluate", "evaluation.json")])
def test_results_of_other_models_are_kept(command, file, runs, tmp_path):
    line = ("--runs", runs, "--out", tmp_path, *FEW[command])
    first = invoke(command, "gbz", *line)
    other = invoke(command, "dbx", *line, "--resume")
    assert first.exit_code == other.exit_code == 0, other.output
    assert "dbx" in other.stdout and "gbz" not in other.stdout
    saved = json.loads((tmp_path / file).read_text())
    assert saved["models"] == list(saved["trained"]) == ["dbx", "gbz"]
    assert {result["model"] for result in saved["results"]} == {"gbz", "dbx"}
    both = contents(tmp_path)
    again = invoke(command, "gbz", *line, "--resume")
    assert again.stdout == first.stdout and contents(tmp_path) == both
    invoke(command, "dbx", *line, "--seed", 1, "--resume")  # of other options
    assert list(json.loads((tmp_path / file).read_text())["trained"]) == ["dbx"]


def test_results_of_a_model_that_is_not_registered_here_are_kept(runs, tmp_path):
    line = ("--runs", runs, "--out", tmp_path, *FEW["attack"])
    invoke("attack", "gbz", *line)
    text = json.dumps(without_checksum((tmp_path / "attack.json").read_text()))
    (tmp_path / "attack.json").write_text(text.replace('"gbz"', '"of-a-plugin"'))
    other = invoke("attack", "dbx", *line, "--resume")
    assert other.exit_code == 0, other.output
    assert list(json.loads((tmp_path / "attack.json").read_text())["trained"]) == ["dbx", "of-a-plugin"]


def test_results_from_before_an_option_was_there_are_kept(runs, tmp_path):
    line = ("attack", "gbz", "--runs", runs, "--out", tmp_path, *FEW["attack"])
    invoke(*line)
    saved = without_checksum((tmp_path / "attack.json").read_text())
    del saved["trained"]["gbz"]["config"]["training"]["antithetic"]
    (tmp_path / "attack.json").write_text(json.dumps(saved))
    assert "image" not in invoke(*line, "--resume").stderr


def test_what_transfers_is_not_kept(runs, tmp_path):
    line = ("attack", "gbz", "dbx", "--attack", "fgsm", "--attack", "transfer", "--runs", runs, "--out", tmp_path)
    line = (*line, *FEW["attack"], "--steps", 2)
    first = invoke(*line)
    again = invoke(*line, "--resume")
    assert first.exit_code == again.exit_code == 0 and again.stdout == first.stdout
    assert [text.count("gbz  image 5/5") for text in (first.stderr, again.stderr)] == [2, 1]


def test_detect(runs, tmp_path):
    result = invoke(
        "detect", "--runs", runs, "--out", tmp_path, "--eps-range", "0.1,0.3", "--images", 20, "--train-images", 50,
        "--evade-weight", 1, "--particles", 2,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if line.startswith(("gbz", "dbx"))]
    assert len(rows) == 2 * (3 + 3) * 2 and sum("evading x 1" in row for row in rows) == 12
    assert sum(", without meaning" in row for row in rows) == 8
    assert "Without meaning:" in " ".join(result.stdout.split())
    report = json.loads((tmp_path / "detection.json").read_text())
    assert [each["test"] for each in report["results"][:6]] == ["marginal", "logit", "kl"] * 2
    assert {each["meaningful"] for each in report["results"] if each["model"] == "gbz"} == {True}
    assert {"detection-gbz.pdf", "detection-gbz.png", "detection-dbx.png"} <= {path.name for path in tmp_path.iterdir()}
    few = (*FEW["detect"], "--train-images", 20)
    assert json.loads(invoke("detect", "gbz", "--runs", runs, "--out", tmp_path, *few, "--json").stdout)


def test_certify(runs, tmp_path):
    given = ("certify", "--runs", runs, "--out", tmp_path, *FEW["certify"], "--sigma", "0.5,0.25")
    result = invoke(*given)
    assert result.exit_code == 0, result.output
    rows = [line.split()[:2] for line in result.stdout.splitlines() if line.startswith(("gbz", "dbx"))]
    assert rows == [[model, sigma] for model in ("gbz", "dbx") for sigma in ("0.25", "0.5")]
    assert "Each certificate has 20 draws" in result.stdout and "gbz, sigma 0.25  image 5/5" in result.stderr
    report = json.loads((tmp_path / "certification.json").read_text())
    assert {sum(counts) for each in report["results"] for counts in each["counts"]} == {20}
    assert [each["sigma"] for each in report["results"]] == [0.25, 0.5] * 2
    assert {"certified-gbz.pdf", "certified-gbz.png", "certified-dbx.png"} <= {path.name for path in tmp_path.iterdir()}
    again = invoke(*given, "--resume", "--batch-size", 7, "--json")
    assert json.loads(again.stdout) == report["results"] and "image" not in again.stderr


def test_what_one_model_has_not_is_refused_before_another_is_attacked(empty_figures, tmp_path):
    given = ("--pretrained", "--attack", "pgd", "--term", "y", "--steps", 2, *FEW["attack"], "--out", tmp_path)
    result = invoke("attack", "gfz", "gfy", *given)
    assert result.exit_code == 1 and "the term y doesn't depend on the image" in result.stderr
    assert not any(tmp_path.iterdir())
    assert invoke("attack", "gfz", *given).exit_code == 0


def test_robustness(runs, tmp_path, monkeypatch, quickly_broken):
    # Other tests look at the known-broken models, so few images train them here.
    monkeypatch.setattr("pyrobayes.evaluation.robustness.known_broken.IMAGES", 100)
    few = (*FEW["attack"], "--checked-images", 2, "--steps", 1, "--redraws", 1)
    result = invoke("robustness", "--runs", runs, "--out", tmp_path, *few)
    assert result.exit_code == 0, result.output
    assert "gbz: clean accuracy" in result.stdout and "dbx: clean accuracy" in result.stdout
    told = re.findall(r"^\d+\. .*\n    (?:pass|FAIL|not applicable): ", result.stdout, re.MULTILINE)
    assert len(told) == 2 * len(CHECKS)
    for row in ("fgsm", "eot-mim", "transfer", IN_MOST, SHARE_OF_DRAWS, UPPER_BOUND):
        assert len(re.findall(f"^{row} ", result.stdout, re.MULTILINE)) == 2, row
    report = json.loads((tmp_path / "robustness.json").read_text())
    assert [each["model"] for each in report["results"]] == ["gbz", "dbx"]
    assert [check["number"] for check in report["results"][0]["checks"]] == list(CHECKS)
    assert {"robustness.pdf", "robustness-gbz.pdf", "robustness-dbx.png"} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "robustness-parts").exists()
    assert "the report (report.html)" in result.stdout
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5 and "p(x, z, y) = p(z) p(y|z) p(x|z)" in page


def test_report(runs, tmp_path):
    for command in (["evaluate"], ["attack", "--eps-range", "0.1"]):
        done = invoke(*command, "--runs", runs, "--out", tmp_path, "--images", 5, "--particles", 2)
        assert done.exit_code == 0, done.output
    result = invoke("report", "--runs", runs, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Wrote {tmp_path / 'report.md'} and {tmp_path / 'report.html'}.\n"
    text = (tmp_path / "report.md").read_text()
    trained = "pyrobayes train gbz dbx --latent 6 --hidden 16 --channels 4 --epochs 1 --data fashion-mnist-mini"
    for line in (trained, "pyrobayes evaluate gbz dbx --particles 2 --images 5", "ELBO (nats)"):
        assert line in text
    (tmp_path / "evaluation.json").write_text("{")
    damaged = invoke("report", "--runs", runs, "--out", tmp_path)
    assert damaged.exit_code == 1 and damaged.stderr.startswith(f"Error: damaged file {tmp_path / 'evaluation.json'}: ")
    # Damaged as it is, it would be in the way at the end of a long run.
    refused = invoke("robustness", "gbz", "--runs", runs, "--out", tmp_path)
    assert refused.exit_code == 1 and "make it again with 'pyrobayes evaluate'" in refused.stderr


def test_transfer_and_other_norms(runs, tmp_path):
    common = ("--runs", runs, "--out", tmp_path, *FEW["attack"], "--steps", 2)
    result = invoke("attack", "--attack", "transfer", "--attack", "cw", *common)
    assert result.exit_code == 0, result.output
    assert "GBZ: the median L2 distance to what CW found is" in result.stdout
    report = json.loads((tmp_path / "attack.json").read_text())
    assert [each["options"].get("sources") for each in report["results"]] == [["dbx"], ["gbz"], None, None]
    assert [each["options"]["norm"] for each in report["results"]] == ["linf", "linf", "l2", "l2"]
    alone = invoke("attack", "gbz", "--attack", "transfer", *common)
    assert "transfer needs another trained model than gbz itself" in alone.stderr
    for models in (["gbz"], []):  # of all, the source is left out
        done = invoke("attack", *models, "--attack", "transfer", "--source", "dbx", *common)
        assert done.exit_code == 0 and re.findall("^(gbz|dbx) ", done.stdout, re.MULTILINE)[0] == "gbz"


def test_evaluate(runs, tmp_path):
    result = invoke("evaluate", "--runs", runs, "--out", tmp_path, *FEW["evaluate"])
    assert result.exit_code == 0, result.output
    assert "changed (%)" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        "evaluation.json", "confusion-gbz.pdf", "confusion-gbz.png", "confusion-dbx.pdf", "confusion-dbx.png", ".evaluate.lock",
    }  # fmt: skip
    shown = json.loads(invoke("evaluate", "gbz", "--runs", runs, "--out", tmp_path, *FEW["evaluate"], "--json").stdout)
    assert shown[0]["accuracy"]["total"] == 5


@pytest.mark.parametrize("command, file", [("attack", "attack"), ("evaluate", "evaluation"), ("detect", "detection")])
def test_earlier_results_are_kept_under_another_name(command, file, runs, tmp_path):
    given = ["--runs", runs, "--out", tmp_path, "--particles", 1, *(["--eps", "0.1"] if command != "evaluate" else [])]
    for images in (6, 5, 5):  # the third is the second again
        assert invoke(command, "dbx", *given, "--images", images).exit_code == 0
    kept = {path.name: json.loads(path.read_text())["options"]["images"] for path in tmp_path.glob(f"{file}*.json")}
    assert kept == {f"{file}.json": 5, f"{file}.1.json": 6}
    if command != "detect":
        assert invoke(command, "gbz", *given, "--images", 5, "--resume").exit_code == 0
        assert len(list(tmp_path.glob(f"{file}*.json"))) == 2  # nothing was lost


def test_who_interrupts_is_told_what_was_kept(runs, tmp_path, monkeypatch):
    def interrupted(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyrobayes.evaluation.attack", interrupted)
    result = invoke("attack", "gbz", "--runs", runs, "--out", tmp_path)
    assert result.exit_code == 130
    assert result.stderr == "\ninterrupted before any result was finished: nothing was saved\n"
    assert not (tmp_path / "attack.json").exists()
    monkeypatch.setattr("pyrobayes.commands.robustness.assess", interrupted)
    result = invoke("robustness", "gbz", "--quick", "--runs", runs, "--out", tmp_path, "--images", 5)
    assert "before any result was finished: the same command goes on where it stopped" in result.stderr
    monkeypatch.undo()
    given = ["--runs", runs, "--out", tmp_path, "--images", 5, "--particles", 1, "--eps", "0.1"]
    assert invoke("attack", "gbz", *given).exit_code == 0
    monkeypatch.setattr("pyrobayes.evaluation.attack", interrupted)
    assert "nothing was saved" in invoke("attack", "gbz", *given).stderr  # those that are there are of another run
    result = invoke("attack", "gbz", "dbx", *given, "--resume")
    assert f"finished are in {tmp_path / 'attack.json'}, and --resume keeps them" in result.stderr


def test_how_a_training_goes_on_is_told_after_an_interrupt(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pyrobayes", "train", "gbz", "--epochs", "3", "--overwrite"])
    assert how_to_go_on(None, ["gbz"], True) == "nothing was started"
    assert how_to_go_on("gbz", ["gbz"], True) == "to go on: pyrobayes train gbz --epochs 3 --resume"
    told = "to go on with gbz, name only gbz and give --resume in place of --overwrite"
    assert how_to_go_on("gbz", ["gbz", "dfx"], True) == f"{told}; the models after it are as they were"
    assert how_to_go_on("gbz", ["dfx", "gbz"], True) == told
    assert how_to_go_on("gbz", ["gbz", "dfx"], True, complete=True) == "to go on, name only the models after gbz"
    assert how_to_go_on("gbz", ["gbz", "dfx"], False, complete=True).endswith("--resume")


def test_a_training_that_is_stopped_after_its_last_epoch_is_finished(tmp_path, monkeypatch):
    few_images(monkeypatch)
    monkeypatch.setattr(ProgressBar, "epoch", lambda *given: signal.raise_signal(signal.SIGINT))
    result = invoke("train", "gbz", *TINY, "--epochs", 1, "--runs", tmp_path)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "stopped after the last of 1 epochs: this training is complete"


def test_eps_are_those_of_the_norm(runs, tmp_path):
    result = invoke("attack", "dbx", "--norm", "l2", "--runs", runs, "--out", tmp_path, "--images", 5, "--particles", 1)
    assert [line.split()[2:4] for line in result.stdout.splitlines()[2:9]] == [[f"{e / 2:g}", "(L2)"] for e in range(7)]
    assert AttackOptions(attack=("fgsm", "cw")).eps == AttackOptions().eps == EPS


def test_generate(trained, tmp_path):
    result = invoke("generate", "gbz", "--runs", trained, "--out", tmp_path, "--per-class", 2)
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.iterdir())) == 4


def test_show(tmp_path):
    result = invoke("show", "DFX", "--figure", tmp_path / "dfx.png")
    assert result.exit_code == 0, result.output
    for words in ("DFX: p(x, z, y) = p_D(x) p(z|x) p(y|z, x)", 'pyro.sample("z", self.p_z(x))', "y: x, z", "def guide"):
        assert words in result.stdout
    assert (tmp_path / "dfx.png").exists() and (tmp_path / "dfx.pdf").exists()
    assert json.loads(invoke("show", "gbz", "--json").stdout)["parents"] == {"z": [], "y": ["z"], "x": ["z"]}


def test_data_fetch(tmp_path):
    result = invoke("data", "fetch", "--data", "fashion-mnist-mini", "--data-dir", tmp_path)
    assert result.exit_code == 0 and result.stdout == "fashion-mnist-mini: complete, from: embedded in the package\n"


@pytest.mark.parametrize("words", ["", "data"])
def test_alone_it_tells_how_it_is_used(words):
    code = f"import sys; from pyrobayes_cli.main import main; main({words.split()}, prog_name='pyrobayes')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("Usage: pyrobayes") and "Commands:" in done.stdout and not done.stderr


BAD = [
    ("trian gbz", "No such command 'trian'"),
    ("train", "Missing argument 'MODEL...|all'"),
    ("train gbz --epochs many", "'many' is not a valid integer"),
    ("train gbz --networks large", "'large' is not one of"),
    ("train gbx", "unknown model 'gbx': did you mean 'gbz'?"),
    ("train gbz --epochs 0", "epochs must be a whole number of at least 1, got 0"),
    ("train gbz --batch-size 0", "batch size must be a whole number of at least 1, got 0"),
    ("train gbz --train-particles 0", "train particles must be a whole number"),
    ("train gbz --antithetic", "antithetic particles come in pairs: give an even number of train particles, got 1"),
    (
        "train gbz --train-particles 4 --antithetic --bound importance-weighted",
        "antithetic particles are for the ELBO",
    ),
    ("train gbz --train-particles 5 --antithetic", "give an even number of train particles, got 5"),
    ("train gbz --lr -1", "lr must be a finite number above 0, got -1.0"),
    ("train gbz --lr nan", "lr must be a finite number above 0, got nan"),
    ("train gbz --kl-warmup 2", "kl warmup must be a share of the run from 0 to 1"),
    ("train gbz --latent 0", "latent must be a whole number of at least 1"),
    ("train gbz --seed -1", "seed must be a whole number of at least 0"),
    ("train gbz --resume --overwrite", "exclude each other"),
    ("attack gbz --resume --save-adversarial --runs {runs}", "leave resume or save-adversarial out"),
    ("train gbz --device cuda", "device cuda was asked for, but this torch"),
    ("train gbz --data fashion-mnist --data-dir {empty}", "can't find the data set fashion-mnist. Tried:"),
    ("train gbz --data fashion-mnist-mini --runs {file}/runs", "can't write"),
    (
        "train gbz --data fashion-mnist-mini --runs {runs}",
        "already holds a run: go on with it (--resume), replace it (--overwrite), or",
    ),
    (
        "train gbz --epochs 7 --resume --runs {runs}",
        "can't be resumed with another configuration: there, epochs is 1, not 7",
    ),
    ("train gbz --resume --data mnist --runs {runs}", "there, data is fashion-mnist-mini, not mnist"),
    (
        "train gbz --resume --networks paper --runs {runs}",
        "there, latent is 6, not 64, hidden is 16, not 500, channels is 4, not 64",
    ),
    ("train gbz --seed 99999999999999999999", "seed must be at most 9223372036854775807"),
    ("generate all --runs {runs}", "unknown model 'all'"),
    ("attack --runs {runs} --eps-range 0:0.3:1e-320", "take a larger STEP"),
    ("attack --runs {empty}", "(--runs), or take those that come with the package (--pretrained)"),
    ("attack gfz --runs {runs}", "no trained model in"),
    ("attack gbx --runs {runs}", "unknown model 'gbx': did you mean 'gbz'?"),
    ("attack --runs {runs} --eps-range 0:0.3", "can't read the eps range '0:0.3'"),
    ("attack --runs {runs} --eps-range 0.3:0:0.1", "is empty"),
    ("attack --runs {runs} --eps-range 0:0.3:0", "is empty"),
    ("attack --runs {runs} --eps-range 0:0.3:-0.1", "is empty"),
    ("attack --runs {runs} --eps-range -0.1:0.3:0.1", "eps must lie in [0, 1]"),
    ("attack --runs {runs} --eps-range 0:2:0.5", "eps must lie in [0, 1]"),
    ("attack --runs {runs} --eps-range 0:1:1e-9", "take a larger STEP"),
    ("attack --runs {runs} --eps-range 0.1,0.10000000001", "are as good as the same: leave one of them out"),
    ("attack --runs {runs} --attack cw --eps-range 0:1e308:1e308", "in L2 from 0 to 1,000,000"),
    ("attack --runs {runs} --batch-size 99999999999999999999", "batch size must be at most"),
    ("attack --runs {runs} --eps-range nan", "eps must lie in [0, 1]"),
    ("attack --runs {runs} --eps-range 0.1,,0.2", "can't read the eps range"),
    ("attack --runs {runs} --particles 0", "particles must be a whole number of at least 1, got 0"),
    ("attack --runs {runs} --batch-size -3", "batch size must be a whole number of at least 1, got -3"),
    ("attack --runs {runs} --images 2000", "images must be at most 1000"),
    ("attack --runs {runs} --data mnist", "was trained on fashion-mnist-mini, not on mnist"),
    ("attack --runs {runs} --images 5 --out {file}/out", "can't write"),
    ("attack --runs {runs} --attack cw --norm linf", "cw is bounded in l2, not in linf: leave the norm out"),
    ("attack --runs {runs} --attack cw --attack patch --eps-range 2", "eps must lie in [0, 1]"),
    ("attack --runs {runs} --source gbz", "fgsm has no option source, only transfer"),
    ("attack --runs {runs} --attack transfer --source gfz", "no trained model in"),
    ("attack --runs {runs} --confidence 3", "fgsm has no option confidence, only cw"),
    ("attack --runs {runs} --loss logit-matching --target 3", "has no target: leave it out"),
    ("detect --runs {runs} --false-alarms 1", "false alarms must be a share above 0 and below 1"),
    ("detect --runs {runs} --evade-weight 0", "evade weight must be a finite number above 0"),
    ("certify --runs {runs} --sigma 0.25,0", "sigma must be a finite number above 0, got 0.0"),
    ("certify --runs {runs} --sigma 0.25;0.5", "can't read '0.25;0.5': expected a number, or a comma list"),
    ("certify --runs {runs} --draws 0", "draws must be a whole number of at least 1"),
    ("certify --runs {runs} --alpha 1", "alpha must be a share above 0 and below 1"),
    ("certify --runs {runs} --images 2000", "images must be at most 1000"),
    ("train gfz --sigma 0.5", "sigma is of augmentation gaussian, and the augmentation is None"),
    ("train cnn-at --augmentation gaussian", "take augmentation gaussian or an adversarial eps, not both"),
    ("robustness --runs {runs} --eps-range 0", "a verdict needs an eps above 0"),
    ("robustness --runs {runs} --images 2000", "images must be at most 1000"),
    ("robustness --runs {runs} --redraws 0", "redraws must be a whole number"),
    ("detect --runs {runs} --train-images 1", "train images must be"),
    ("evaluate --runs {runs} --particles 0", "particles must be a whole number"),
    ("generate dbx --runs {runs}", "dbx can't generate images"),
    (
        "report --runs {runs}",
        "evaluation.json, attack.json, detection.json, certification.json and robustness.json are made by 'pyrobayes",
    ),
    ("report --runs {empty}", "no results in"),
    ("generate gbz --runs {runs} --per-class 0", "per_class must be a whole number of at least 1"),
    ("show DFXX", "unknown model 'DFXX': did you mean 'dfx'?"),
    ("show gbz --figure {file}/figure", "can't write"),
]


@pytest.mark.parametrize(("line", "words"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_clear_error_and_changes_nothing(line, words, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no dpkg, no apt-get
    monkeypatch.setattr("pyrobayes.data.sources._from_torchvision", lambda source: 1 / 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    before = contents(runs)
    result = invoke(*line.format(runs=runs, empty=tmp_path / "empty", file=tmp_path / "file").split())
    assert result.exit_code in (1, 2), result.output
    assert result.stderr.startswith("Error: ") and words in result.stderr
    assert len(result.stderr.splitlines()) == 1 or "Tried:" in result.stderr
    assert "Traceback" not in result.output and result.stdout == ""
    assert contents(runs) == before
    assert not [path for path in tmp_path.rglob("*") if path.suffix]


def test_a_folder_must_hold_the_model_of_its_name(runs, tmp_path):
    shutil.copytree(runs / "gbz", tmp_path / "gfz")
    result = invoke("attack", "--runs", tmp_path)
    assert result.exit_code == 1 and "holds a 'gbz'" in result.stderr


def test_a_run_without_a_complete_epoch_does_not_block_the_others(runs, tmp_path):
    shutil.copytree(runs / "gbz", tmp_path / "gbz")
    (tmp_path / "dfx").mkdir()
    shutil.copy(runs / "dbx" / "resume.safetensors", tmp_path / "dfx")
    result = invoke("evaluate", "--runs", tmp_path, *FEW["evaluate"])
    assert result.exit_code == 0 and "dfx" not in result.stdout


def test_models_whose_training_has_not_ended_are_named(runs, tmp_path, monkeypatch):
    begun = dataclasses.replace(Provenance.read(runs / "gbz"), epochs=0)
    monkeypatch.setattr(Provenance, "read", lambda run: begun)
    result = invoke("evaluate", "gbz", "--runs", runs, "--out", tmp_path, *FEW["evaluate"])
    assert "warning: gbz has 0 of 1 epochs of its training behind it" in result.stderr


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def training(folder, *more):
    """The words after `pyrobayes` that train GFZ in a folder."""
    return ["train", "gfz", *TINY, "--epochs", 6, "--batch-size", 50, "--runs", folder, *more]


def start(*arguments):
    command = [sys.executable, "-c", FEW_IMAGES, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def one_thread():
    """Training runs in one thread, as in `start`: sums of several are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wait_for_a_save(run, process, since=0):
    """Wait until the run is saved, after `since`; returns when that was."""
    for _ in range(6000):
        saved = run / "resume.safetensors"
        if saved.exists() and saved.stat().st_mtime_ns > since:
            return saved.stat().st_mtime_ns
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("nothing was saved within a minute")


def test_killed_and_interrupted_it_ends_with_the_same_weights(tmp_path, monkeypatch, one_thread):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with start(*training(broken)) as process:
        saved = wait_for_a_save(broken / "gfz", process)
        process.kill()
    with start(*training(broken, "--resume")) as process:
        wait_for_a_save(broken / "gfz", process, since=saved)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in errors
        assert "to go on: pyrobayes train gfz" in errors and "--resume" in errors
    few_images(monkeypatch)
    for line in (training(broken, "--resume"), training(whole)):
        done = invoke(*line)
        assert done.exit_code == 0, done.output

    expected, got = (load(folder / "gfz").state_dict() for folder in (whole, broken))
    assert all((expected[name] == got[name]).all() for name in expected)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--help"],
        ["attack", "--help"],
        ["detect", "--help"],
        ["certify", "--sigma", "0"],
        ["train", "gbx"],
        ["attack", "gbx"],
        ["attack", "--steps", "5"],
        ["attack", "--attack", "cw", "--target", "each"],
        ["detect", "--loss", "logit-matching", "--evade-weight", "1"],
        ["show", "gbx"],
    ],
)
def test_neither_help_nor_a_bad_argument_imports_torch(arguments):
    code = f"""
import sys
from pyrobayes_cli.main import main
try:
    main({arguments})
except SystemExit:
    print(sorted({{"torch", "numpy", "scipy", "cattrs"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done
    assert ("Usage:" in done.stdout) != done.stderr.startswith("Error: ")


def test_what_is_known_without_torch_is_what_is_registered():
    ours = [name for name in factorizations.names() if factorizations.get(name).__module__.startswith("pyrobayes.")]
    assert list(MODELS) == ours  # and none that a test has registered
    assert set(COMPARATORS) == set(factorizations.names(comparators=True)) - set(factorizations.names())


@pytest.mark.parametrize(
    "said, told", [("can't allocate memory: you tried", True), ("a single memory location", False)]
)
def test_memory_that_runs_out_is_said(said, told, runs, monkeypatch):
    def fails(*given, **more):
        raise RuntimeError(said)

    monkeypatch.setattr("pyrobayes.commands.evaluate.evaluate", fails)
    result = invoke("evaluate", "--runs", runs)
    assert result.exit_code == 1 and ("not enough memory: take smaller networks" in result.stderr) == told
    assert isinstance(result.exception, SystemExit if told else RuntimeError)
