"""Data sets: where they come from, and that they are what they should be."""

import gzip
import shutil
import stat
import subprocess
import sys

import numpy as np
import platformdirs
import pytest
import torch

from pyrobayes import Images, InputError, data, fetch, load_data
from pyrobayes.data import sources
from pyrobayes.data.declared import CIFAR_FILES, DATASETS, IDX_FILES, DataSet
from pyrobayes.data.sources import read_idx


def write_idx(values):
    """The inverse of read_idx."""
    header = bytes([0, 0, 8, values.dim()]) + np.array(values.shape, dtype=">i4").tobytes()
    return header + values.to(torch.uint8).numpy().tobytes()


def stratified_head(images, per_class):
    """The first images of every class, in their order; how the embedded subset was made."""
    indices = [torch.nonzero(images.labels == c)[:per_class, 0] for c in range(len(images.classes))]
    return images.take(torch.cat(indices).sort().values)


def test_embedded_subset_is_stratified(mini):
    test = load_data("fashion-mnist-mini", "test")
    assert mini.pixels.shape == (6000, 1, 28, 28) and test.pixels.shape == (1000, 1, 28, 28)
    assert mini.labels.bincount().tolist() == [600] * 10 and test.labels.bincount().tolist() == [100] * 10
    x, y = test.batch(torch.arange(3))
    assert x.dtype == torch.float32 and 0 <= x.min() and x.max() == 1 and y.shape == (3,)


def test_embedded_subset_is_part_of_the_full_data(mini):
    folder = data.cache_folder() / "FashionMNIST" / "raw"
    if not folder.is_dir() and not (shutil.which("dpkg") and not subprocess.run(
        ["dpkg", "-L", "dataset-fashion-mnist"], capture_output=True
    ).returncode):  # fmt: skip
        pytest.skip("the full data set is not on this machine")
    assert stratified_head(load_data("fashion-mnist"), 600).sha256 == mini.sha256


def test_hold_out_is_disjoint_and_always_the_same(mini):
    training, validation = mini.hold_out()
    assert (len(training), len(validation)) == (5500, 500)
    assert torch.equal(mini.hold_out()[1].pixels, validation.pixels)
    rows = {bytes(image.flatten().tolist()) for image in training.pixels}
    shared = sum(bytes(image.flatten().tolist()) in rows for image in validation.pixels)
    assert shared < 5  # but for duplicates in the data itself


def test_idx_files_round_trip():
    values = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    assert torch.equal(read_idx(write_idx(values)), values)


def idx(sizes, pixels):
    """An IDX file that says these sizes."""
    return bytes([0, 0, 8, len(sizes)]) + np.array(sizes, dtype=">i4").tobytes() + bytes(pixels)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0",
        b"\0\0\x08\x03",
        write_idx(torch.ones(2, 3))[:-1],
        b"\0\0\x0d\x01" + bytes(8),
        idx([-2, -3], 6),
        idx([-1, 6], 6),
        idx([0], 0),
        idx([2, 0, 3], 0),
        idx([65536] * 4, 0),  # their product is 0 in 64 bits
        idx([], 1),
    ],
)
def test_damaged_idx_files_are_refused(content):
    with pytest.raises(InputError, match="not a whole IDX file"):
        read_idx(content)


