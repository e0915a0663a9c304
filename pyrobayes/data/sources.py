"""The sources of data sets: the embedded subset, a cache, a Debian package or a download.

The cache has torchvision's layout, so that both can share one folder. Files from every source are checked against the
SHA-256 sums of their decompressed content.
"""

import contextlib
import gzip
import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor

from pyrobayes.data.images import Images
from pyrobayes.errors import InputError, choice
from pyrobayes.files import locked, remove_leftovers, write_atomically
from pyrobayes.options import DATASETS, MINI

SPLITS = ("train", "test")
CLOTHES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGITS = tuple("0123456789")
HIRAGANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Source:
    """A data set that torchvision knows. `sums` are the SHA-256 sums of its decompressed IDX files."""

    torchvision: str
    classes: tuple[str, ...]
    sums: tuple[str, ...] = ()
    debian: str | None = None


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
MINI_SUMS = (
    "cf313073c7eb485392848071d5c433571d7166043e971e3345b095cc30518084",
    "097b93fbcf9bd5bc648b1a457ddc55c9e4ab49afb33f9ecae8ce068399a75e3a",
    "7cee33c3c6414b1b86c25e665a6c4f41584269de3b7cc9768b1d351922845eef",
    "3128d790775889812b73c4f13923559c8b9e281d112c6ea7862acf60a206a909",
)
SOURCES = {
    "fashion-mnist": Source(
        "FashionMNIST",
        CLOTHES,
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        debian="dataset-fashion-mnist",
    ),
    "mnist": Source(
        "MNIST",
        DIGITS,
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "kmnist": Source("KMNIST", HIRAGANA),
    "cifar10": Source("CIFAR10", OBJECTS),
}


def load_data(name: str = "fashion-mnist", split: str = "train", data_dir: str | os.PathLike | None = None) -> Images:
    """Labelled images, fetched first if need be.

    Args:
        name: `fashion-mnist`, `mnist`, `kmnist`, `cifar10`, or `fashion-mnist-mini`, the real, stratified
            subset of 6,000 training and 1,000 test images that comes with the package.
        split: `train` or `test`.
        data_dir: the cache folder; by default `PYROBAYES_DATA`, else a folder of the user's cache.

    Raises:
        InputError: the data can't be had, or is damaged; says what was tried and what to do.
    """
    name, split = choice("data set", name, DATASETS), choice("split", split, SPLITS)
    if name == MINI:
        folder = resources.files("pyrobayes") / "resources" / MINI
        files = [gzip.decompress((folder / f"{file}.gz").read_bytes()) for file in IDX_FILES]
        return _from_idx(name, split, CLOTHES, _checked(files, MINI_SUMS, "the installed package", "install it again"))
    fetch(name, data_dir)
    source, folder = SOURCES[name], _folder(name, data_dir)
    if name == "cifar10":
        from torchvision.datasets import CIFAR10

        try:
            cifar = CIFAR10(folder.parent, train=split == "train")
        except RuntimeError as error:  # its checksums are torchvision's
            raise InputError(f"damaged data in {folder}: {error}; delete it and fetch the data again") from error
        pixels = torch.from_numpy(cifar.data).permute(0, 3, 1, 2).contiguous()
        return Images(name, split, pixels, torch.tensor(cifar.targets), source.classes)
    return _from_idx(name, split, source.classes, [(folder / file).read_bytes() for file in IDX_FILES])


def fetch(name: str = "fashion-mnist", data_dir: str | os.PathLike | None = None) -> str:
    """Fetch a data set into the cache if need be, and check it; returns the name of its source.

    It tries the cache itself, the Debian package where that is installed, torchvision's download, and on Debian the
    download of that package, which needs no root.
    """
    name = choice("data set", name, DATASETS)
    if name == MINI:
        return "embedded in the package"
    source, folder = SOURCES[name], _folder(name, data_dir)
    if all((folder / file).is_file() for file in _files(name)):
        _check_cache(name, folder)
        return f"cache {folder}"
    tried = []
    for description, obtain in (
        (f"Debian package {source.debian}", _from_debian),
        ("torchvision", _from_torchvision),
        (f"apt-get download {source.debian}", _from_apt),
    ):
        if source.debian is None and obtain is not _from_torchvision:
            continue
        try:
            files = obtain(source)
            _checked([files[file] for file in _files(name)], source.sums, description, "try again")
        except Exception as error:  # whatever is wrong with one source, the next may have the data
            tried.append(f"  {description}: {_reason(error)}")
            continue
        if not source.sums:
            sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {file}\n" for file, content in files.items())
            files["SHA256SUMS"] = sums.encode()
        with locked(folder, taken=None):
            remove_leftovers(folder)
            for file, content in files.items():
                write_atomically(folder / file, content)
        return description
    hint = f", or on Debian and Ubuntu install the package {source.debian}" if source.debian else ""
    raise InputError(
        f"can't find the data set {name}. Tried:\n  cache {folder}: not there\n" + "\n".join(tried) + "\n"
        f"Connect to the internet and run 'pyrobayes data fetch --data {name}'{hint}, or put the decompressed "
        f"files into that folder, or take the embedded subset, {MINI}"
    )


def cache_folder(data_dir: str | os.PathLike | None = None) -> Path:
    """The folder that data sets are kept in: `data_dir`, else `PYROBAYES_DATA`, else the user's cache."""
    if data_dir or os.environ.get("PYROBAYES_DATA"):
        return Path(data_dir or os.environ["PYROBAYES_DATA"])
    return platformdirs.user_cache_path("pyrobayes", appauthor=False, opinion=False)


def _folder(name: str, data_dir) -> Path:
    inner = "cifar-10-batches-py" if name == "cifar10" else Path(SOURCES[name].torchvision, "raw")
    return cache_folder(data_dir) / inner


def _files(name: str) -> tuple[str, ...]:
    return CIFAR_FILES if name == "cifar10" else IDX_FILES


def _checked(files: list[bytes], sums: tuple[str, ...], where: str, remedy: str) -> list[bytes]:
    for content, expected in zip(files, sums):
        if (got := hashlib.sha256(content).hexdigest()) != expected:
            raise InputError(f"damaged data from {where}: SHA-256 is {got}, expected {expected}; {remedy}")
    return files


def _check_cache(name: str, folder: Path) -> None:
    sums = SOURCES[name].sums
    if not sums and (recorded := folder / "SHA256SUMS").is_file():
        pairs = [line.split() for line in recorded.read_text().splitlines()]
        by_file = {pair[-1]: pair[0] for pair in pairs if pair}
        sums = tuple(by_file.get(file, "") for file in _files(name))
    for file, expected in zip(_files(name), sums):
        remedy = f"delete the file and run 'pyrobayes data fetch --data {name}'"
        _checked([(folder / file).read_bytes()], (expected,), str(folder / file), remedy)


def _from_debian(source: Source) -> dict[str, bytes]:
    if shutil.which("dpkg") is None:
        raise InputError("dpkg is not there")
    listed = subprocess.run(["dpkg", "-L", source.debian], capture_output=True, text=True)
    if listed.returncode:
        raise InputError("not installed")
    return _gunzip(Path(line) for line in listed.stdout.splitlines())


def _from_torchvision(source: Source) -> dict[str, bytes]:
    import torchvision.datasets

    with tempfile.TemporaryDirectory() as root, open(os.devnull, "w") as silence:
        with contextlib.redirect_stderr(silence), contextlib.redirect_stdout(silence):
            for train in (True, False):
                getattr(torchvision.datasets, source.torchvision)(root, train=train, download=True)
        wanted = (*IDX_FILES, *CIFAR_FILES)
        return {path.name: path.read_bytes() for path in Path(root).rglob("*") if path.name in wanted}


def _from_apt(source: Source) -> dict[str, bytes]:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise InputError(f"{program} is not there")
    with tempfile.TemporaryDirectory() as root:
        own_lists = ["-o", f"Dir::State::Lists={root}/lists", "-o", f"Dir::Cache={root}/cache"]
        download = ["download", source.debian]
        # The system's package lists may be missing, and only root may renew them: then fetch some of our own.
        for commands in (
            [["apt-get", *download]],
            [["apt-get", *own_lists, "update"], ["apt-get", *own_lists, *download]],
        ):
            runs = [subprocess.run(command, cwd=root, capture_output=True, text=True) for command in commands]
            if runs[-1].returncode == 0:
                break
        else:
            raise InputError((runs[-1].stderr.strip().splitlines() or ["failed"])[-1])
        package = next(Path(root).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, f"{root}/unpacked"], check=True, capture_output=True)
        return _gunzip(Path(root, "unpacked").rglob("*.gz"))


def _gunzip(paths) -> dict[str, bytes]:
    return {path.stem: gzip.decompress(path.read_bytes()) for path in paths if path.stem in IDX_FILES}


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the file {error} was not in it"
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _from_idx(name: str, split: str, classes: tuple[str, ...], files: list[bytes]) -> Images:
    images, labels = files[:2] if split == "train" else files[2:]
    return Images(name, split, read_idx(images)[:, None], read_idx(labels).long(), classes)


def read_idx(content: bytes) -> Tensor:
    """An IDX file of unsigned bytes as a tensor (http://yann.lecun.com/exdb/mnist, section on file formats)."""
    start = 4 + 4 * (content[3] if len(content) > 3 else 0)
    shape = np.frombuffer(content[4:start], ">u4").tolist() if len(content) >= start > 4 else []
    if content[:3] != b"\0\0\x08" or not shape or 0 in shape or len(content) != start + math.prod(shape):
        raise InputError("damaged data: not a whole IDX file of unsigned bytes; delete it and fetch the data again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)
