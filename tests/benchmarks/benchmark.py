"""Speed and memory against a plain reference: `make benchmark`, or `python tests/benchmarks/benchmark.py --help`.

Ours and the reference have the same weights and the same noise and run alternately in one process; reported are
medians, ratios, and what the machine's matrix products allow. docs/performance.md explains the rows.
"""

import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import pyro
import torch
from reference import Reference, elbo
from torch.utils.flop_counter import FlopCounterMode

import pyrobayes
from pyrobayes import BayesClassifier, TrainingOptions, evaluation
from pyrobayes.device_options import MEMORY as DEFAULT_MEMORY
from pyrobayes.devices import choose_device
from pyrobayes.evaluation.images import approximation
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.training.bounds import Inference
from pyrobayes.training.checkpoint import versions

EPS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
OURS = {
    "float32": {},
    "float32, compiled": {"compile": True},
    "bf16": {"precision": "bf16"},
    "bf16, compiled": {"precision": "bf16", "compile": True},
}
SAME = ["float32", "float32, compiled"]  # as the reference, but for rounding
ROUNDING = 0.01  # nats, of log joints of some hundred
TILES = 4  # of the decoder, whose layers are timed
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
# What leaves something out of an attack or a classification; the share of the same predictions is told.
LEAVING_OUT = {
    "float32, negligible 0.01": {"negligible": 0.01},
    "float32, negligible, prune 10": {"negligible": 0.01, "prune": 10.0},
    "bf16, negligible 0.01": {"precision": "bf16", "negligible": 0.01},
    "bf16, negligible, prune 10": {"precision": "bf16", "negligible": 0.01, "prune": 10.0},
}


