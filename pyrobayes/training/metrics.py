"""The measurements of a training, one record an epoch, and the file that holds them."""

import json
from dataclasses import dataclass
from pathlib import Path

from pyrobayes.codec import decode
from pyrobayes.errors import InputError
from pyrobayes.files import checksum, parse_json


@dataclass(frozen=True)
class Epoch:
    """The measurements after one epoch; those of validation are over held-out images, with averaged weights if there are any.

    Attributes:
        epoch: counted from 1.
        elbo: mean over the epoch's training images of the bound, nats per image, as optimised (with the KL warm-up).
        validation_elbo: nats per image, without warm-up.
        validation_kl: mean of log q(z|x, y) - log p(z|...), nats per image: the information that z carries.
        validation_accuracy: share of the images classified correctly, K = 10.
        collapsed: whether z carries almost no information on x and y, see :func:`pyrobayes.training.bounds.collapsed`.
        lr: learning rate of the epoch's last step.
        seconds: time that the epoch took.
    """

    epoch: int
    elbo: float
    validation_elbo: float
    validation_kl: float
    validation_accuracy: float
    collapsed: bool
    lr: float
    seconds: float

    def __post_init__(self):
        if not 0 <= self.validation_accuracy <= 1 or self.lr < 0 or self.seconds < 0:
            raise ValueError(f"epoch {self.epoch} has a share that is none, or a number below 0")


def as_lines(epochs: list[Epoch]) -> str:
    """The text of `metrics.jsonl`: a line of JSON for each epoch, with a checksum of the rest of the line."""
    return "".join(json.dumps(vars(epoch) | {"sha256": _checksum(vars(epoch))}) + "\n" for epoch in epochs)


def read_metrics(path: Path) -> list[Epoch]:
    """Read `metrics.jsonl`, whose lines had no checksum once; :class:`InputError` if it is missing or damaged."""
    try:
        records = [parse_json(line) for line in path.read_text().splitlines()]
        for record in records:
            if not isinstance(record, dict) or record.pop("sha256", None) not in (None, _checksum(record)):
                raise ValueError("the checksum of a line is wrong")
        return parse_epochs(records)
    except (OSError, ValueError) as error:
        told = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        remedy = "train the model with resume=True, which writes it again"
        raise InputError(f"{told} file {path}: {error}; {remedy}") from error


def parse_epochs(records: list) -> list[Epoch]:
    """The epochs of a training from plain JSON values; ValueError unless they are records numbered from 1."""
    epochs = decode(list[Epoch], records)
    for number, epoch in enumerate(epochs, start=1):
        if epoch.epoch != number:
            raise ValueError(f"its epoch {number} is numbered {epoch.epoch}")
    return epochs


def _checksum(record: dict) -> str:
    return checksum(json.dumps(record, sort_keys=True))
