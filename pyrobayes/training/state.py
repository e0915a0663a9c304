"""All that a training needs to go on: the content of `resume.safetensors`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

from torch import Tensor

from pyrobayes.codec import decode, encode
from pyrobayes.files import parse_json
from pyrobayes.training.metrics import Epoch, parse_epochs


@dataclass(frozen=True)
class Place:
    """The place of a training within an epoch.

    Attributes:
        step: steps taken.
        elbo_sum: the sum of the bound over the images of these steps, in nats.
        seconds: time that these steps took.
    """

    step: int = 0
    elbo_sum: float = 0.0
    seconds: float = 0.0

    def __post_init__(self):
        if self.step < 0 or self.seconds < 0:
            raise ValueError(f"the place of a training has no numbers below 0, got {self}")


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands.

    Attributes:
        weights: the factorization's.
        optimizer: the optimizer's moments of every parameter.
        random: torch's random states, by the type of their device.
        average: the running average of the weights; empty where none is kept.
        epochs: the measurements of all complete epochs.
        place: the place in the epoch that is under way.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    average: dict[str, Tensor]
    epochs: list[Epoch]
    place: Place

    def encoded(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and metadata for a file."""
        tensors = {f"{group}.{name}": value for group in _groups() for name, value in getattr(self, group).items()}
        return tensors, {"epochs": json.dumps(encode(self.epochs)), "place": json.dumps(encode(self.place))}

    @classmethod
    def decoded(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> "TrainingState":
        """The inverse of :meth:`encoded`; ValueError if something is missing, left over or impossible."""
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in _groups()}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            if group not in groups:
                raise ValueError(f"the tensor {name} belongs to nothing")
            groups[group][rest] = value
        epochs, place = (parse_json(metadata.get(name, "null")) for name in ("epochs", "place"))
        return cls(**groups, epochs=parse_epochs(epochs), place=decode(Place, place))


def _groups() -> list[str]:
    return [field.name for field in fields(TrainingState) if field.type == dict[str, Tensor]]
