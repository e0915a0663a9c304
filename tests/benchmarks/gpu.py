"""Tests and timings on a GPU, in one call of under four minutes: `make gpu`, or `python tests/benchmarks/gpu.py --help`.

First the tests that need a GPU run, then the table of docs/performance.md is measured. Everything goes into one JSON file, which is
written after each part, so that a run that is cut off keeps what it has. Only the embedded images are needed; where more
are told, they are repeated.
"""

import contextlib
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import pyro
import torch
from benchmark import seconds
from reference import Reference, elbo

import pyrobayes
from pyrobayes import BayesClassifier, Images, Networks, TrainingOptions, attacks, devices, evaluation
from pyrobayes.devices import choose_device
from pyrobayes.evaluation.images import approximation, gradient_signs
from pyrobayes.inference import capture
from pyrobayes.options import EPS, MODELS
from pyrobayes.training import fit as fit_module
from pyrobayes.training.bounds import Inference
from pyrobayes.training.checkpoint import versions
from pyrobayes_cli.main import main as main_command

ROOT = Path(__file__).parents[2]
TEST_SECONDS, ALL_SECONDS = 110, 230  # the tests are cut off, and a part that would end later is left out
EXPECTED = {"trainings": 25, "verdict": 60, "compiled": 60}  # seconds that a part is given to take; others 10
PRECISIONS = ("fp32", "tf32", "bf16")


class Setting:
    """The device, and how much is measured on it: all, or as little as tells that the script works."""

    def __init__(self, device: str, small: bool):
        self.device, self.small = choose_device(device), small
        self.models = ("gbz",) if small else MODELS
        self.networks = Networks(latent=4, hidden=8, channels=4) if small else "paper"
        self.precisions = PRECISIONS if self.device.type == "cuda" else ("fp32", "bf16")

    def build(self, name: str):
        """A model with fresh weights, on the device."""
        return pyrobayes.build(name, self.networks).to(self.device)

    def shipped(self, name: str, **options) -> BayesClassifier:
        """A model that comes with the package; a tiny one where little is measured."""
        if self.small:
            return BayesClassifier(self.build(name).eval().requires_grad_(False), particles=1, **options)
        return pyrobayes.pretrained(name, device=str(self.device), **options)

    def images(self, split: str, count: int) -> Images:
        """The embedded images, repeated to `count`; a few where little is measured."""
        data, count = pyrobayes.load_data("fashion-mnist-mini", split), 5 if self.small else count
        return data.take(torch.arange(count) % len(data))

    def batch(self, count: int) -> torch.Tensor:
        """Test images [count, 1, 28, 28] on the device."""
        return self.images("test", count).batch(slice(None))[0].to(self.device)

    def median(self, task: Callable, rounds: int = 5, warm: int = 2) -> float:
        """Seconds that a call takes, the median of some after a few that aren't counted."""
        rounds, warm = (1, 0) if self.small else (rounds, warm)
        for _ in range(warm):
            task()
        return statistics.median(seconds(task, self.device) for _ in range(rounds))


class Calls:
    """A recorder that captures nothing."""

    def serves(self, given: tuple) -> bool:
        return False


