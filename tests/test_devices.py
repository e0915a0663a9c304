"""The device settles precision, memory and batches, and has a name; none of these tests needs a GPU."""

import dataclasses

import pytest
import torch
from support import invoke

from pyrobayes import BayesClassifier, EvaluationOptions, InputError, RobustnessOptions, attacks, devices
from pyrobayes.device_options import AUTO_PRECISION
from pyrobayes.devices import GiB, batch_size_of, choose_device, memory_of, settled, tf32, tile_of
from pyrobayes.options import ClassifierOptions

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs that answer questions, and can't compute."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    "name, device",
    [
        ("auto", "cuda:0"),
        ("cuda", "cuda:0"),
        ("CUDA", "cuda:0"),
        ("cuda:1", "cuda:1"),
        (torch.device("cuda:0"), "cuda:0"),
        ("CPU", "cpu"),
    ],
)
def test_a_gpu_is_taken_by_its_number(name, device, two_gpus):
    assert choose_device(name) == torch.device(device)


@pytest.mark.parametrize(
    "name, told",
    [
        ("cuda:2", "device cuda:2 was asked for, but the GPUs here are cuda:0 to cuda:1"),
        ("cuda:x", "unknown device 'cuda:x': known are auto, cpu, cuda, mps, and cuda:0"),
        ("cpu:1", "unknown device 'cpu:1'"),
        ("gpu", "unknown device 'gpu'"),
        ("mps:0", "unknown device 'mps:0'"),
    ],
)
def test_a_gpu_that_is_not_there_is_told(name, told, two_gpus):
    with pytest.raises(InputError, match=told):
        choose_device(name)


@pytest.mark.parametrize(
    "rank, name, told",
    [
        ("1", "cuda", None),
        ("1", "cuda:0", "under torchrun each process takes the GPU of its own number: take device cuda, not cuda:0"),
        ("2", "cuda", "process 2 of this machine has no GPU of its own, there are 2: start torchrun"),
    ],
)
def test_each_process_of_torchrun_has_its_gpu(rank, name, told, two_gpus, monkeypatch):
    for variable, value in (("WORLD_SIZE", "3"), ("RANK", rank), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(variable, value)
    if told:
        with pytest.raises(InputError, match=told):
            choose_device(name)
    else:
        assert choose_device(name) == torch.device("cuda", 1)


def test_the_command_line_takes_a_gpu_by_its_number():
    assert "device cuda:1 was asked for, but this torch" in invoke("evaluate", "gbz", "--device", "cuda:1").stderr
    assert "unknown device 'cuda1'" in invoke("evaluate", "gbz", "--device", "cuda1").stderr


@pytest.mark.parametrize(
    "free, memory, batch_size, tile",
    [
        (79 * GiB, 8192, 1000, GiB),  # a card of 80 GB
        (7 * GiB, 3072, 384, 384 * 2**20),  # one of 8 GB
        (2 * GiB, 512, 100, 64 * 2**20),
        (0, 128, 100, 64 * 2**20),
    ],
)
def test_limits_follow_from_what_is_free(free, memory, batch_size, tile):
    assert (memory_of(free), batch_size_of(memory), tile_of(memory)) == (memory, batch_size, tile)


def test_options_are_settled_by_the_device(monkeypatch):
    monkeypatch.setattr(devices, "free_bytes", lambda device: 7 * GiB if device.type == "cuda" else None)
    on_cpu, on_gpu = (settled(EvaluationOptions(), device) for device in (CPU, CUDA))
    assert (on_cpu.precision, on_cpu.memory, on_cpu.batch_size) == ("fp32", 512, 100)
    assert (on_gpu.precision, on_gpu.memory, on_gpu.batch_size) == (AUTO_PRECISION["cuda"], 3072, 384)
    given = RobustnessOptions(precision="bf16", memory=7, batch_size=3)
    assert settled(given, CUDA) is given and settled(given, CPU) is given
    # A sparse gradient depends on the memory, which must not depend on the card.
    assert settled(EvaluationOptions(negligible=0.01), CUDA).memory == 512
    assert on_cpu.decisive == on_gpu.decisive == EvaluationOptions(memory=9, precision="fp32").decisive


def test_tf32_is_refused_on_a_cpu_and_auto_is_float32(make, batch):
    factorization = make("dbx")
    plain, automatic = (BayesClassifier(factorization, noise="fixed", precision=p) for p in ("fp32", "auto"))
    assert torch.equal(plain(batch[0]), automatic(batch[0])) and automatic.options == plain.options
    with pytest.raises(InputError, match="precision tf32 is that of CUDA devices, and the device is cpu: take fp32"):
        BayesClassifier(factorization, precision="tf32")(batch[0])
    told = invoke("evaluate", "dbx", "--pretrained", "--device", "cpu", "--precision", "tf32")
    assert told.exit_code == 1 and "Error: precision tf32 is that of CUDA devices" in told.stderr


def settings():
    """The user's settings of TF32, by the old names and the new ones."""
    values = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    cudnn = getattr(torch.backends.cudnn, "conv", None)
    if not hasattr(cudnn, "fp32_precision"):
        return values
    matmul = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
    return (*values, cudnn.fp32_precision, *matmul)


@pytest.mark.parametrize("products", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_the_users_settings_of_tf32_come_back(products, convolutions):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
        theirs = settings()
        for allowed in (True, False):
            with pytest.raises(KeyError), tf32(allowed, CUDA):
                assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
                raise KeyError
            assert settings() == theirs
        with tf32(True, CPU):
            assert settings() == theirs
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="this torch has the old names alone"
)
def test_settings_by_the_new_names_come_back():
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    try:
        matmul.fp32_precision, conv.fp32_precision = "tf32", "ieee"  # the old names now disagree, and can't be read
        with tf32(False, CUDA):
            assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")
        assert (matmul.fp32_precision, conv.fp32_precision) == ("tf32", "ieee")
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def test_an_attack_computes_with_the_precision_of_its_classifier(make, batch, monkeypatch):
    seen = []
    monkeypatch.setattr(
        BayesClassifier, "precisely", lambda self: seen.append(self.options.precision) or tf32(False, CPU)
    )
    classifier = BayesClassifier(make("dbx").requires_grad_(False), particles=2, precision="bf16")
    attacks.fgsm(classifier, *batch, 0.1)
    assert seen == ["bf16"] * 3  # around the attack, its gradient and the estimate


def test_options_of_results_made_before_are_read_as_they_were():
    stored = {"particles": 10, "noise": "fresh", "seed": 0, "precision": "fp32", "memory": 512}
    old = ClassifierOptions(**stored)
    assert old.decisive == settled(ClassifierOptions(), CPU).decisive
    assert dataclasses.replace(old, precision="bf16").decisive["precision"] == "bf16"
