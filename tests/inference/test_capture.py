"""Captured functions, with a recorder that needs no CUDA device: its graphs call the function on the buffers."""

import copy
import pickle
import warnings

import pyro
import pytest
import torch
from support import OperationsRecorder

from pyrobayes import TrainingOptions, fit
from pyrobayes.inference import capture, importance
from pyrobayes.inference.capture import KEPT, WARM_UP, Captured, Graphs
from pyrobayes.training.bounds import Inference

STEP = Inference.step


class FakeRecorder:
    """Records what was warmed up, captured and replayed; `fails` lets every capture fail."""

    def __init__(self, fails=False):
        self.fails, self.warmed_up, self.captured, self.replayed = fails, 0, 0, 0

    def serves(self, given):
        return True

    def warm_up(self, function, given):
        self.warmed_up += 1
        return function(*given)

    def record(self, function, buffers):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.captured += 1

        def replay():
            self.replayed += 1
            return function(*buffers)

        return replay


@pytest.fixture
def recorder(monkeypatch):
    """The fake recorder in place of that of CUDA."""
    monkeypatch.setattr(capture, "RECORDER", FakeRecorder())
    return capture.RECORDER


def test_a_function_is_captured_after_some_calls_and_again_for_other_shapes(recorder):
    total = torch.zeros(())

    def add(x, y):
        total.add_(x.sum())
        return 2 * x, None if y is None else y + 1

    def both(x, y=None):
        return add(x, y)[0]

    captured = Captured(both, "it")
    for number in range(1, 7):
        x = torch.full((3,), float(number))
        assert torch.equal(captured(x, None), 2 * x)
    assert total == 3 * 21  # every call counted, and the capture didn't
    assert (recorder.warmed_up, recorder.captured, recorder.replayed) == (WARM_UP, 1, 3)
    captured(torch.ones(2), None), captured(torch.ones(3).double(), None), captured(torch.ones(3), torch.ones(3))
    assert recorder.warmed_up == WARM_UP + 3 and recorder.captured == 1


def test_buffers_take_what_has_changed():
    batch, numbers = torch.zeros(3), torch.arange(3)
    buffers = capture.Buffers((batch, numbers, None, 2, 0.1))
    kept, moved, none, count, size = buffers.tensors
    assert none is None and (count.dtype, size.dtype) == (torch.long, torch.float64)
    kept.fill_(5), moved.fill_(5)
    buffers.fill((batch, numbers, None, 3, 0.1))
    assert kept.tolist() == [5.0] * 3 and moved.tolist() == [5] * 3 and (count, size) == (3, 0.1)
    buffers.fill((batch.add_(1), numbers.clone(), None, 3, 0.3))
    assert kept.tolist() == [1.0] * 3 and moved.tolist() == [0, 1, 2] and (count, size) == (3, 0.3)
    with torch.inference_mode():
        batch = torch.ones(3)
    for value in (2.0, 3.0):
        with torch.inference_mode():
            batch.fill_(value)
        buffers.fill((batch, numbers, None, 3, 0.3))
        assert kept.tolist() == [value] * 3


def test_what_a_replay_gives_is_a_copy(recorder):
    result = torch.zeros(2)
    captured = Captured(lambda x: (result.copy_(x), result), "it")
    first, *_ = [captured(torch.full((2,), float(number)))[1] for number in range(WARM_UP + 2)][WARM_UP:]
    assert torch.equal(first, torch.full((2,), float(WARM_UP)))


def test_the_graphs_that_were_not_used_for_longest_go(recorder):
    captured = Captured(lambda x: x + 1, "it")
    for size in range(1, KEPT + 4):
        for _ in range(WARM_UP + 1):
            captured(torch.zeros(size))
    assert recorder.captured == KEPT + 3 and len(captured._graphs) == len(captured._calls) == KEPT


def test_a_capture_that_fails_is_told_once_and_the_function_called(recorder):
    recorder.fails, forgotten = True, []
    captured = Captured(lambda x: x + 1, "an attack", forget=lambda: forgotten.append(True))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for number in range(WARM_UP + 4):
            assert captured(torch.tensor(float(number))) == number + 1
    assert [str(each.message) for each in told] == [
        "an attack runs without a CUDA graph, and slower: the capture failed (operation not permitted when stream is capturing)"
    ]
    assert forgotten == [True] and captured.failed


def test_graphs_are_kept_by_key_and_never_copied(recorder):
    graphs = Graphs()
    first = graphs.of("a", lambda: Captured(torch.sin, "it"))
    assert graphs.of("a", lambda: None) is first and graphs.of("b", lambda: 1) == 1
    assert not copy.deepcopy(graphs)._captured and not pickle.loads(pickle.dumps(graphs))._captured
    for key in range(KEPT + 3):
        graphs.of(key, lambda key=key: str(key))
    assert len(graphs._captured) == KEPT and graphs.of("a", lambda: "new") == "new"


def test_a_cpu_is_not_served():
    assert not capture.serves(torch.zeros(2), None)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train_particles": 2, "antithetic": True, "augmentation": "shift", "averaging": 0.9},
        {"adversarial_eps": 0.1, "adversarial_steps": 1, "train_particles": 2, "bound": "importance-weighted"},
    ],
)
def test_a_captured_training_gives_the_weights_of_one_that_is_called(options, make, tiny_images, monkeypatch):
    called, captured = make("gbz"), make("gbz")
    options = TrainingOptions(epochs=1, batch_size=9, lr=1e-3, schedule="constant", **options)
    images = tiny_images.head(76)  # 70 are trained on: the last batch has 7
    expected, adams = fit(called, images, options), []
    monkeypatch.setattr(importance, "VALIDATE", False)
    monkeypatch.setattr(Inference, "step", lambda self, *given: adams.append(self) or STEP(self, *given))
    state = lambda: [*captured.parameters(), *(v for k, v in sorted(adams[-1].optim.state().items()))]  # noqa: E731
    monkeypatch.setattr(capture, "RECORDER", recorder := OperationsRecorder(state))
    epochs = fit(captured, images, options)
    assert [epoch.elbo for epoch in epochs] == pytest.approx([epoch.elbo for epoch in expected], rel=1e-5)
    assert recorder.captured >= 1 and recorder.replayed >= 4
    for one, other in zip(called.parameters(), captured.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_failed_capture_leaves_no_gradients(make, batch, monkeypatch):
    monkeypatch.setattr(capture, "RECORDER", FakeRecorder(fails=True))
    factorization = make("dbx")
    inference = Inference(factorization, TrainingOptions())

    def half(*given):
        factorization.q_z.network.layers[0].weight.grad = torch.full_like(
            factorization.q_z.network.layers[0].weight, 1e9
        )
        raise RuntimeError("out of memory")

    capture.RECORDER.record = half
    with pytest.warns(UserWarning, match="a training step runs without"), pyro.validation_enabled(False):
        for _ in range(WARM_UP + 1):
            inference.step(*batch)
    assert all(weight.isfinite().all() and weight.abs().max() < 100 for weight in factorization.parameters())
