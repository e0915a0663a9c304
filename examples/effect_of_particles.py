"""How many particles are enough: accuracy, luck, effective sample size and bias of log p(x, y) against their number K.

With --pretrained, of GFZ, GBZ and DFX as they come with the package, in ten minutes; without, of a GBZ trained on the embedded
images in a minute. Draws particles.pdf and .png; with --quick less, in half a minute.
"""

import sys

import matplotlib
import torch
from matplotlib.figure import Figure

import pyrobayes
from pyrobayes.evaluation import NORMAL_95, Rate
from pyrobayes.figures import COLOURS, MARKERS, STYLE, data_name, save

quick, pretrained = (option in sys.argv for option in ("--quick", "--pretrained"))
counts, last = ((1, 2, 5, 10, 20, 50), 50) if quick else ((1, 2, 5, 10, 20, 50, 100), 100)
names = "correct (%)", "changed by another draw (%)", "effective sample size", f"log p(x, y) less K = {last}'s (nats)"
test = pyrobayes.load_data("fashion-mnist" if pretrained else "fashion-mnist-mini", "test").head(20 if quick else 500)
if pretrained:
    models = {name: pyrobayes.pretrained(name, device="cpu").factorization for name in ("gfz", "gbz", "dfx")}
else:
    models, train = {"gbz": pyrobayes.build("gbz", networks="small")}, pyrobayes.load_data("fashion-mnist-mini")
    pyrobayes.fit(models["gbz"], train, pyrobayes.TrainingOptions(epochs=1 if quick else 6, batch_size=32))


def measured(classifier):
    """Right, changed, effective sample size, log p(x, y), Pareto k, for every count: each [counts, images, 1 or C]."""
    found = [[] for _ in counts]
    for indices, x, y in test.batches(20):
        draws = [classifier.for_images(indices, draw).estimate(x).log_weights for draw in (0, 1)]
        for row, count in zip(found, counts):
            # The first particles are the same whatever their number; K serve a class, or C K where they are shared.
            serving = count * len(draws[0]) // last
            ours, others = (pyrobayes.importance.ImportanceEstimate(log_weights[:serving]) for log_weights in draws)
            predicted, again = (each.log_joint.argmax(1, keepdim=True) for each in (ours, others))
            truth = ours.log_joint.gather(1, y[:, None])
            row.append((predicted == y[:, None], predicted != again, ours.effective_sample_size, truth, ours.pareto_k))
    return [torch.stack([torch.cat(parts) for parts in rows]) for rows in zip(*(zip(*row) for row in found))]


def mean(values):
    """[3, counts]: means over images, and how far their 95% intervals reach below and above."""
    error = NORMAL_95 * values.mean(2).std(1) / len(test) ** 0.5
    return torch.stack([values.mean((1, 2)), error, error])


def share(values):
    """[3, counts]: shares of the images in per cent, and their 95% Wilson intervals likewise."""
    rates = [Rate.of(row[:, 0]) for row in values]
    return 100 * torch.tensor([(r.share, r.share - r.interval[0], r.interval[1] - r.share) for r in rates]).T


with matplotlib.rc_context(STYLE), torch.no_grad():
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    for axes, name in zip(grid := figure.subplots(2, 2).flatten(), names):
        axes.set(ylabel=name, xlabel="particles K", xscale="log", yscale="log" if name == names[2] else "linear")
        axes.set_xticks(counts, counts)
        axes.minorticks_off()
    grid[2].set_yticks(counts, counts)
    for i, (name, estimator) in enumerate([(name, "per-class") for name in models] + [("gbz", "mixture")]):
        classifier = pyrobayes.BayesClassifier(models[name].eval(), last, estimator=estimator)
        right, changed, sizes, log_joint, tails = measured(classifier)
        curves = share(right), share(changed), mean(sizes), mean(log_joint - log_joint[-1])
        line = ":" if estimator == "mixture" else "-" if classifier.factorization.generative else "--"
        look = {"color": COLOURS[name], "marker": MARKERS[name], "linestyle": line, "markersize": 4, "capsize": 2}
        look |= {"label": f"{name.upper()}, {estimator}", "mfc": "white" if line == "--" else COLOURS[name]}
        for axes, curve in zip(grid, curves):
            axes.errorbar([k * 1.03 ** (i - 1.5) for k in counts], curve[0], curve[1:], linewidth=1.2, **look)
        print(f"\n{name.upper()}, {estimator}", *names, sep=" | ")
        for j, count in enumerate(counts):
            row = (f"{a:.2f} [{a - below:.2f}, {a + above:.2f}]" for a, below, above in (each[:, j] for each in curves))
            print(f"K = {count}", *row, sep=" | ")
        tails = tails[-1].flatten().quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
        print("Pareto k at the largest K: median {1:.2f}, nine tenths from {0:.2f} to {2:.2f}".format(*tails))
    figure.suptitle(f"{data_name(test.name)}, {len(test):,} test images (mixture: C K particles a class)", fontsize=9)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    print("\nDrawn in", *save(figure, "particles"))
