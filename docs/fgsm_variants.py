"""Measure what the details of FGSM are worth: `python docs/fgsm_variants.py runs-poster`.

FGSM follows three gradients of the same estimate, with noise that isn't the defender's:

* of the log odds log p(not y|x) - log p(y|x), which `pyrobayes attack` climbs;
* of the plain cross-entropy, which underflows where the classifier is sure;
* of the log odds of the predicted class, which some attack libraries climb unless they are told the true one.

`docs/write_results.py` makes the table.
"""

from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrobayes import load, load_data
from pyrobayes.attacks.losses import log_odds_against
from pyrobayes.codec import encode
from pyrobayes.evaluation.rates import Rate
from pyrobayes.files import write_json
from pyrobayes.options import MODELS
from pyrobayes.training.checkpoint import versions

EPS = (0.05, 0.1, 0.3)
RESULTS = Path(__file__).parent / "results" / "poster" / "fgsm_variants.json"
LOSSES = {
    "log odds": log_odds_against,
    "cross-entropy in float32": lambda log_joint, y: F.cross_entropy(log_joint, y, reduction="none"),
    "log odds of the predicted class": lambda log_joint, y: log_odds_against(log_joint, log_joint.argmax(1)),
}


def wrong(classifier: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """True for images that are misclassified after a step of each eps up each loss, [losses, E, B]."""
    seen = x.clone().requires_grad_()
    log_joint = classifier.resampled(1)(seen)
    gradients = [torch.autograd.grad(loss(log_joint, y).sum(), seen, retain_graph=True)[0] for loss in LOSSES.values()]
    with torch.no_grad():
        adversarial = [[(x + eps * gradient.sign()).clamp(0, 1) for eps in EPS] for gradient in gradients]
        return torch.stack(
            [torch.stack([classifier(each).argmax(1) != y for each in of_eps]) for of_eps in adversarial]
        )


@click.command(help=__doc__.split("\n")[0])
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", default=500, show_default=True, help="test images")
@click.option("--out", default=RESULTS, type=click.Path(dir_okay=False, path_type=Path))
def main(runs, images, out):
    test, rows = load_data("fashion-mnist", "test").head(images), []
    for model in MODELS:
        classifier = load(runs / model, particles=10, noise="fresh", seed=0)
        found = torch.cat([wrong(classifier, x, y) for _, x, y in test.batches(100)], dim=2)
        success = {loss: [encode(Rate.of(at)) for at in of_eps] for loss, of_eps in zip(LOSSES, found)}
        rows.append({"model": model, "eps": EPS, "success": success, "versions": versions()})
        click.echo(f"{model}: {success}")
    write_json(out, rows)


if __name__ == "__main__":
    main()