PIXELS, LABELS = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pixels": torch.zeros(3, 8, 8, 3, dtype=torch.uint8)}, r"looks like .*give pixels.permute\(0, 3, 1, 2\)"),
        ({"pixels": torch.zeros(3, 28, 28, 1, dtype=torch.uint8)}, r"got \[3, 28, 28, 1\], which looks like"),
        ({"pixels": PIXELS[:, 0]}, r"pixels must be torch.uint8 .*, got torch.uint8 of shape \[3, 8, 8\]"),
        ({"pixels": PIXELS / 255}, "got torch.float32 of shape"),
        ({"pixels": PIXELS.numpy()}, "got uint8 of shape"),
        ({"pixels": None}, "pixels must be .*, got NoneType"),
        ({"labels": None}, r"labels must be torch.long \[3\], one for each image, got NoneType"),
        ({"labels": LABELS[:2]}, r"got torch.int64 of shape \[2\]"),
        ({"labels": LABELS + 2}, "labels must lie from 0 to 1, got 2 to 2"),
        ({"labels": LABELS - 1}, "labels must lie from 0 to 1, got -1 to -1"),
        ({"classes": None}, "classes must be the names of the classes, texts in a tuple, got None"),
        ({"classes": "ab"}, "classes must be .*, got 'ab'"),
        ({"classes": (0, 1)}, "classes must be"),
    ],
)
def test_what_is_no_image_is_refused(wrong, words):
    right = {"name": "o", "split": "train", "pixels": PIXELS, "labels": LABELS, "classes": ("a", "b")}
    assert len(Images(**right)) == 3
    with pytest.raises(InputError, match=words):
        Images(**right | wrong)


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch, tmp_path):
    from platformdirs import macos, unix, windows

    monkeypatch.delenv("PYROBAYES_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(windows, "get_win_folder", lambda name: f"{tmp_path}/{name}")
    for system, inside in (
        (unix.Unix, ".cache/pyrobayes"),
        (macos.MacOS, "Library/Caches/pyrobayes"),
        (windows.Windows, "CSIDL_LOCAL_APPDATA/pyrobayes"),
    ):
        monkeypatch.setattr(platformdirs, "PlatformDirs", system)
        assert data.cache_folder() == tmp_path / inside
    monkeypatch.setenv("PYROBAYES_DATA", "/mine")
    assert str(data.cache_folder()) == "/mine" and str(data.cache_folder("/yours")) == "/yours"


FILES = {
    file: write_idx(torch.arange(20 * 16).reshape(20, 4, 4) % 251 if "images" in file else torch.arange(20) % 10)
    for file in IDX_FILES
}


@pytest.fixture
def source(monkeypatch, tmp_path):
    """A fashion-mnist of 20 images of 4x4 pixels, that no source has."""
    import dataclasses
    import hashlib

    sums = tuple(hashlib.sha256(FILES[file]).hexdigest() for file in IDX_FILES)
    monkeypatch.setitem(DATASETS, "fashion-mnist", dataclasses.replace(DATASETS["fashion-mnist"], sums=sums))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sources, "_from_torchvision", lambda source: missing("no connection"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def missing(reason):
    raise OSError(reason)


def program(folder, name, script):
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def gzipped(folder):
    folder.mkdir(parents=True)
    for file, content in FILES.items():
        (folder / f"{file}.gz").write_bytes(gzip.compress(content))
    return folder


def test_the_error_lists_what_was_tried(source):
    with pytest.raises(InputError) as error:
        load_data("fashion-mnist", data_dir=source / "cache")
    message = str(error.value)
    for words in (
        "cache ", "Debian package dataset-fashion-mnist: dpkg is not there", "torchvision: no connection",
        "apt-get download dataset-fashion-mnist: apt-get is not there", "embedded subset, fashion-mnist-mini",
    ):  # fmt: skip
        assert words in message
    assert not (source / "cache").exists()


def test_from_torchvision_then_from_the_cache(source, monkeypatch):
    monkeypatch.setattr(sources, "_from_torchvision", lambda source: dict(FILES))
    assert fetch("fashion-mnist", source / "cache") == "torchvision"
    assert fetch("fashion-mnist", source / "cache").startswith("cache ")
    images = load_data("fashion-mnist", "test", source / "cache")
    assert images.pixels.shape == (20, 1, 4, 4) and images.labels[13] == 3


def test_from_an_installed_debian_package(source):
    folder = gzipped(source / "usr")
    program(source, "dpkg", f"ls -d {folder}/*")
    assert fetch("fashion-mnist", source / "cache") == "Debian package dataset-fashion-mnist"
    assert len(load_data("fashion-mnist", "train", source / "cache")) == 20


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_from_a_debian_package_that_is_downloaded(source):
    gzipped(source / "tree" / "usr" / "share")
    (source / "tree" / "DEBIAN").mkdir()
    (source / "tree" / "DEBIAN" / "control").write_text(
        "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: none\n"
    )
    real = ["/usr/bin/dpkg-deb", "--build", source / "tree", source / "package.deb"]
    subprocess.run(real, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin"})
    program(source, "dpkg-deb", 'exec /usr/bin/dpkg-deb "$@"')
    # Refuses as long as the package lists are the system's, as apt-get does where they are missing.
    program(
        source,
        "apt-get",
        f'case "$*" in *Lists*update) ;; *Lists*download*) cp {source}/package.deb . ;;\n'
        '*) echo "E: Unable to locate package" >&2; exit 100 ;; esac',
    )
    assert fetch("fashion-mnist", source / "cache") == "apt-get download dataset-fashion-mnist"
    assert len(load_data("fashion-mnist", "train", source / "cache")) == 20


def test_leftovers_of_a_killed_fetch_are_removed(source, monkeypatch):
    monkeypatch.setattr(sources, "_from_torchvision", lambda source: dict(FILES))
    folder = source / "cache" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / f".{IDX_FILES[0]}.a1b2_3cd.pyrobayes").write_text("half")
    fetch("fashion-mnist", source / "cache")
    assert sorted(path.name for path in folder.iterdir()) == sorted([".lock", *IDX_FILES])


def test_a_wrong_download_is_not_kept(source, monkeypatch):
    wrong = dict(FILES) | {IDX_FILES[0]: write_idx(torch.zeros(20, 4, 4))}
    monkeypatch.setattr(sources, "_from_torchvision", lambda source: wrong)
    with pytest.raises(InputError, match="damaged data from torchvision: SHA-256 is .* expected"):
        fetch("fashion-mnist", source / "cache")
    assert not (source / "cache").exists()


@pytest.mark.parametrize("damage", [lambda content: content[:-5], lambda content: content[:-1] + b"\xff"])
def test_a_damaged_cache_is_told(source, monkeypatch, damage):
    monkeypatch.setattr(sources, "_from_torchvision", lambda source: dict(FILES))
    fetch("fashion-mnist", source / "cache")
    file = source / "cache" / "FashionMNIST" / "raw" / IDX_FILES[2]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        InputError, match="damaged data from .*t10k-images.* delete the file and run 'pyrobayes data fetch"
    ):
        load_data("fashion-mnist", "test", source / "cache")


def test_data_sets_without_known_sums_are_pinned_when_they_are_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_from_torchvision", lambda source: dict(FILES))
    fetch("kmnist", tmp_path)
    assert len(load_data("KMNIST", "train", tmp_path)) == 20
    file = tmp_path / "KMNIST" / "raw" / IDX_FILES[1]
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    with pytest.raises(InputError, match="damaged data"):
        load_data("kmnist", "train", tmp_path)


def test_the_torchvision_classes_exist():
    import torchvision.datasets

    assert all(hasattr(torchvision.datasets, each.torchvision or "MNIST") for each in DATASETS.values())


def test_declarations_are_read_without_torch():
    code = "import sys, pyrobayes.data.declared, pyrobayes_cli.options; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_declaration_makes_a_data_set(tmp_path, monkeypatch):
    from pyrobayes.results.names import data_name

    monkeypatch.setitem(DATASETS, "letters", DataSet("Letters", tuple("abcdefghij"), "MNIST"))
    monkeypatch.setattr(sources, "_from_torchvision", lambda source: dict(FILES))
    assert load_data("Letters", "test", tmp_path).name == "letters" and data_name("letters") == "Letters"
    with pytest.raises(InputError, match="known are .*, letters"):
        load_data("no letter")


def test_cifar10_is_read_from_torchvisions_cache(tmp_path, monkeypatch):
    import hashlib
    import pickle

    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batch = pickle.dumps({"data": torch.randint(0, 256, (3, 3072), dtype=torch.uint8).numpy(), "labels": [1, 0, 9]})
    meta = pickle.dumps({"label_names": list("abcdefghij")})
    for file in CIFAR_FILES:
        (folder / file).write_bytes(meta if file == "batches.meta" else batch)
    digest = hashlib.md5(batch).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{i}", digest] for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", digest]])
    meta_of = {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(meta).hexdigest()}
    monkeypatch.setattr(CIFAR10, "meta", meta_of)
    images = load_data("cifar10", "train", tmp_path)
    assert images.pixels.shape == (15, 3, 32, 32) and images.labels[2] == 9
    assert len(load_data("cifar10", "test", tmp_path)) == 3
    (folder / "test_batch").write_bytes(batch[:-1])
    with pytest.raises(InputError, match="damaged data in .*; delete it and fetch the data again"):
        load_data("cifar10", "test", tmp_path)


