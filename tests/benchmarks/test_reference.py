"""The plain reference of the benchmark computes the same numbers."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pyrobayes import BayesClassifier, TrainingOptions, build, load_data
from pyrobayes.options import MODELS, Networks
from pyrobayes.training.bounds import Inference

sys.path.insert(0, str(Path(__file__).parent))
import benchmark  # noqa: E402
from reference import Reference, elbo  # noqa: E402


@pytest.mark.parametrize("name", MODELS)
def test_reference_gives_the_same_log_joint_on_the_same_noise(name, make, batch):
    factorization, x = make(name, double=True), batch[0].double()
    classifier = BayesClassifier(factorization, particles=3).for_images(range(4))
    noise = classifier.base_noise(4).double()
    expected = Reference(factorization).log_joint(x, noise)
    torch.testing.assert_close(classifier(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_reference_gives_the_same_elbo_on_the_same_noise(name, make, batch):
    factorization, (x, y) = make(name), batch
    torch.manual_seed(0)
    expected = elbo(factorization, x, y).item()
    torch.manual_seed(0)
    assert Inference(factorization, TrainingOptions()).step(x, y).item() == pytest.approx(expected, rel=1e-5)


def test_reference_attacks_as_fgsm_does(make, tiny_images):
    factorization, (x, y) = make("gbz", double=True), tiny_images.head(20).batch(slice(None))
    classifier = BayesClassifier(factorization, particles=3)
    draws = [classifier.for_images(range(20), draw) for draw in (1, 0)]
    noise = [draw.base_noise(20).double() for draw in draws]
    clean, attacked = Reference(factorization).attack(x.double(), y, (0.0, 0.2), *noise)
    inputs = x.double().requires_grad_()
    direction = torch.autograd.grad(F.cross_entropy(draws[0](inputs), y, reduction="sum"), inputs)[0].sign()
    assert torch.equal(clean[0], draws[1](x.double()).argmax(1)) and torch.equal(clean[0], attacked[0])
    assert torch.equal(attacked[1], draws[1]((x.double() + 0.2 * direction).clamp(0, 1)).argmax(1))


@pytest.fixture
def small_benchmark(monkeypatch):
    """The benchmark without generated code, and of two eps."""
    without = {name: options for name, options in benchmark.OURS.items() if "compile" not in options}
    monkeypatch.setattr(benchmark, "OURS", without)
    monkeypatch.setattr(benchmark, "SAME", ["float32"])
    monkeypatch.setattr(benchmark, "EPS", (0.0, 0.1))
    return build("gbz", Networks(latent=4, hidden=8, channels=4)).eval().requires_grad_(False)


def test_the_benchmark_measures_what_it_says(small_benchmark):
    cpu, (x, y) = torch.device("cpu"), load_data("fashion-mnist-mini", "test").head(3).batch(slice(None))
    joint = benchmark.log_joint(small_benchmark, x, cpu, 1)
    assert joint["largest_difference_nats"]["float32"] < 1e-3
    parts = benchmark.profile(small_benchmark, x, cpu, 1)
    assert parts.keys() == {"float32", "bf16"} and len(parts["bf16"]["share"]) == 4
    assert all(share > 0 for each in parts.values() for share in each["share"].values())
    swept = benchmark.sweep(small_benchmark, x, y, cpu, 1)
    assert swept["same_predictions"]["float32"] == 1
    assert benchmark.agreement("dbx", 5, cpu, precision="bf16") == {"images": 5, "agree": 1}


def test_the_benchmark_refuses_other_numbers(small_benchmark, monkeypatch):
    x = load_data("fashion-mnist-mini", "test").head(3).batch(slice(None))[0]
    monkeypatch.setattr(Reference, "log_joint", lambda self, x, noise: torch.zeros(len(x), 10))
    with pytest.raises(SystemExit, match="differ from the reference's by more than rounding"):
        benchmark.log_joint(small_benchmark, x, torch.device("cpu"), 1)


def test_peak_memory_is_of_the_process_alone():
    held = torch.ones(2**28)  # 1 GiB, which a child's figure must not take in
    assert 0.1 < benchmark.memory(1, 1) < 0.9
    del held


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is that of the parent too")
def test_the_peak_does_not_grow_with_the_number_of_parts():
    few, many = (benchmark.memory(50, images, networks="tiny", budget=16) for images in (5, 25))
    assert many - few < 30 / 1024  # GiB
