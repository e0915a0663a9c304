"""On a CUDA device: what is captured equals what is called, the GPU agrees with the CPU, and every command runs."""

import dataclasses
import json
import os
import signal
import warnings

import pyro
import pytest
import torch
from support import invoke

import pyrobayes
from pyrobayes import BayesClassifier, Networks, TrainingOptions, attacks, build, evaluation, fit
from pyrobayes.inference import capture, importance
from pyrobayes.options import LIKELIHOODS, MODELS
from pyrobayes.training import fit as fit_module
from pyrobayes.training.bounds import Inference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SMALL = Networks(latent=8, hidden=32, channels=16)
STEPS = 8


class Calls:
    """A recorder that captures nothing."""

    def serves(self, given):
        return False


@pytest.fixture(autouse=True)
def as_in_production(monkeypatch):
    """Pyro's checks wait for the device, which no capture may; kernels that don't differ from run to run are taken."""
    monkeypatch.setattr(importance, "VALIDATE", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with pyro.validation_enabled(False):
        yield


@pytest.fixture
def called(monkeypatch):
    """A function that lets everything be called, and not captured, from then on."""
    return lambda: monkeypatch.setattr(capture, "RECORDER", Calls())


def images(split="train", count=300):
    return pyrobayes.load_data("fashion-mnist-mini", split).head(count)


def steps(name, options, likelihood="gaussian"):
    """The losses of some steps, the weights after them, and how many graphs there were."""
    torch.manual_seed(0)
    torch.cuda.manual_seed(0)
    factorization = build(name, dataclasses.replace(SMALL, likelihood=likelihood)).cuda()
    inference, data = Inference(factorization, options), images().to("cuda")
    losses = []
    for number in range(STEPS):
        inference.optim.set_lr(1e-3 / (1 + number))
        x, y = data.batch(torch.arange(32 * number, 32 * number + 32, device="cuda"))
        losses.append(inference.step(x, y, (1 + number) / STEPS).item())
    weights = torch.cat([weight.detach().flatten() for weight in factorization.parameters()])
    return losses, weights, len(inference._replayed._graphs)


OPTIONS = {
    "plain": {},
    "antithetic": {"train_particles": 2, "antithetic": True},
    "importance-weighted": {"train_particles": 3, "bound": "importance-weighted"},
}
STEP_CASES = [(name, "gaussian", "plain") for name in MODELS]
STEP_CASES += [("gbz", likelihood, "plain") for likelihood in LIKELIHOODS[1:]]
STEP_CASES += [("gfz", "gaussian", options) for options in OPTIONS if options != "plain"]


@pytest.mark.parametrize("name, likelihood, options", STEP_CASES)
def test_captured_steps_are_those_that_are_called(name, likelihood, options, called):
    options = TrainingOptions(lr=1e-3, **OPTIONS[options])
    losses, weights, graphs = steps(name, options, likelihood)
    called()
    expected, expected_weights, none = steps(name, options, likelihood)
    assert (graphs, none) == (1, 0)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert (weights - expected_weights).abs().mean() < 1e-5


TRAININGS = [
    {},
    {"augmentation": "shift-flip", "averaging": 0.9},
    {"adversarial_eps": 0.1, "adversarial_steps": 5},
]


@pytest.mark.parametrize("options", TRAININGS)
def test_a_captured_training_is_that_which_is_called(options, called):
    options = TrainingOptions(epochs=2, batch_size=30, **options)
    ours, theirs = (build("gbz", SMALL).cuda() for _ in range(2))
    captured = fit(ours, images(), options, progress=None)
    called()
    expected = fit(theirs, images(), options, progress=None)
    assert [epoch.elbo for epoch in captured] == pytest.approx([epoch.elbo for epoch in expected], rel=1e-3)
    assert [epoch.lr for epoch in captured] == [epoch.lr for epoch in expected]


def test_a_training_that_goes_on_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_module, "LOOK_EVERY", 3)
    options = TrainingOptions(epochs=2, batch_size=30)
    whole, parts = (build("gbz", SMALL).cuda() for _ in range(2))
    fit(whole, images(), options, progress=None)

    class Stop(pyrobayes.Progress):
        def step(self, model, step, steps, elbo):
            if step == 12:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(parts, images(), options, out=tmp_path, progress=Stop())
    resumed = build("gbz", SMALL).cuda()
    fit(resumed, images(), options, out=tmp_path, resume=True, progress=None)
    for one, other in zip(whole.parameters(), resumed.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


ATTACKED = [(name, "pgd", {"steps": 8}, {}) for name in MODELS]
ATTACKED += [
    ("gbz", "mim", {"steps": 8, "norm": "l2"}, {}),
    ("gbz", "apgd", {"steps": 8}, {}),
    ("gbz", "eot-mim", {"steps": 8, "second_steps": 0, "rivals": 2}, {}),
    ("gbz", "pgd", {"steps": 8, "target": 3, "eot": 2}, {"noise": "fixed"}),
    ("gbz", "pgd", {"steps": 8}, {"precision": "bf16"}),
    ("gbz", "pgd", {"steps": 8}, {"precision": "tf32"}),
    ("gbz", "pgd", {"steps": 8}, {"memory": 1}),
    ("gbz", "pgd", {"steps": 8}, {"estimator": "mixture"}),
]


@pytest.mark.parametrize("name, attack, options, classifying", ATTACKED)
def test_a_captured_attack_is_that_which_is_called(name, attack, options, classifying, called):
    classifier = BayesClassifier(build(name, SMALL).cuda().eval().requires_grad_(False), 3, **classifying)
    by, data = attacks.get(attack, **options), images("test", 60).to("cuda")

    def attacked():
        parts = data.batches(20)
        return torch.cat([by(classifier, x, y, 0.1, indices=indices) for indices, x, y in parts])

    found = attacked()
    assert any(each._graphs for each in classifier.graphs._captured.values())
    assert not any(each.failed for each in classifier.graphs._captured.values())
    called()
    same = (found - attacked()).abs() < 1e-4
    assert same.float().mean() > (0.9 if classifying.get("precision") == "bf16" else 0.98)


@pytest.mark.parametrize("name", MODELS)
def test_the_gpu_agrees_with_the_cpu(name):
    x, _ = images("test", 100).batch(slice(None))
    cpu, gpu = (pyrobayes.pretrained(name, device=device).for_images(torch.arange(100)) for device in ("cpu", "cuda"))
    with torch.no_grad():
        expected, found = cpu(x), gpu(x.cuda()).cpu()
    assert (expected - found).abs().max() < 1e-2  # nats, of some hundred
    assert (expected.argmax(1) == found.argmax(1)).float().mean() >= 0.99


def test_results_are_the_same_each_time_and_for_any_memory():
    data, found = images("test", 100), []
    for options in ({}, {}, {"memory": 64}, {"memory": 2048}):
        classifier = pyrobayes.pretrained("gbz", device="cuda", **options)
        found.append(evaluation.attack(classifier, data, [0.0, 0.1], by="pgd", checked=0, progress=None))
    assert found[0].predictions == found[1].predictions and torch.equal(found[0].log_joint, found[1].log_joint)
    for other in found[2:]:
        changed = torch.tensor(found[0].predictions) != torch.tensor(other.predictions)
        assert changed.float().mean() < 0.03


def test_tf32_is_taken_where_it_is_asked_for_alone():
    x, theirs = images("test", 50).batch(slice(None))[0].cuda(), torch.backends.cudnn.allow_tf32
    given = [pyrobayes.pretrained("gbz", device="cuda", noise="fixed", precision=p) for p in ("fp32", "tf32", "auto")]
    with torch.no_grad():
        plain, rounded, automatic = (classifier(x) for classifier in given)
    assert 0 < (plain - rounded).abs().max() < 2 and torch.backends.cudnn.allow_tf32 == theirs
    assert given[2].options.precision in ("fp32", "tf32", "bf16") and automatic.isfinite().all()


def test_too_little_memory_is_told_in_one_line():
    free, whole = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(0.02 * free / whole)
        told = invoke("evaluate", "gbz", "--pretrained", "--images", "200", "--batch-size", "200", "--memory", "80000")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert told.exit_code == 1 and told.stderr.strip().count("\n") == 0
    assert told.stderr.startswith("Error: not enough memory: take smaller networks")


COMMANDS = [
    "train dbx --data fashion-mnist-mini --networks small --channels 4 --hidden 16 --epochs 1",
    "evaluate gbz dfx --pretrained --images 40",
    "evaluate gbz --pretrained --images 40 --precision tf32 --json",
    "attack gbz --pretrained --images 40 --eps-range 0,0.1",
    "attack gbz --pretrained --images 20 --eps-range 0.1 --attack pgd --steps 6 --precision bf16",
    "detect dbx --pretrained --images 20 --train-images 100 --eps-range 0.1",
    "certify dbx --pretrained --images 4 --draws 200 --selection-draws 10",
    "robustness dbx --pretrained --images 10 --eps-range 0.1 --steps 5 --redraws 2 --checked-images 5 --brief",
    "generate gbz --pretrained",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*without a CUDA graph")
        place = "--runs" if command.startswith("train") else "--out"
        result = invoke(*command.split(), place, tmp_path, "--device", "cuda:0")
    assert result.exit_code == 0, result.output
    if "--json" in command:
        assert json.loads(result.stdout)