def seconds(task: Callable, device: torch.device) -> float:
    """What a call takes, with all that it started on the device."""
    start = time.perf_counter()
    task()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def alternate(tasks: dict[str, Callable], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of each task, run in turn, every other time in reverse, after one round that isn't counted."""
    times = {name: [] for name in tasks}
    for count in range(rounds + 1):
        for name in reversed(tasks) if count % 2 else tasks:
            took = seconds(tasks[name], device)
            if count:
                times[name].append(took)
    return times


def median_ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """The median over rounds of how much longer one took than the other."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast]))


def matrix_product(dtype: torch.dtype, device: torch.device) -> tuple[Callable, float]:
    """A large matrix product, and its GFLOP."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device).to(dtype)
    return lambda: a @ a, 2 * size**3 / 1e9


def ceilings(device: torch.device) -> dict[str, float]:
    """GFLOP/s of a large matrix product in float32 and bfloat16, the best of several."""
    products = {name: matrix_product(dtype, device) for name, dtype in DTYPES.items()}
    return {
        name: gflop / min(seconds(product, device) for _ in range(10)) for name, (product, gflop) in products.items()
    }


def bandwidth(device: torch.device) -> float:
    """GB/s of a copy that no cache holds, bytes read and written, the best of several."""
    source = torch.zeros(2**30 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = min(seconds(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * len(source) / best / 1e9


def trained(model: str, device: torch.device, epochs: int):
    """A model with the networks of the paper, trained on the embedded images."""
    factorization = pyrobayes.build(model).to(device)
    images = pyrobayes.load_data("fashion-mnist-mini", "train")
    pyrobayes.fit(factorization, images, TrainingOptions(epochs=epochs, batch_size=32))
    return factorization.eval().requires_grad_(False)


def log_joint(factorization, x, device, rounds: int) -> dict:
    """Milliseconds an image of the log joint, ours and the reference's; refused unless they agree to rounding.

    Over the floor: how much longer float32 takes than its arithmetic would at the rate of a large matrix product, which runs
    in turn with it.
    """
    reference = Reference(factorization)
    classifiers = {name: BayesClassifier(factorization, **o).for_images(range(len(x))) for name, o in OURS.items()}
    noise = classifiers["float32"].base_noise(len(x)).to(device)
    product, gflop = matrix_product(torch.float32, device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        expected = reference.log_joint(x, noise)
    needed = counter.get_total_flops() / 1e9
    with torch.no_grad():
        differences = {
            name: (each(x) - expected).abs().max().item() for name, each in classifiers.items() if name in SAME
        }
        if max(differences.values()) > ROUNDING:
            raise SystemExit(
                f"log joints differ from the reference's by more than rounding, {ROUNDING} nats: {differences}"
            )
        tasks = {"reference": lambda: reference.log_joint(x, noise), "product": product}
        tasks |= {name: lambda c=classifier: c(x) for name, classifier in classifiers.items()}
        times = alternate(tasks, device, rounds)
    return {
        "flop_per_image": 1e9 * needed / len(x),
        "largest_difference_nats": differences,
        "ms_per_image": {
            name: 1e3 * statistics.median(took) / len(x) for name, took in times.items() if name != "product"
        },
        "speed_up": {name: median_ratio(times, "reference", name) for name in classifiers},
        "over_floor": {name: median_ratio(times, name, "product") * gflop / needed for name in SAME},
    }


def sweep(factorization, x, y, device, rounds: int) -> dict:
    """Milliseconds an image of FGSM over seven eps with clean accuracy, and whether the predictions agree."""
    reference, images = Reference(factorization), pyrobayes.load_data("fashion-mnist-mini", "test").head(len(x))
    classifiers = {name: BayesClassifier(factorization, **options) for name, options in (OURS | LEAVING_OUT).items()}
    numbers = range(len(x))
    draws = [classifiers["float32"].for_images(numbers, draw) for draw in (NoiseStream.ATTACKER, NoiseStream.DEFENDER)]
    noise = [draw.base_noise(len(x)).to(device) for draw in draws]
    kept = {}

    def ours(name):
        kept[name] = evaluation.attack(classifiers[name], images, EPS, checked=0)

    tasks = {"reference": lambda: kept.update(reference=reference.attack(x, y, EPS, *noise))}
    tasks |= {name: lambda name=name: ours(name) for name in classifiers}
    times = alternate(tasks, device, rounds)
    expected = kept["reference"][1].cpu()
    return {
        "ms_per_image": {name: 1e3 * statistics.median(took) / len(x) for name, took in times.items()},
        "speed_up": {name: median_ratio(times, "reference", name) for name in classifiers},
        "same_predictions": {
            name: (torch.tensor(kept[name].predictions) == expected).float().mean().item() for name in classifiers
        },
    }


def profile(factorization, x, device, rounds: int) -> dict:
    """What bounds a log joint and a sweep: shares of the log joint that each layer of the decoder takes alone.

    And GFLOP/s of each; and how many log joints a gradient takes.
    """
    profiles = {}
    for name, dtype in DTYPES.items():
        classifier = BayesClassifier(factorization, **OURS[name]).for_images(range(len(x)))
        decodings = classifier.options.particles * factorization.num_classes * len(x)
        decoder = classifier._networks.of(classifier.options).p_x.decoder
        weight = decoder.linear.weight
        hidden = torch.randn(decoder.tile, weight.shape[1], device=device).to(dtype)
        names = ["linear", *(f"to {layer.after[0]}x{layer.after[1]} pixels" for layer in decoder.convolutions)]

        def gradient(classifier=classifier):
            with torch.enable_grad():
                images = x.clone().requires_grad_()
                torch.autograd.grad(classifier(images).logsumexp(1).sum(), images)

        with torch.no_grad():
            convolutions = decoder.prepared()
            given = [hidden, *decoder.layers(convolutions, hidden)[:-1]]
            tasks = {"log joint": partial(classifier, x), "gradient": gradient}
            layers = zip(names, [decoder.linear, *convolutions], given)
            for layer, module, value in layers:
                tasks[layer] = lambda module=module, value=value: [module(value) for _ in range(TILES)]
            times = alternate(tasks, device, 2 * rounds)
        flop = [2 * weight.numel()]
        flop += [2 * layer.weight.numel() * math.prod(layer.before) for layer in decoder.convolutions]
        computed = TILES * len(hidden)
        profiles[name] = {
            "share": {layer: median_ratio(times, layer, "log joint") * decodings / computed for layer in names},
            "gflops": {
                layer: each * computed / statistics.median(times[layer]) / 1e9 for layer, each in zip(names, flop)
            },
            "gradient": median_ratio(times, "gradient", "log joint"),
        }
    return profiles


def training_step(model: str, device, rounds: int, batch: int = 128) -> dict:
    """Milliseconds of an SVI step, and of a step written by hand with the same networks and one fused Adam."""
    images = pyrobayes.load_data("fashion-mnist-mini", "train").to(device)
    ours, by_hand = (pyrobayes.build(model).to(device) for _ in range(2))
    adam = torch.optim.Adam(by_hand.parameters(), lr=1e-3, fused=True)
    x, y = images.batch(torch.arange(batch, device=device))

    def reference():
        (-elbo(by_hand, x, y)).backward()
        adam.step()
        adam.zero_grad(set_to_none=True)

    steps = 5
    inference = Inference(ours, TrainingOptions())
    tasks = {
        "by_hand": lambda: [reference() for _ in range(steps)],
        "svi": lambda: [inference.step(x, y) for _ in range(steps)],
    }
    with pyro.validation_enabled(False):  # as in training
        times = alternate(tasks, device, rounds)
    return {
        "ms": {name: 1e3 * statistics.median(took) / steps for name, took in times.items()},
        "ratio": median_ratio(times, "svi", "by_hand"),
        "images_per_second": steps * batch / statistics.median(times["svi"]),
    }


def agreement(model: str, count: int, device: torch.device, **options) -> dict:
    """Share of the test images on which the model that is shipped predicts the same with options that approximate."""
    images = pyrobayes.load_data("fashion-mnist-mini", "test").head(count)
    differing = approximation(pyrobayes.pretrained(model, device=device.type, **options), images)
    return {"images": differing.total, "agree": 1 - differing.share}


MEMORY = """
import pathlib, resource, sys, torch, pyrobayes
networks = sys.argv[1]
particles, images, budget = map(int, sys.argv[2:])
factorization = pyrobayes.build("gbz", networks).requires_grad_(False)
classifier = pyrobayes.BayesClassifier(factorization, particles=particles, memory=budget)
x = pyrobayes.load_data("fashion-mnist-mini", "test").head(images).batch(slice(None))[0].requires_grad_()
torch.autograd.grad(classifier(x).logsumexp(1).sum(), x)
status = pathlib.Path("/proc/self/status")  # the other figure takes in what the parent had, on Linux
lines = status.read_text().splitlines() if status.exists() else []
kib = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
print(kib[0] * 1024 if kib else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory(particles: int, images: int, networks: str = "paper", budget: int = DEFAULT_MEMORY) -> float:
    """GiB at the peak of a process of its own that takes the gradient of the log joint, on the CPU."""
    command = [sys.executable, "-c", MEMORY, networks, str(particles), str(images), str(budget)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 2**30


def help_time() -> float:
    """Seconds until `pyrobayes --help` is done, the median of five."""
    command = [sys.executable, "-m", "pyrobayes_cli", "--help"]
    run = lambda: subprocess.run(command, check=True, capture_output=True)  # noqa: E731
    return statistics.median(seconds(run, torch.device("cpu")) for _ in range(5))


def reach(name: str, float32: int, bf16: int) -> str:
    """What is to be reached in one precision."""
    return f"at least {bf16 if name.startswith('bf16') else float32}"


def show(result: dict) -> None:
    """Print what was measured beside what is to be reached."""
    joint, attack = result["log_joint"], result["sweep"]
    ours, step = joint["ms_per_image"], result["step"]
    rows = [
        (
            "matrix products, float32 and bfloat16",
            f"{result['gflops']['float32']:.0f}, {result['gflops']['bf16']:.0f} GFLOP/s",
            "",
        ),
        ("copies of memory", f"{result['gb_per_second']:.0f} GB/s", ""),
        ("log joint, arithmetic", f"{joint['flop_per_image'] / 1e9:.2f} GFLOP an image", ""),
        ("log joint, reference", f"{ours['reference']:.2f} ms an image", ""),
        *(
            (f"log joint, {name}", f"{ours[name]:.2f} ms, {speed:.1f} times the reference", reach(name, 2, 6))
            for name, speed in joint["speed_up"].items()
        ),
        *(
            (f"log joint, {name}, over the floor", f"{times:.2f} times", "at most 1.7")
            for name, times in joint["over_floor"].items()
        ),
        *(
            (f"log joint, {name}, difference", f"{nats:.1e} nats", "rounding")
            for name, nats in joint["largest_difference_nats"].items()
        ),
        *(
            (
                f"predictions with {name} the same",
                f"{100 * each['agree']:.1f}% of {each['images']}",
                "at least 99.5%" if name == "bf16" else "",
            )
            for name, each in result["agreement"].items()
        ),
        ("FGSM, seven eps, reference", f"{attack['ms_per_image']['reference']:.1f} ms an image", ""),
        *(
            (
                f"FGSM, seven eps, {name}",
                f"{attack['ms_per_image'][name]:.1f} ms, {speed:.1f} times the reference, "
                f"{100 * attack['same_predictions'][name]:.1f}% the same",
                reach(name, 6, 20),
            )
            for name, speed in attack["speed_up"].items()
        ),
    ]
    for name, parts in result["profile"].items():
        for layer, share in parts["share"].items():
            reached = parts["gflops"][layer]
            measured = f"{100 * share:.0f}% of a log joint, {reached:.0f} GFLOP/s"
            of_product = f"{100 * reached / result['gflops'][name]:.0f}% of a matrix product's"
            rows.append((f"profile, {name}, decoder, {layer}", measured, of_product))
        rows.append(
            (f"profile, {name}, all else", f"{100 * (1 - sum(parts['share'].values())):.0f}% of a log joint", "")
        )
        rows.append((f"profile, {name}, gradient", f"{parts['gradient']:.1f} log joints", ""))
    rows += [
        (
            f"SVI step, {name}",
            f"{s['ms']['svi']:.1f} ms, {s['ratio']:.2f} times one by hand, {s['images_per_second']:.0f} images/s",
            "at most 1.05",
        )
        for name, s in step.items()
    ]
    rows += [(f"peak memory, {name}", f"{gib:.2f} GiB", "under 2, flat") for name, gib in result["peak_gib"].items()]
    rows += [("pyrobayes --help", f"{result['help_seconds']:.2f} s", "under 0.3")]
    for what, measured, aim in rows:
        click.echo(f"{what:42}  {measured:52}  {aim}".rstrip())


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--model", default="gbz", show_default=True)
@click.option("--images", default=20, show_default=True, help="images in the timed batches")
@click.option("--rounds", default=5, show_default=True)
@click.option("--epochs", default=8, show_default=True, help="of training, on the embedded images")
@click.option("--large", default=1000, show_default=True, help="particles of the largest memory measurement")
@click.option("--out", default="benchmark.json", show_default=True, type=click.Path(path_type=Path))
def main(device, model, images, rounds, epochs, large, out):
    """Measure, print a table, and write everything as JSON."""
    device = choose_device(device)
    result = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": versions(),
        "gflops": ceilings(device),
        "gb_per_second": bandwidth(device),
    }
    factorization = trained(model, device, epochs)
    batch = pyrobayes.load_data("fashion-mnist-mini", "test").head(images).batch(slice(None))
    x, y = (each.to(device) for each in batch)
    decodes = hasattr(factorization.p_x, "decoder")
    approximations = {"bf16": {"precision": "bf16"}, "prune 10": {"prune": 10.0}}
    peaks = {f"K={n}, {count} images": (n, count) for n in (100, large) for count in (10, 100)}
    parts = {
        "log_joint": lambda: log_joint(factorization, x, device, rounds),
        "profile": lambda: profile(factorization, x, device, rounds) if decodes else {},
        "sweep": lambda: sweep(factorization, x, y, device, rounds),
        "step": lambda: {name: training_step(name, device, rounds) for name in pyrobayes.factorizations.names()},
        "agreement": lambda: {name: agreement(model, 1000, device, **each) for name, each in approximations.items()},
        "help_seconds": help_time,
        "peak_gib": lambda: {name: memory(*each) for name, each in peaks.items()},
    }
    for name, measure in parts.items():
        result[name] = measure()
        out.write_text(json.dumps(result, indent=2) + "\n")
    show(result)


if __name__ == "__main__":
    main()
