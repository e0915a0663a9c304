"""Images of one's own from arrays, `.npz` files, and data sets of torch's."""

import dataclasses
import hashlib
import zipfile
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from pyrobayes.data.images import SPLITS, Images
from pyrobayes.data.source import ImageSource
from pyrobayes.data.splits import check_classes, split_by_share, tell_duplicates
from pyrobayes.data.stored import LARGE, StoredPixels, is_whole_file
from pyrobayes.errors import InputError, choice

# Names of arrays that are split, as MedMNIST and Keras have them, and of those that aren't.
NAMES = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))
UNSPLIT = (("images", "labels"), ("x", "y"))
EXPECTED = "expected train_images and train_labels, test_images and test_labels, or images and labels alone"
SHAPES = "[N, height, width], [N, channels, height, width] or [N, height, width, channels]"


def as_pixels(images) -> Tensor | StoredPixels:
    """Images of :meth:`Images.from_arrays` as uint8 [N, channels, height, width]."""
    if not hasattr(images, "shape") or not hasattr(images, "dtype"):
        raise InputError(f"images must be an array or a tensor {SHAPES}, got {type(images).__name__}")
    shape, channels_last = tuple(images.shape), False
    if len(shape) == 4:
        channels_last = shape[3] <= 4 < shape[1]
        if not channels_last and shape[1] > 4:
            raise InputError(f"images must have at most four channels, {SHAPES}, got {list(shape)}")
    elif len(shape) != 3:
        raise InputError(f"images must be {SHAPES}, got {list(shape)}")
    if min(shape) < 1:
        raise InputError(f"images must be {SHAPES}, none of them 0, got {list(shape)}")
    if len(shape) == 4 and is_whole_file(images):
        return StoredPixels.of(images, channels_last)
    pixels = _as_bytes(
        images if isinstance(images, Tensor) else torch.from_numpy(np.require(images, requirements="CW"))
    )
    pixels = pixels[:, None] if len(shape) == 3 else pixels
    return (pixels.movedim(3, 1) if channels_last else pixels).contiguous()


def _as_bytes(pixels: Tensor) -> Tensor:
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise InputError(f"images must be uint8 from 0 to 255, or floats in [0, 1], got {pixels.dtype}")
    least, most = pixels.min().item(), pixels.max().item()
    if not 0 <= least <= most <= 1:
        raise InputError(
            f"images of floats must lie in [0, 1], got {least:g} to {most:g}: take off a normalization, or give uint8"
        )
    return (pixels * 255).round().to(torch.uint8)


def as_labels(labels, classes: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    """Classes [N] as torch.long, and the names of the classes: the numbers where none are given."""
    labels = torch.as_tensor(np.asarray(labels) if isinstance(labels, np.ndarray | list | tuple) else labels)
    if labels.dim() == 2 and labels.shape[1] == 1:  # MedMNIST's
        labels = labels[:, 0]
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool or not len(labels):
        told = f"{labels.dtype} of shape {list(labels.shape)}"
        raise InputError(f"labels must be whole numbers from 0, one for each image, got {told}")
    labels = labels.long().clone()
    if labels.min() < 0:
        raise InputError(f"labels must be whole numbers from 0, got {labels.min()}")
    names = map(str, range(int(labels.max()) + 1)) if classes is None else classes
    return labels, names if isinstance(names, str) else tuple(names)


def read_dataset(dataset, classes, name) -> tuple:
    """Images and labels of a data set or loader, the names of its classes, and its own name."""
    inner = dataset.dataset if isinstance(dataset, DataLoader) else dataset
    pixels, labels = [], []
    for number, item in enumerate(dataset):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(f"a data set must give pairs (image, class), got {type(item).__name__} as item {number}")
        image, label = item
        if not isinstance(dataset, DataLoader):
            image, label = _as_tensor(image)[None], torch.as_tensor(label).reshape(1)
        if pixels and image.shape[1:] != pixels[0].shape[1:]:
            first, other = list(pixels[0].shape[1:]), list(image.shape[1:])
            raise InputError(
                f"all images must be of one shape, got {first} and, as item {number}, {other}: resize them"
            )
        pixels.append(as_pixels(image)), labels.append(label)
    if not pixels:
        raise InputError("the data set is empty")
    while classes is None and inner is not None:  # also behind a Subset
        classes, inner = getattr(inner, "classes", None), getattr(inner, "dataset", None)
    kind = type(dataset.dataset if isinstance(dataset, DataLoader) else dataset).__name__.lower()
    return torch.cat(pixels), torch.cat(labels), classes, name or kind


def _as_tensor(image) -> Tensor:
    """An image of PIL's, an array or a tensor as a tensor [channels, height, width]."""
    if isinstance(image, Tensor):
        return image if image.dim() == 3 else image[None]
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.movedim(2, 0)


def read_npz(source: ImageSource, split: str) -> Images:
    """A split of the images in an `.npz` file; see :meth:`Images.from_npz`."""
    split, path = choice("split", split, SPLITS), source.path
    try:
        with np.load(path) as file:
            return _read_npz(file, source, split)
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"can't read {path} as an .npz file of numpy's: {reason}; {EXPECTED}") from error


