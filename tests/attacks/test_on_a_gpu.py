"""Attacks as a GPU runs them: no step waits for it, and a graph serves every batch. No GPU is needed."""

import dataclasses

import pyro
import pyro.distributions as dist
import pytest
import torch
from support import TINY, CopiesFromTheHost, OperationsRecorder, as_on_a_gpu
from torch._subclasses.fake_tensor import FakeTensorMode

from pyrobayes import BayesClassifier, Networks, attacks, build, from_pyro
from pyrobayes.attacks import Problem
from pyrobayes.attacks import problem as problem_module
from pyrobayes.attacks.pgd import MIM, PGD
from pyrobayes.inference import capture, importance

STEPS = [
    ("pgd", "fresh", {"steps": 1}),
    ("mim", "fixed", {"steps": 1, "norm": "l2"}),
    ("apgd", "fresh", {"steps": 2, "norm": "l2"}),
    ("eot-mim", "fresh", {"steps": 1, "rivals": 0}),
]


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("attack, noise, options", STEPS)
def test_a_step_does_not_wait_for_the_device(attack, noise, options, captured, monkeypatch):
    factorization = build("gfz", Networks(latent=4, hidden=8, channels=16)).requires_grad_(False)
    for name in ("check_range", "check_classes"):  # once per attack; fake images have no values
        monkeypatch.setattr(problem_module, name, lambda *given: None)
    monkeypatch.setattr(importance, "VALIDATE", False)
    monkeypatch.setattr(BayesClassifier, "bytes_needed", (1, 1))
    monkeypatch.setattr(torch.autograd, "grad", lambda loss, images: [torch.empty_like(images)])  # it needs a GPU
    if captured:  # where numbers are tensors on the device
        step = Problem.step
        buffers = lambda given: capture.Buffers(given).tensors  # noqa: E731
        monkeypatch.setattr(Problem, "step", lambda self, function, *given: step(self, function, *buffers(given)))
    by = attacks.get(attack, **options)
    with FakeTensorMode(), pyro.validation_enabled(False):
        as_on_a_gpu(factorization)
        x, y = torch.empty(3, 1, 28, 28, device="cuda"), torch.zeros(3, dtype=torch.long, device="cuda")
        pinned = BayesClassifier(factorization, particles=2, noise=noise).on_buffers(
            torch.arange(3, device="cuda"), None
        )
        problem = Problem(by, pinned, x, y)
        with CopiesFromTheHost() as copies:
            (images,) = by.perturb_all(problem, [0.1])
    assert images.device.type == "cuda" and not copies.found


CASES = [
    ("gfz", "pgd", {"steps": 4}, {}),
    ("gbz", "pgd", {"steps": 4, "target": 3, "loss": "margin", "eot": 2}, {"noise": "fixed", "memory": 1}),
    ("dfx", "apgd", {"steps": 4, "loss": "dlr", "norm": "l2"}, {}),
    ("dbx", "mim", {"steps": 4, "snapshot": True}, {"precision": "bf16"}),
    ("gby", "eot-mim", {"steps": 4, "second_steps": 0, "rivals": 1, "selection": 1}, {}),
    ("gbz", "pgd", {"steps": 4, "gradient": "both"}, {"estimator": "mixture"}),
    ("gbz", "pgd", {"steps": 4}, {"negligible": 0.01}),
]


@pytest.mark.parametrize("name, attack, options, classifying", CASES)
def test_a_graph_of_one_batch_serves_the_next(name, attack, options, classifying, make, tiny_images, monkeypatch):
    factorization, by = make(name).requires_grad_(False), attacks.get(attack, **options)
    classifier = BayesClassifier(factorization, particles=2, **classifying)
    monkeypatch.setattr(importance, "VALIDATE", False)
    batches = [
        (torch.arange(first, first + 4), *tiny_images.batch(torch.arange(first, first + 4))) for first in (0, 40)
    ]

    def attacked():
        return [by(classifier, x, y, 0.2, indices=indices) for indices, x, y in batches]

    with pyro.validation_enabled(False):
        expected = attacked()
        monkeypatch.setattr(capture, "RECORDER", recorder := OperationsRecorder())
        found = attacked()
    sparse = "negligible" in classifying  # which looks at values, and is called
    assert (recorder.captured == 0) == sparse and (recorder.replayed > 4) == (not sparse)
    for one, other in zip(expected, found):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attack", ["pgd", "mim", "apgd"])
def test_a_step_is_one_graph_for_every_eps(attack, make, tiny_images, monkeypatch):
    x, y = tiny_images.batch(slice(4))
    classifier = BayesClassifier(make("dbx").requires_grad_(False), particles=2)
    by = attacks.get(attack, steps=9)
    with pyro.validation_enabled(False):
        expected = [by(classifier, x, y, eps) for eps in (0.001, 0.002)]
        monkeypatch.setattr(capture, "RECORDER", recorder := OperationsRecorder())
        monkeypatch.setattr(importance, "VALIDATE", False)
        for eps, images, replays in zip((0.001, 0.002), expected, (9 - capture.WARM_UP, 9)):
            recorder.replayed = 0
            torch.testing.assert_close(by(classifier, x, y, eps), images, rtol=1e-4, atol=1e-6)
            assert (recorder.captured, recorder.replayed) == (1, replays)


