"""Labelled images."""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrobayes.errors import InputError, check_integer

SHAPE = "[N, channels, height, width]"


@dataclass(frozen=True)
class Images:
    """Labelled images of one split of a data set.

    Attributes:
        name: of the data set, such as `fashion-mnist`.
        split: `train` or `test`.
        pixels: [N, channels, height, width], grey values from 0 to 255 as uint8.
        labels: [N] classes from 0 to C - 1.
        classes: the names of the C classes.
        sha256: of the pixels and labels.
    """

    name: str
    split: str
    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    sha256: str = ""

    def __post_init__(self):
        pixels, labels = self.pixels, self.labels
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.dim() != 4:
            raise InputError(f"pixels must be torch.uint8 {SHAPE}, from 0 to 255, got {_kind(pixels)}")
        if pixels.shape[1] > 4 >= pixels.shape[3]:
            looks = "which looks like [N, height, width, channels]: give pixels.permute(0, 3, 1, 2)"
            raise InputError(f"pixels must be {SHAPE}, got {list(pixels.shape)}, {looks}")
        if not isinstance(labels, Tensor) or labels.dtype != torch.long or labels.shape != pixels.shape[:1]:
            raise InputError(f"labels must be torch.long [{len(pixels)}], one for each image, got {_kind(labels)}")
        if not isinstance(self.classes, tuple | list) or not all(isinstance(name, str) for name in self.classes):
            raise InputError(f"classes must be the names of the classes, texts in a tuple, got {self.classes!r}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            got = f"{labels.min()} to {labels.max()}"
            raise InputError(f"labels must lie from 0 to {len(self.classes) - 1}, got {got}")
        if not self.sha256:
            content = pixels.cpu().numpy().tobytes() + labels.cpu().numpy().tobytes()
            object.__setattr__(self, "sha256", hashlib.sha256(content).hexdigest())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.pixels.shape[1:])

    def to(self, device) -> "Images":
        """These images on another device."""
        return dataclasses.replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def take(self, indices: Tensor) -> "Images":
        """The images at `indices`, as a data set of their own."""
        return dataclasses.replace(self, pixels=self.pixels[indices], labels=self.labels[indices], sha256="")

    def head(self, images: int | None) -> "Images":
        """The first `images` images, or all of them; :class:`InputError` if there are fewer."""
        if images is None:
            return self
        check_integer("images", images, least=1)
        if images > len(self):
            there = f"{len(self)}, the {self.split} images of {self.name}"
            raise InputError(f"images must be at most {there}, got {images}")
        return self.take(torch.arange(images))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, channels, height, width] as floats in [0, 1], and their classes [B]."""
        return self.pixels[indices].float() / 255, self.labels[indices]

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All images in order, in batches of (indices [B], images, classes)."""
        for indices in torch.arange(len(self)).split(batch_size):
            yield (indices, *self.batch(indices.to(self.labels.device)))

    def hold_out(self, share: float = 1 / 12) -> tuple["Images", "Images"]:
        """Split off the validation images: (training, validation), the same split for every run."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        count = max(1, round(share * len(self)))
        return self.take(order[count:]), self.take(order[:count])


def _kind(value) -> str:
    """The type of a value for a message, and the shape of a tensor or array."""
    return f"{value.dtype} of shape {list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__