@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Within, everything is called."""
    before, capture.RECORDER = capture.RECORDER, Calls()
    try:
        yield
    finally:
        capture.RECORDER = before


def agreement(at: Setting) -> dict:
    """Log joints against those of the CPU with the same noise: the largest difference in nats, and the share of equal predictions."""
    found, (x, _) = {}, at.images("test", 200).batch(slice(None))
    for name in at.models:
        on_cpu, there = Setting("cpu", at.small).shipped(name), at.shipped(name)
        with torch.no_grad():
            expected, ours = (each.for_images(torch.arange(len(x)))(x) for each in (on_cpu, there))
        same = (expected.argmax(1) == ours.argmax(1)).float().mean().item()
        found[name] = {"max_nats": (expected - ours).abs().max().item(), "same_predictions": same}
    return found


def by_hand(at: Setting, name: str, x, y, graph: bool) -> Callable[[], object]:
    """A step as one writes it without Pyro, called or as a graph of its own."""
    factorization = at.build(name)
    on_gpu = at.device.type == "cuda"
    adam = torch.optim.Adam(factorization.parameters(), lr=1e-3, fused=True, capturable=on_gpu and graph)

    def step() -> None:
        adam.zero_grad()
        (-elbo(factorization, x, y)).backward()
        adam.step()

    if not (graph and on_gpu):
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    return captured.replay


def training_steps(at: Setting) -> dict:
    """Milliseconds of a step: ours replayed, ours called, by hand, by hand as a graph. TF32 is off, as in training."""
    found, steps = {}, 1 if at.small else 10
    for name, batch in itertools.product(at.models, (8,) if at.small else (64, 512)):
        x, y = at.images("train", batch).to(at.device).batch(slice(None))
        inference, other = (Inference(at.build(name), TrainingOptions()) for _ in range(2))
        tasks = {
            "ours": partial(inference.step, x, y),
            "ours, called": partial(other.step, x, y),
            "by hand": by_hand(at, name, x, y, graph=False),
            "by hand, a graph": by_hand(at, name, x, y, graph=True),
        }
        for what, task in tasks.items():
            with (
                without_graphs() if what == "ours, called" else contextlib.nullcontext(),
                devices.tf32(False, at.device),
            ):
                took = at.median(lambda task=task: [task() for _ in range(steps)])
            found.setdefault(f"{name}, batch {batch}", {})[what] = 1e3 * took / steps
    return found


def gradient(log_joint: Callable, x: torch.Tensor) -> None:
    """The gradient of log p(x) in the images."""
    images = x.clone().requires_grad_()
    torch.autograd.grad(log_joint(images).logsumexp(1).sum(), images)


def classifying(at: Setting, images: int, log_joint: Callable, parts: int = 1) -> dict:
    """Microseconds an image of a log joint, and of the gradient with it, of that many images or a part of them."""
    x = at.batch(images)
    with torch.no_grad():
        joint = at.median(lambda: log_joint(x), rounds=3, warm=1) / len(x)
    few = x[: max(1, len(x) // parts)]
    return {"log joint": 1e6 * joint, "gradient": 1e6 * at.median(lambda: gradient(log_joint, few), 3, 1) / len(few)}


def log_joints(at: Setting) -> dict:
    """GBZ, ten particles: the plain reference as PyTorch computes by itself, and each precision with default options."""
    factorization = at.build("gbz").eval().requires_grad_(False)
    reference, noise = Reference(factorization), torch.randn(10, 1, 1000, factorization.latent, device=at.device)
    plain = lambda x: reference.log_joint(x, noise[:, :, : len(x)])  # noqa: E731
    found = {"reference, PyTorch's defaults": classifying(at, 250, plain)}
    for precision in at.precisions:
        classifier = BayesClassifier(factorization, precision=precision)
        with classifier.precisely():  # the gradient is taken outside of the package
            found[precision] = classifying(at, 1000, classifier)
    return found


def memory_and_tiles(at: Setting) -> dict:
    """Time and GiB at the peak by the memory, the decoder's tile and the search for convolutions: GBZ, 1,000 images."""
    factorization, found, on_gpu = at.build("gbz").eval().requires_grad_(False), {}, at.device.type == "cuda"
    settings = [(512, 64, False), (2560, 64, False), (8192, 64, False), (8192, 256, False), (8192, 1024, False)]
    for memory, tile, search in [*settings, (8192, 1024, True)][: 1 if at.small else None]:
        before = devices.tile_bytes, torch.backends.cudnn.benchmark
        pyrobayes.factorizations.networks.tile_bytes = lambda device, tile=tile: tile * 2**20
        torch.backends.cudnn.benchmark = search
        try:
            for precision in ("fp32", "bf16"):
                if on_gpu:
                    torch.cuda.reset_peak_memory_stats()
                classifier = BayesClassifier(factorization, precision=precision, memory=memory)
                what = f"{precision}, {memory} MiB, tile {tile} MiB{', cudnn.benchmark' * search}"
                with classifier.precisely():
                    found[what] = classifying(at, 1000, classifier)
                found[what]["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
        finally:
            pyrobayes.factorizations.networks.tile_bytes, torch.backends.cudnn.benchmark = before
    return found


def precisions(at: Setting) -> dict:
    """Shares of the predictions and of the signs of the gradient that a precision changes from fp32, shipped models."""
    found = {}
    for name, precision in itertools.product(at.models, at.precisions[1:]):
        classifier = at.shipped(name, precision=precision)
        told = approximation, gradient_signs
        data = at.images("test", 500)
        shares = [rate(classifier, data).share for rate in told]
        found[f"{name}, {precision}"] = dict(zip(("predictions", "signs"), shares))
    return found


def sweep(at: Setting) -> dict:
    """Seconds of `attack gbz` on 10,000 images with seven eps, by precision."""
    data, found = at.images("test", 10_000), {}
    for precision in at.precisions:
        classifier = at.shipped("gbz", precision=precision)
        attack = partial(evaluation.attack, classifier, eps=EPS, checked=0, progress=None)
        attack(data.head(min(len(data), 1000)))
        found[precision] = seconds(lambda attack=attack: attack(data), at.device)
    return found


def iterated(at: Setting) -> dict:
    """Seconds of PGD with 40 steps on 1,000 images, small GBZ, bf16 and fp32; replayed and called."""
    data, found = at.images("test", 1000), {}
    by = attacks.get("pgd", steps=4 if at.small else 40)
    for precision in ("bf16", "fp32"):
        classifier = at.shipped("gbz", precision=precision)
        attack = partial(evaluation.attack, classifier, data, [0.1], by=by, checked=0, progress=None)
        attack()
        found[precision] = seconds(attack, at.device)
        with without_graphs():
            found[f"{precision}, called"] = seconds(attack, at.device)
    return found


def trainings(at: Setting) -> dict:
    """Seconds of an epoch as `train` runs it: GBZ of 60,000 images; and of adversarial training of a small GBZ, of a fifth."""
    plain = TrainingOptions(epochs=1 if at.small else 2, batch_size=8 if at.small else 64)
    hard = TrainingOptions(
        epochs=1, batch_size=8 if at.small else 512, adversarial_eps=0.1, adversarial_steps=2 if at.small else 10
    )
    found = {}
    for tf32 in (False, True)[: len(at.precisions) - 1]:
        fit_module.TRAINING_TF32 = tf32
        epochs = pyrobayes.fit(at.build("gbz"), at.images("train", 60_000), plain, progress=None)
        found[f"gbz{', tf32' * tf32}"] = epochs[-1].seconds
    fit_module.TRAINING_TF32 = False
    small = pyrobayes.build("gbz", at.networks if at.small else "small").to(at.device)
    found["adversarial, a fifth"] = pyrobayes.fit(small, at.images("train", 12_000), hard, progress=None)[0].seconds
    return found


def verdict(at: Setting) -> dict:
    """Seconds of `robustness gbz --quick --pretrained`, with the start of no program."""
    if at.small:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        command = ["robustness", "gbz", "--quick", "--pretrained", "--out", folder, "--device", str(at.device)]
        return {"seconds": seconds(lambda: main_command(command, standalone_mode=False), at.device)}


COMPILED = """
import sys, time, torch, pyrobayes
device = sys.argv[1]
classifier = pyrobayes.pretrained("gbz", device=device, compile=True)
x = pyrobayes.load_data("fashion-mnist-mini", "test").head(1000).batch(slice(None))[0].to(device)
start = time.time()
with torch.no_grad():
    classifier(x), torch.cuda.synchronize()
    first = time.time() - start
    classifier(x), torch.cuda.synchronize()
print(first, 1e6 * (time.time() - start - first) / len(x))
"""


def compiled(at: Setting) -> dict:
    """`--compile`: seconds until the first answer, microseconds an image then, and how many lines it writes on the screen."""
    if at.device.type != "cuda":
        return {}
    command = [sys.executable, "-c", COMPILED, str(at.device)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    first, later = map(float, run.stdout.split()[-2:])
    return {"first_seconds": first, "us_an_image": later, "lines": len(run.stderr.splitlines())}


# In this order: what a person waits for most comes first.
PARTS = (
    agreement,
    training_steps,
    log_joints,
    sweep,
    iterated,
    trainings,
    precisions,
    memory_and_tiles,
    verdict,
    compiled,
)


def tested(device: str) -> dict:
    """The tests that need a GPU: how many passed, and the lines that tell of the others."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py", "-p", "no:cacheprovider"]
    command += ["-p", "no:benchmark", "-p", "no:xdist", "--tb=short"]
    start, told = time.time(), ""
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=TEST_SECONDS, cwd=ROOT).stdout
    except subprocess.TimeoutExpired as late:
        told = (late.stdout or b"").decode() + f"\ncut off after {TEST_SECONDS} seconds"
    lines = told.splitlines()
    failed = [line for line in lines if re.match("FAILED|ERROR", line)]
    return {
        "seconds": time.time() - start,
        "failed": failed,
        "end": lines[-1:],
        "output": told[-20_000:] if failed else "",
    }


def measure(
    at: Setting, out: Path, result: dict, parts: tuple[Callable, ...] = PARTS, left: float = ALL_SECONDS
) -> dict:
    """Measure parts of the table while there are seconds left, and write the file after each; a part that fails is told in it."""
    end = time.time() + left
    for part in parts:
        began = time.time()
        if began + EXPECTED.get(part.__name__, 10) > end:
            result[part.__name__] = {"left out": "no time was left"}
        else:
            try:
                with pyro.validation_enabled(False):
                    result[part.__name__] = part(at)
            except Exception:
                result[part.__name__] = {"error": traceback.format_exc()[-2000:]}
            result[part.__name__]["took_seconds"] = time.time() - began
        out.write_text(json.dumps(result, indent=1) + "\n")
        click.echo(f"{part.__name__}: {json.dumps(result[part.__name__])}")
    return result


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--small", is_flag=True, help="measure next to nothing: tells whether the script works")
@click.option("--tests/--no-tests", default=True, help="run the tests that need a GPU first")
@click.option("--parts", help="measure these parts of the table alone, a comma list")
@click.option("--out", default="gpu.json", show_default=True, type=click.Path(path_type=Path))
def main(device, small, tests, parts, out):
    """Test and measure on a GPU, and write everything as JSON."""
    start, at = time.time(), Setting(device, small)
    name = torch.cuda.get_device_name(at.device) if at.device.type == "cuda" else "cpu"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    result = {"machine": name, "versions": versions(), "commit": commit, "date": time.strftime("%Y-%m-%d")}
    if tests:
        result["tests"] = tested(device)
        click.echo(f"tests: {result['tests']['end']} {result['tests']['failed']}")
    chosen = PARTS if parts is None else [part for part in PARTS if part.__name__ in parts.split(",")]
    measure(at, out, result, chosen, ALL_SECONDS - (time.time() - start))


if __name__ == "__main__":
    main()
