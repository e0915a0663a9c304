"""Measure what the detection tests make of images of another data set: `python docs/unknown_images.py`.

The models were trained on Fashion-MNIST, and so were the tests' thresholds. The unknown images are digits (`mnist-5k`). Nothing is attacked.
`docs/write_results.py` makes the table.
"""

from pathlib import Path

import click
import torch

from pyrobayes import fit_detector, load_data, pretrained
from pyrobayes.codec import encode
from pyrobayes.data.images import Images
from pyrobayes.evaluation.detection import OF_POSTERIORS, area_under_roc
from pyrobayes.evaluation.images import map_images
from pyrobayes.evaluation.rates import Rate
from pyrobayes.files import write_json
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.options import MODELS
from pyrobayes.training.checkpoint import versions

KNOWN, UNKNOWN = "fashion-mnist", "mnist-5k"
RESULTS = Path(__file__).parent / "results" / "unknown_images.json"


@torch.no_grad()
def log_joints(classifier: BayesClassifier, data: Images) -> torch.Tensor:
    """log p(x, y) [N, C] in nats, each image with noise of its own."""
    return map_images(lambda indices, x, y: {"found": classifier.for_images(indices)(x)}, data, 100)["found"]


def measured(model: str, training: Images, known: Images, unknown: Images) -> list[dict]:
    """A row for each test: the shares of known and of unknown images that it rejects, and how well its score tells them apart."""
    classifier = pretrained(model)
    detector, rows = fit_detector(classifier, training), []
    of_known, of_unknown = (log_joints(classifier, data) for data in (known, unknown))
    models_images = classifier.factorization.structure.models_images
    for test in detector.tests if models_images else [OF_POSTERIORS]:
        rows.append(
            {
                "model": model,
                "test": test,
                "false_alarms": encode(Rate.of(detector.rejects(test, of_known))),
                "rejected": encode(Rate.of(detector.rejects(test, of_unknown))),
                "auc": area_under_roc(detector.score(test, of_unknown), detector.score(test, of_known)),
                "versions": versions(),
            }
        )
    return rows


@click.command(help=__doc__.split("\n")[0])
@click.option("--images", default=1000, show_default=True, help="test images of each data set")
@click.option("--train-images", default=5000, show_default=True, help="training images that the tests are fitted to")
@click.option("--out", default=RESULTS, type=click.Path(dir_okay=False, path_type=Path))
def main(images, train_images, out):
    training = load_data(KNOWN, "train").head(train_images)
    known, unknown = (load_data(data, "test").head(images) for data in (KNOWN, UNKNOWN))
    rows = []
    for model in MODELS:
        rows += measured(model, training, known, unknown)
        click.echo(f"{model} is done")
        write_json(out, rows)


if __name__ == "__main__":
    main()