def test_attacks_that_differ_share_no_graph(make, tiny_images, monkeypatch):
    class Both(attacks.base.Attack):
        def perturb(self, problem, eps):
            by = PGD(steps=6, random_start=False), MIM(steps=6, decay=5.0), Shaky(steps=6), Odd(steps=6, options=[])
            return torch.cat([each.perturb(problem, eps) for each in by])

    @dataclasses.dataclass(frozen=True)
    class Shaky(PGD):
        def moved(self, problem, images, along, eps, size, draw):
            images, along = super().moved(problem, images, along, eps, size, draw)
            return problem.project(images + 0.1 * (problem.uniforms(5) - 0.5), eps), along

    @dataclasses.dataclass(frozen=True)
    class Odd(PGD):
        options: list = None  # which has no hash

    x, y = tiny_images.batch(slice(4))
    classifier = BayesClassifier(make("gbz").requires_grad_(False), particles=2)
    monkeypatch.setattr(importance, "VALIDATE", False)

    def attacked():
        each = [Problem(Both(), classifier, x, y, indices) for indices in (torch.arange(4), torch.arange(9, 13))]
        return [Both().perturb(problem, 0.1) for problem in each]

    with pyro.validation_enabled(False):
        expected = attacked()
        monkeypatch.setattr(capture, "RECORDER", recorder := OperationsRecorder())
        found = attacked()
    assert recorder.captured == 4  # steps of three, and the gradient of the other one
    for one, other in zip(expected, found):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_where_a_step_can_not_be_captured_its_gradient_is(make, batch, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Looking(PGD):
        def accumulated(self, before, gradient):
            return gradient if gradient.abs().sum().item() else before

    x, y = batch
    classifier = BayesClassifier(make("dbx").requires_grad_(False), particles=2)
    monkeypatch.setattr(importance, "VALIDATE", False)
    with pyro.validation_enabled(False):
        expected = Looking(steps=9)(classifier, x, y, 0.1)
        monkeypatch.setattr(capture, "RECORDER", recorder := OperationsRecorder())
        with pytest.warns(UserWarning, match="an attack runs without a CUDA graph"):
            found = Looking(steps=9)(classifier, x, y, 0.1)
    assert recorder.captured == 1 and recorder.replayed >= 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_graph_tells_which_images_have_no_gradient(make, batch, monkeypatch):
    monkeypatch.setattr(capture, "RECORDER", OperationsRecorder())
    monkeypatch.setattr(importance, "VALIDATE", False)
    x, y = batch
    problem = Problem(by := attacks.get("pgd", steps=6), BayesClassifier(make("dfx").requires_grad_(False), 2), x, y)
    assert not problem.blind.any()
    by.perturb(problem, 0.1)
    assert not problem.blind.any()
    monkeypatch.setattr(torch.autograd, "grad", lambda loss, images: [torch.zeros_like(images)])
    other = Problem(by, BayesClassifier(make("dfx").requires_grad_(False), 2), x, y)
    by.perturb(other.of(torch.tensor([0, 2])), 0.1)
    assert other.blind.tolist() == [True, False, True, False]


def test_true_classes_are_checked_before_a_graph_runs(make, batch, monkeypatch):
    monkeypatch.setattr(capture, "RECORDER", OperationsRecorder())
    classifier = BayesClassifier(make("dbx").requires_grad_(False), particles=2)
    with pytest.raises(attacks.base.InputError, match="y must hold classes from 0 to 9, got 10 to 10"):
        attacks.fgsm(classifier, batch[0], torch.full((4,), 10), 0.1)


def test_code_of_the_users_is_called(tiny_images, monkeypatch):
    monkeypatch.setattr(capture, "RECORDER", recorder := OperationsRecorder())
    x, y = tiny_images.batch(slice(3))
    weights = torch.linspace(-1, 1, x[0].numel() * 10).reshape(-1, 10)

    def model(x, y):
        with pyro.plate("images", y.shape[-1]):
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1).to_event(3), obs=x)
            pyro.sample("y", dist.Categorical(logits=x.flatten(-3) @ weights), obs=y)

    pair = from_pyro(model, lambda x, y: None, 10, image_shape=x.shape[1:])
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), 4))
    own = build("dbx", TINY, image_shape=x.shape[1:], encoder=encoder).requires_grad_(False)
    for classifier in (pair, lambda x: x.flatten(1) @ weights, BayesClassifier(own, particles=2)):
        changed = attacks.get("pgd", steps=capture.WARM_UP + 2)(classifier, x, y, 0.1)
        assert not torch.equal(changed, x) and not recorder.captured