@pytest.mark.parametrize(
    "attributes, words",
    [
        ({"data": torch.zeros(2, 16, 16, dtype=torch.uint8).numpy(), "targets": [0, 1]}, "dimension|axis|Dimension"),
        ({"labels": [0, 1]}, "no attribute 'data'"),
        ({"data": torch.zeros(2, 8, 8, 3).numpy(), "targets": [0, 1]}, "pixels must be torch.uint8"),
        (
            {"data": torch.zeros(2, 8, 8, 3, dtype=torch.uint8).numpy(), "targets": [0, 12]},
            "labels must lie from 0 to 9",
        ),
    ],
)
def test_another_layout_of_torchvision_is_refused_in_one_line(attributes, words, tmp_path, monkeypatch):
    import torchvision.datasets

    other = type("Other", (), {"__init__": lambda self, root, train: None, **attributes})
    monkeypatch.setattr(torchvision.datasets, "Other", other, raising=False)
    declared = DataSet("Others", tuple("abcdefghij"), "Other", folder="other", files=("images",))
    monkeypatch.setitem(DATASETS, "others", declared)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "images").write_bytes(b"")
    with pytest.raises(InputError, match=f"can't read the data set others in .*({words}).*sources.py") as refused:
        load_data("others", "train", tmp_path)
    assert len(str(refused.value).splitlines()) == 1