def _read_npz(file: np.lib.npyio.NpzFile, source: ImageSource, split: str) -> Images:
    path, there = source.path, set(file.files)
    pairs = [(each, [name.format(each) for name in pair]) for each in SPLITS for pair in NAMES]
    named = {each: pair for each, pair in pairs if set(pair) <= there}
    if named and source.test_share is not None:
        raise InputError(f"{path} is split into training and test images already: leave the test share out")
    if named and split not in named:
        raise InputError(f"{path} has no {split} images; {EXPECTED}")
    together = [pair for pair in UNSPLIT if set(pair) <= there]
    named = named or ({"": together[0]} if together else {})
    if not named:
        raise InputError(f"{path} has the arrays {', '.join(sorted(there)) or 'none'}; {EXPECTED}")
    names = source.classes or ([str(name) for name in file["classes"]] if "classes" in there else None)
    labels, classes = {}, ()
    for each, (_, name) in named.items():
        labels[each], found = as_labels(file[name], names)
        classes = max(classes, found, key=len)
    images = {
        each: Images(source.name, each or split, _pixels_of(file, name, source), labels[each], classes)
        for each, (name, _) in named.items()
    }
    if whole := images.pop("", None):
        places = split_by_share(whole.labels, classes, source.test_share, path)
        images = {each: dataclasses.replace(whole.take(places[each]), split=each) for each in SPLITS}
    check_classes(images[split].labels, classes, path)
    if split == "test" and "train" in images:
        tell_duplicates(*(_digests(images[each].pixels) for each in SPLITS), path)
    return dataclasses.replace(images[split], source=source)


def _pixels_of(file: np.lib.npyio.NpzFile, name: str, source: ImageSource) -> Tensor | StoredPixels:
    pixels = as_pixels(mapped(file, name) if source.size is None else file[name])
    if source.size is None or tuple(pixels.shape[2:]) == source.size:
        return pixels
    return F.interpolate(pixels.float(), source.size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()


def mapped(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """An array of an `.npz` file, memory-mapped where it is large and isn't compressed, as `numpy.savez` leaves it."""
    member = file.zip.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED or member.file_size < LARGE:
        return file[name]
    with file.zip.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        header = stream.tell()
    with open(
        file.zip.filename, "rb"
    ) as stream:  # the lengths in the file itself, which may differ from the directory's
        stream.seek(member.header_offset + 26)
        lengths = np.frombuffer(stream.read(4), "<u2")
    start = member.header_offset + 30 + int(lengths.sum()) + header
    return np.memmap(file.zip.filename, dtype, "r", start, shape, "F" if fortran else "C")


def _digests(pixels: Tensor | StoredPixels) -> list[bytes]:
    return [hashlib.sha256(pixels[number].contiguous().numpy()).digest() for number in range(len(pixels))]
