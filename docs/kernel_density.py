"""Measure a generative classifier that keeps all training images: `python docs/kernel_density.py`.

Its p(x|y) is the mean of Gaussians around the training images of class y (Parzen 1962), with the variance of the models' likelihoods. So
log p(x, y) is exact: nothing is drawn, and no noise masks a gradient. It is judged on the validation images of `docs/ablations.py`, in the
same way. `docs/write_results.py` makes the table.
"""

from pathlib import Path

import click
import torch
from torch import Tensor, nn

from pyrobayes import attacks, load_data
from pyrobayes.codec import encode
from pyrobayes.data.images import Images
from pyrobayes.evaluation.rates import Rate
from pyrobayes.files import write_json
from pyrobayes.training.checkpoint import versions

VARIANCES, EPS, STEPS = (0.1, 0.25, 0.5, 1.0, 2.0), 0.1, 20
RESULTS = Path(__file__).parent / "results" / "kernel_density.json"


class KernelDensity(nn.Module):
    """log p(x, y) [B, C] of images x [B, ...], up to a constant."""

    def __init__(self, training: Images, variance: float):
        super().__init__()
        x, y = training.batch(slice(None))
        order = y.argsort()
        self.variance, self.counts = variance, y.bincount().tolist()
        self.register_buffer("images", x[order].flatten(1))
        self.register_buffer("squared", self.images.square().sum(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        distances = x.square().sum(1, keepdim=True) + self.squared - 2 * x @ self.images.T
        of_classes = (-distances / (2 * self.variance)).split(self.counts, dim=1)
        # The sum over images holds the prior: a class with more images has more mass.
        return torch.stack([each.logsumexp(1) for each in of_classes], 1)


def measured(training: Images, validation: Images, variance: float, images: int) -> dict:
    """Accuracy and success rates for one variance."""
    classifier, few = KernelDensity(training, variance), validation.head(images)
    climbed = [attacks.get("fgsm"), attacks.get("pgd", steps=STEPS), attacks.get("apgd", steps=STEPS)]
    right, surprise, broken = [], [], [[] for _ in climbed]
    for _, x, y in validation.batches(500):
        with torch.no_grad():
            posterior = classifier(x).log_softmax(1)
        right.append(posterior.argmax(1) == y)
        surprise.append(-posterior.gather(1, y[:, None])[:, 0])
    for _, x, y in few.batches(100):
        for found, by in zip(broken, climbed):
            with torch.no_grad():
                found.append(classifier(by(classifier, x, y, EPS)).argmax(1) != y)
    wrong = torch.stack([torch.cat(found) for found in broken])
    return {
        "variance": variance,
        "eps": EPS,
        "accuracy": encode(Rate.of(torch.cat(right))),
        "negative_log_likelihood": torch.cat(surprise).double().mean().item(),
        "fgsm": encode(Rate.of(wrong[0])),
        "worst": encode(Rate.of(wrong.any(0))),
        "versions": versions(),
    }


@click.command(help=__doc__.split("\n")[0])
@click.option("--data", default="fashion-mnist", show_default=True)
@click.option("--images", default=500, show_default=True, help="validation images that are attacked")
@click.option("--out", default=RESULTS, type=click.Path(dir_okay=False, path_type=Path))
def main(data, images, out):
    training, validation = load_data(data).hold_out()
    rows = []
    for variance in VARIANCES:
        rows.append(measured(training, validation, variance, images))
        click.echo(f"variance {variance:g}: {rows[-1]}")
    write_json(out, rows)


if __name__ == "__main__":
    main()
