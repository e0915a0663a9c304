"""Pixels that stay on the disk, and batches that a thread reads ahead."""

import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pyrobayes.errors import InputError

LARGE = 2**28  # bytes of pixels from which they stay on the disk


class StoredPixels:
    """Pixels in a file, indexed like a uint8 tensor [N, channels, height, width]: an index reads its images, no others.

    Mapped pages of the file would count as memory of the process, so it reads instead. Threads and processes may share it.

    Args:
        path: the file; it has an image after the other.
        shape: of the array in the file, [images, channels, height, width], or with `channels_last` [..., height, width, channels].
        offset: bytes before the first image.
        rows: [N] the images of the file that count, in this order; all of them where left out.
    """

    dtype = torch.uint8

    def __init__(
        self, path: str | os.PathLike, shape, offset: int = 0, *, channels_last=False, rows: Tensor | None = None
    ):
        self.path, self.offset, self.channels_last = path, offset, channels_last
        self.stored = tuple(shape)
        self.rows = torch.arange(shape[0]) if rows is None else rows

    @classmethod
    def of(cls, array: np.memmap, channels_last: bool = False) -> "StoredPixels":
        """The pixels of a whole memory-mapped file of numpy's."""
        return cls(array.filename, array.shape, array.offset, channels_last=channels_last)

    @property
    def shape(self) -> torch.Size:
        height, width, channels = self.stored[1:] if self.channels_last else (*self.stored[2:], self.stored[1])
        return torch.Size((len(self.rows), channels, height, width))

    def __len__(self) -> int:
        return len(self.rows)

    def dim(self) -> int:
        return len(self.stored)

    def to(self, device) -> "StoredPixels":
        """These pixels, which stay on the disk."""
        return self

    def take(self, indices) -> "StoredPixels":
        """The images at `indices`, without reading them."""
        rows = self.rows[indices.cpu() if isinstance(indices, Tensor) else indices]
        return StoredPixels(self.path, self.stored, self.offset, channels_last=self.channels_last, rows=rows)

    def __getitem__(self, indices) -> Tensor:
        """The images at `indices`, as a tensor on the CPU."""
        rows = self.take(indices).rows
        wanted, pixels = rows.flatten(), np.empty((rows.numel(), *self.stored[1:]), np.uint8)
        size = pixels[:1].nbytes
        with open(self.path, "rb", buffering=0) as file:
            for place in wanted.argsort().tolist():  # in the order of the file
                file.seek(self.offset + size * int(wanted[place]))
                if file.readinto(pixels[place]) != size:
                    raise InputError(f"damaged file {self.path}: it ends too early; delete it, or make it again")
        read = torch.from_numpy(pixels)
        return (
            (read.movedim(3, 1) if self.channels_last else read)
            .unflatten(0, rows.shape or (1,))
            .reshape(*rows.shape, *self.shape[1:])
        )


def is_whole_file(array) -> bool:
    """True for a memory-mapped array of uint8 that isn't a part of another one, and lies in the file as it is indexed."""
    whole = isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.filename is not None
    return whole and array.dtype == np.uint8 and array.flags.c_contiguous


def read_ahead(read: Callable, items: Iterable) -> Iterator:
    """`read(item)` of every item in order. A thread reads the next one while the caller works on this one."""
    with ThreadPoolExecutor(1) as reader:
        ahead = None
        for item in items:
            following = reader.submit(read, item)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()
