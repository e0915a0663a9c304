"""Labelled images."""

import dataclasses
import hashlib
import math
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrobayes.data.source import ImageSource
from pyrobayes.data.stored import StoredPixels, read_ahead
from pyrobayes.errors import InputError, check_integer, choice

SPLITS = ("train", "test")
ALL = slice(0, None, 1)
SHAPE = "[N, channels, height, width]"
BLOCK = 2**24  # bytes of pixels that are hashed at a time


class ContentHash:
    """The field `sha256`: computed when it is first asked for, unless it is given."""

    def __get__(self, images: "Images | None", owner=None) -> str:
        if images is None:
            return ""  # the default of the field
        if not vars(images)["sha256"]:
            vars(images)["sha256"] = images.content_hash()
        return vars(images)["sha256"]

    def __set__(self, images: "Images", value: str) -> None:
        vars(images)["sha256"] = value


@dataclass(frozen=True, repr=False)
class Images:
    """Labelled images of one split of a data set: a sequence of pairs (image, class).

    `images[0]` is the first pair, a float tensor [channels, height, width] in [0, 1] and an int; a slice, a list or a tensor
    takes several images, as a data set of their own. A :class:`torch.utils.data.DataLoader` takes them as they are.

    Attributes:
        name: of the data set, such as `fashion-mnist`.
        split: `train` or `test`.
        pixels: [N, channels, height, width], values from 0 to 255 as uint8: a tensor, or :class:`StoredPixels` on the disk.
        labels: [N] classes from 0 to C - 1.
        classes: the names of the C classes.
        sha256: of the pixels and labels, wherever they are.
        source: the folder or file that they were read from, by which commands find them again; None of any others.
    """

    name: str
    split: str
    pixels: Tensor | StoredPixels
    labels: Tensor
    classes: tuple[str, ...]
    sha256: str = ContentHash()
    source: ImageSource | None = None

    def __post_init__(self):
        pixels, labels = self.pixels, self.labels
        if not isinstance(pixels, Tensor | StoredPixels) or pixels.dtype != torch.uint8 or pixels.dim() != 4:
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

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike,
        split: str = "train",
        *,
        resize: int | str | Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
        test_share: float | None = None,
        data_dir: str | os.PathLike | None = None,
    ) -> "Images":
        """Images of one's own from a folder with one folder a class, or with such folders in `train` and `test`.

        All become grey where every image is, else RGB, and transparent parts white. Their order is shuffled, always the same way.
        Where they take more than 256 MiB, they are decoded once, into a file of the cache, and stay there.

        Args:
            path: the folder.
            split: `train` or `test`.
            resize: height and width, or one number for both; images of different sizes need it.
            classes: names of the folders to take, in the order of their numbers; all in alphabetical order where left out.
            test_share: share of every class that becomes test images where there is no `train` and `test`; 0.2 where left out.
            data_dir: the cache folder, as for :func:`pyrobayes.load_data`.

        Raises:
            InputError: a file can't be read, or the folder isn't as expected; the message names the first culprit.
        """
        from pyrobayes.data.folders import read_folder

        return read_folder(ImageSource(path, classes, resize, test_share), split, data_dir)

    @classmethod
    def from_npz(
        cls,
        path: str | os.PathLike,
        split: str = "train",
        *,
        resize: int | str | Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
        test_share: float | None = None,
    ) -> "Images":
        """Images of one's own from an `.npz` file of numpy's; see docs/your-data.md for the names of its arrays.

        The other arguments are those of :meth:`from_folder`, but that `classes` gives the classes their names.
        """
        from pyrobayes.data.arrays import read_npz

        return read_npz(ImageSource(path, classes, resize, test_share), split)

    @classmethod
    def from_arrays(
        cls, images, labels, split: str = "train", *, classes: Sequence[str] | None = None, name: str = "arrays"
    ) -> "Images":
        """Images of one's own from arrays or tensors.

        Args:
            images: [N, height, width], [N, channels, height, width] or [N, height, width, channels]: uint8 from 0 to 255, or
                floats in [0, 1], which are rounded to these. A memory-mapped file of uint8 (`numpy.load(..., mmap_mode="r")`)
                stays on the disk.
            labels: [N] classes, whole numbers from 0.
            split: `train` or `test`.
            classes: their names; the numbers where left out.
            name: of the data set.
        """
        from pyrobayes.data.arrays import as_labels, as_pixels

        labels, classes = as_labels(labels, classes)
        return cls(name, choice("split", split, SPLITS), as_pixels(images), labels, classes)

    @classmethod
    def from_dataset(
        cls, dataset, split: str = "train", *, classes: Sequence[str] | None = None, name: str | None = None
    ) -> "Images":
        """Images of one's own from a `Dataset` or `DataLoader` of torch's, which is gone through once, in its order, into memory.

        Args:
            dataset: has pairs of an image and a class, or a loader that has batches of them. Images are PIL's, or tensors
                [channels, height, width] as :meth:`from_arrays` takes them.
            split: `train` or `test`.
            classes: their names; the data set's own attribute `classes`, else the numbers, where left out.
            name: of the data set; that of its class in lower case where left out.
        """
        from pyrobayes.data.arrays import read_dataset

        pixels, labels, classes, name = read_dataset(dataset, classes, name)
        return cls.from_arrays(pixels, labels, split, classes=classes, name=name)

    def __repr__(self) -> str:
        shape, classes = list(self.image_shape), len(self.classes)
        return f"Images('{self.name}', {self.split}: {len(self):,} images {shape}, {classes} classes)"

    def _repr_html_(self) -> str:
        """Examples of every class, for a notebook."""
        from pyrobayes.data.preview import examples

        return examples(self)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index) -> "tuple[Tensor, int] | Images":
        if isinstance(index, slice | list) or getattr(index, "ndim", 0):
            return self.take(index)
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"there are {len(self)} images, and none has the index {place}")
        return self.pixels[place].float() / 255, int(self.labels[place])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.pixels.shape[1:])

    def to(self, device) -> "Images":
        """These images on another device; pixels on the disk stay there."""
        return self._with(self.pixels.to(device), self.labels.to(device), vars(self)["sha256"])

    def take(self, indices: Tensor) -> "Images":
        """The images at `indices`, as a data set of their own."""
        pixels = self.pixels.take(indices) if isinstance(self.pixels, StoredPixels) else self.pixels[indices]
        return dataclasses.replace(self._with(pixels, self.labels[indices], ""), source=None)

    def _with(self, pixels: Tensor | StoredPixels, labels: Tensor, sha256: str) -> "Images":
        return dataclasses.replace(self, pixels=pixels, labels=labels, sha256=sha256)

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
        return self.pixels[indices].to(self.labels.device).float() / 255, self.labels[indices]

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All images in order, in batches of (indices [B], images, classes)."""
        return self.read(torch.arange(len(self)).split(batch_size))

    def read(self, batches: Iterable[Tensor], part: slice = ALL) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The batches of images at these indices, as (indices [B], images, classes).

        Of a batch on the disk only the `part` is read, and a thread reads the next one meanwhile; other images are zero.
        """

        def batch(indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return (indices, *self.batch(indices.to(self.labels.device)))

        def partly(indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            x = torch.zeros(len(indices), *self.image_shape, device=self.labels.device)
            x[part] = self.batch(indices[part])[0]
            return indices, x, self.labels[indices.to(self.labels.device)]

        if not isinstance(self.pixels, StoredPixels):
            return map(batch, batches)
        return read_ahead(batch if part == ALL else partly, batches)

    def hold_out(self, share: float = 1 / 12) -> tuple["Images", "Images"]:
        """Split off the validation images: (training, validation), the same split for every run."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        count = max(1, round(share * len(self)))
        return self.take(order[count:]), self.take(order[:count])

    def content_hash(self) -> str:
        """SHA-256 of the pixels and labels."""
        digest, size = hashlib.sha256(), max(1, math.prod(self.image_shape))
        step = max(1, BLOCK // size)
        for first in range(0, len(self), step):
            digest.update(self.pixels[first : first + step].cpu().contiguous().numpy())
        digest.update(self.labels.cpu().contiguous().numpy())
        return digest.hexdigest()


def _kind(value) -> str:
    """The type of a value for a message, and the shape of a tensor or array."""
    return f"{value.dtype} of shape {list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__
