"""Images of one's own from a folder: one folder a class, or such folders in `train` and `test`."""

import hashlib
import io
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from pyrobayes.data.images import SPLITS, Images
from pyrobayes.data.source import ImageSource
from pyrobayes.data.sources import cache_folder
from pyrobayes.data.splits import check_classes, shuffled, split_by_share, tell_duplicates
from pyrobayes.data.stored import LARGE, StoredPixels
from pyrobayes.errors import InputError, choice
from pyrobayes.files import checksum, locked, remove_leftovers, written_atomically

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
OF_SPLITS = {"train", "test", "val", "valid", "validation", "dev"}  # with only these inside a folder is split
JUNK = ("thumbs.db", "desktop.ini")  # which systems leave in folders of images
GREY, COLOUR = ("1", "L", "LA", "La"), ("P", "PA", "RGB", "RGBA", "RGBa")  # modes of PIL's with 8 bits
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # of EXIF
READ_AT_ONCE = 1000  # files
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # PIL's


@dataclass(frozen=True)
class ImageFile:
    """An image as its file tells it: SHA-256 of the file, (height, width), and whether it is grey."""

    path: Path
    sha256: str
    size: tuple[int, int]
    grey: bool


def read_folder(source: ImageSource, split: str, data_dir: str | os.PathLike | None = None) -> Images:
    """A split of the images in a folder; see :meth:`Images.from_folder`."""
    split, where = choice("split", split, SPLITS), source.path
    classes, files = listed(source)
    if split not in files:
        raise InputError(f"{where} has a folder {next(iter(files))}, but none that is called {split}")
    labels = {each: torch.tensor([label for _, label in pairs]) for each, pairs in files.items()}
    examined = {each: list(in_threads(examine, [path for path, _ in pairs])) for each, pairs in files.items()}
    shape = common_shape([file for each in examined.values() for file in each], source)
    if split == "test" and "train" in examined:
        tell_duplicates(*([file.sha256 for file in examined[each]] for each in SPLITS), where)
    pixels = _pixels(examined[split], shape, cache_folder(data_dir) / "own-images" / source.name)
    return Images(source.name, split, pixels, labels[split], classes, source=source)


def listed(source: ImageSource) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """The classes, and by split the files with their classes, shuffled so that the first ones are of all classes."""
    folder = Path(source.path)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: give the one that has a folder of images for each class")
    inside = _folders(folder)
    by_split = {each: _folders(inside[each]) for each in SPLITS if each in inside and OF_SPLITS >= set(inside)}
    if by_split and source.test_share is not None:
        raise InputError(f"{folder} is split into training and test images already: leave the test share out")
    by_split = by_split or {"": inside}
    there = sorted(set().union(*by_split.values()))
    if not there:
        raise InputError(f"there is no class in {folder}: expected a folder of images for each class")
    if missing := [name for name in source.classes or () if name not in there]:
        raise InputError(f"{folder} has no folder for the class {missing[0]}: it has {', '.join(there)}")
    classes = source.classes or tuple(there)
    files, order = {}, {}
    for each, folders in by_split.items():
        files[each] = [(path, label) for label, name in enumerate(classes) for path in _images_in(folders.get(name))]
        labels = torch.tensor([label for _, label in files[each]], dtype=torch.long)
        if not each:
            order = split_by_share(labels, classes, source.test_share, str(folder))
            break
        check_classes(labels, classes, str(folder / each))
        order[each] = shuffled(len(labels))
    return classes, {each: [files[each if each in files else ""][place] for place in order[each]] for each in order}


def _folders(folder: Path) -> dict[str, Path]:
    """The folders in a folder by name, without hidden ones. An accent is one letter, however the system spells it."""
    there = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {unicodedata.normalize("NFC", path.name): path for path in there}


def _images_in(folder: Path | None) -> list[Path]:
    """The files of images in a folder and in those inside; other files, but for those of systems, are refused."""
    paths = [] if folder is None else [path for path in folder.rglob("*") if path.is_file()]
    paths = [path for path in paths if path.name.lower() not in JUNK and not path.name.startswith(".")]
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"{path} is no image: expected files that end with {', '.join(SUFFIXES)}; move it elsewhere"
            )
    return sorted(paths, key=lambda path: unicodedata.normalize("NFC", str(path)))


def examine(path: Path) -> ImageFile:
    """The record of a file, read without decoding the image; ValueError for an image that can't be taken."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"it is animated or has several pages, {image.n_frames}: save one of them")
        deep = image.mode[0] in "IF" or any(";16" in str(tile[3]) for tile in image.tile)
        if deep or image.mode not in (*GREY, *COLOUR):
            told = "16 bits or more" if deep else f"the colours {image.mode}"
            raise ValueError(f"it has {told}: save it as grey or RGB with 8 bits")
        size = image.size if image.getexif().get(ORIENTATION) in SIDEWAYS else image.size[::-1]
        return ImageFile(path, hashlib.sha256(content).hexdigest(), size, image.mode in GREY)


def decoder(shape: tuple[int, int, int]) -> Callable[[ImageFile], np.ndarray]:
    """A function from a file to uint8 [channels, height, width] of this shape."""
    channels, height, width = shape

    def decode(file: ImageFile) -> np.ndarray:
        with Image.open(file.path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)

    return decode


def common_shape(files: Sequence[ImageFile], source: ImageSource) -> tuple[int, int, int]:
    """(channels, height, width) that the images get."""
    sizes = {file.size: file.path for file in files}
    if source.size is None and len(sizes) > 1:
        one, other = (f"{path} is {height}x{width}" for (height, width), path in list(sizes.items())[:2])
        raise InputError(
            f"the images of {source.path} have {len(sizes)} sizes: {one}, {other}; say which to make them (resize=...)"
        )
    return (1 if all(file.grey for file in files) else 3, *(source.size or next(iter(sizes))))


def in_threads(read: Callable[[Any], Any], files: Sequence) -> Iterator:
    """`read` of every file in order, by several threads; :class:`InputError` where some can't be read."""

    def attempt(file):
        try:
            return read(file)
        except UNREADABLE as error:
            told = "PIL knows no such image" if isinstance(error, UnidentifiedImageError) else error
            return InputError(f"{getattr(file, 'path', file)} can't be taken as an image: {told}")

    with ThreadPoolExecutor() as threads:
        for first in range(0, len(files), READ_AT_ONCE):
            made = list(threads.map(attempt, files[first : first + READ_AT_ONCE]))
            if wrong := [each for each in made if isinstance(each, InputError)]:
                more = f" (and {len(wrong) - 1} more like it)" if len(wrong) > 1 else ""
                raise InputError(f"{wrong[0]}{more}; mend or remove it")
            yield from made


def _pixels(files: Sequence[ImageFile], shape: tuple[int, int, int], stem: Path) -> Tensor | StoredPixels:
    """The images of files, in memory, or on the disk in a file whose name is the stem and a digest."""
    made, whole = in_threads(decoder(shape), files), (len(files), *shape)
    if np.prod(whole, dtype=np.int64) < LARGE:
        return torch.from_numpy(np.stack(list(made)))
    content = "".join(f"{file.sha256}\n" for file in files) + f"{shape}"
    path = stem.with_name(f"{stem.name}-{checksum(content)[:32]}.npy")
    with locked(path.parent, taken=None):
        if not path.is_file():
            remove_leftovers(path.parent)
            with written_atomically(path) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": whole}
                np.lib.format.write_array_header_1_0(file, header)
                for image in made:
                    file.write(np.ascontiguousarray(image))
    return StoredPixels.of(np.load(path, mmap_mode="r"))
