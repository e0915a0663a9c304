"""The tables of a GPU's times and agreement: every function makes one, in Markdown, from `docs/results/h100.json`."""

import json
import re

from result_tables import RESULTS, table

from pyrobayes.results.names import model_name


def measured() -> dict:
    """The measurements on a GPU, before there were graphs."""
    return json.loads((RESULTS / "h100.json").read_text())


def gpu_steps() -> str:
    """Milliseconds of a training step on a GPU, by batch: ours, and by hand, called and as a graph."""
    rows = []
    for name, took in measured()["training_steps_ms"].items():
        model, batch = name.split()
        ours, hand, graph = (took[each] for each in ("svi_ms", "hand_ms", "graph_ms"))
        rows.append([model_name(model), batch, f"{ours:.1f}", f"{hand:.1f}", f"{graph:.2f}", f"{ours / graph:.1f}"])
    return table(["model", "batch", "ours", "by hand", "by hand, a graph", "ours over the graph"], rows)


def gpu_classification() -> str:
    """Microseconds an image on a GPU: the log joint, and the gradient with it, by options, batch and memory."""
    rows = []
    for name, took in measured()["microseconds_an_image"].items():
        options, batch, memory = re.fullmatch(r"(\{.*\}) batch=(\d+) memory=(\d+) MiB", name).groups()
        given = ", ".join(re.sub("[{}':]|True", "", each).strip() for each in options.split(",")) or "float32"
        told = [f"{took[each]:.0f}" for each in ("us_img", "grad_us_img")]
        rows.append([given, f"{int(batch):,}", f"{int(memory):,}", *told, f"{took['peak_GiB']:.1f}"])
    return table(["options", "batch", "memory (MiB)", "log joint", "gradient with it", "peak (GiB)"], rows)


def gpu_agreement() -> str:
    """A GPU against the CPU with the same noise: shipped models, 100 images, 40 for FGSM."""
    rows = []
    for model, found in measured()["agreement"].items():
        shares = [f"{100 * found[each]:.3f}" for each in ("pred_same", "fgsm_pixels_same")]
        rows.append([model_name(model), f"{found['max_nats']:.1e}", *shares])
    return table(["model", "largest difference (nats)", "equal predictions (%)", "equal pixels of FGSM (%)"], rows)


TABLES = {made.__name__: made for made in (gpu_steps, gpu_classification, gpu_agreement)}
