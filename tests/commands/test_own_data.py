"""Commands on images of one's own: a run remembers them by their content, and finds them again."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image
from support import TINY, invoke

from pyrobayes import Images, InputError, TrainingOptions, build, fit
from pyrobayes.commands.context import Context
from pyrobayes.commands.report import read_results
from pyrobayes.data.source import ImageSource
from pyrobayes.options import EvaluationOptions
from pyrobayes.training.checkpoint import Config

NETWORKS = "--networks cifar --latent 5 --hidden 12 --channels 6,4 --epochs 1".split()
TWICE = 2  # the number of an image that is there a second time
FEW = "--particles 1 --images 4".split()


@pytest.fixture
def folder(tmp_path, monkeypatch, empty_figures):
    """The current folder has `photos`: fourteen RGB images of two sizes in two classes; one is there twice."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("café", "tea room")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(7):
            pixels = np.random.default_rng(10 * number + (i or TWICE)).integers(0, 256, (9, 7 + i % 2, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def told(*arguments):
    """The output of a command that succeeds."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments):
    """The error of a command that fails, of one line."""
    result = invoke(*arguments)
    assert result.exit_code == 1 and "Traceback" not in result.output, result.output
    return result.output.strip().splitlines()[-1]


def test_a_run_finds_its_images_again_or_says_what_changed(folder):
    assert "Error: the images of photos have 2 sizes" in refused("train", "dbx", *NETWORKS, "--data", "photos")
    assert not (folder.parent / "runs").exists()
    chosen = ["--data", "photos", "--resize", "8x6", "--test-share", "0.3"]
    told("train", "dbx", *NETWORKS, *chosen)
    config = Config.read("runs/dbx")
    assert config.source == ImageSource("photos", None, "8x6", 0.3)
    assert config.image_shape == (3, 8, 6) and config.classes == ("café", "tea room")

    assert "Data: photos, test images." in told("evaluate", *FEW)
    told("attack", *FEW, "--eps-range", "0.1")
    command = told("report") and (folder.parent / "runs" / "report.md").read_text()
    assert "--data photos --resize 8x6 --test-share 0.3" in command and config.data_sha256 in command
    assert config.networks.channels == (6, 4) and "--channels 6,4" in command

    moved = folder.rename(folder.with_name("my pictures"))
    gone = f"Error: there is no folder or .npz file photos in {os.getcwd()}: give the place of the images (--data)"
    assert refused("evaluate", *FEW) == gone == refused("train", "dbx", "--resume")
    made = read_results("runs")
    (
        told("evaluate", *FEW, "--data", "my pictures", "--resume"),
        told("attack", *FEW, "--data", moved, "--eps-range", "0.1"),
    )
    assert read_results("runs")["evaluate"].data == made["evaluate"].data == made["attack"].data
    told("train", "dbx", "--resume", "--data", "my pictures")
    with pytest.raises(InputError, match="train it again"):
        Context(ImageSource("my pictures", resize="9x6")).open(["dbx"], EvaluationOptions())

    (moved / "café" / "1.png").unlink(), (moved / "tea room").rename(moved / "tea")
    changed = refused("evaluate", *FEW, "--data", "my pictures")
    for words in (
        "was trained on photos, and my pictures has other training images, 9 now",
        "their classes are café, tea,",
    ):
        assert words in changed
    assert config.data_sha256 in changed and "(--data), or train it again" in changed
    assert "data-sha256 is" in refused("train", "dbx", "--resume", "--data", "my pictures")


def test_images_in_training_and_test_are_told(folder):
    """One of the two alike is for tests with this share, the other one for training."""
    notes = invoke("train", "dbx", *NETWORKS, "--data", "photos", "--resize", "8", "--test-share", "0.6").stderr
    told = "of the 8 test images of photos are among the training images too"
    assert told not in notes
    assert told in invoke("evaluate", *FEW).stderr


def test_images_that_python_gave_are_found_in_a_file(folder):
    images = Images.from_folder(folder, resize=8)
    few = Images.from_arrays(images.pixels, images.labels, classes=images.classes)
    model = build("dbx", TINY, image_shape=(3, 8, 8), num_classes=2)
    fit(model, few, TrainingOptions(epochs=1), out="runs/dbx", progress=False)
    assert "runs/dbx was trained on images that Python gave it, arrays: save them as an .npz" in refused("evaluate")
    halves = {"train": images, "test": images[:8]}
    arrays = {f"{split}_images": half.pixels.numpy() for split, half in halves.items()}
    labels = {f"{split}_labels": half.labels.numpy() for split, half in halves.items()}
    np.savez("saved.npz", classes=images.classes, **arrays, **labels)
    (result,) = json.loads(invoke("evaluate", *FEW[:2], "--data", "saved.npz", "--json").stdout)
    assert (result["data"], result["images"]) == ("arrays", 8)


@pytest.mark.parametrize("command", ["robustness", "detect"])
def test_commands_that_need_training_images_find_them(folder, command, monkeypatch):
    images, seen = Images.from_folder(folder, resize=8), []

    def stop(classifier, *given, **more):
        seen.extend(each for each in given if isinstance(each, Images) and each.split == "train")
        raise InputError("enough")

    monkeypatch.setattr("pyrobayes.commands.robustness.assess", stop)
    monkeypatch.setattr("pyrobayes.commands.detect.fit_detector", stop)
    model = build("dfx", TINY, image_shape=(3, 8, 8), num_classes=2)
    fit(model, images, TrainingOptions(epochs=1), out="runs/dfx", progress=False)
    assert refused(command, "--images", 2) == "Error: enough"
    assert [each.sha256 for each in seen] == [images.sha256]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["train", "dbx", "--data", "fotos"],
            "unknown data set 'fotos': known are fashion-mnist, .*; there is no folder or",
        ),
        (["train", "dbx", "--data", "photos/café/1.png"], "images of one's own are a folder or an .npz file"),
        (["train", "dbx", "--resize", "8"], "--resize: this is for images of your own, whose folder or .npz file"),
        (["evaluate", "--data", "mnist", "--classes", "a,b"], "--classes: this is for images of your own"),
        (
            ["train", "dbx", "--data", "photos", "--classes", "tea"],
            "classes must be two different names or more, got tea",
        ),
        (
            ["train", "dbx", "--data", "photos", "--classes", "tea, café"],
            "photos has no folder for the class tea: it has",
        ),
        (["train", "dbx", "--data", "photos", "--resize", "big"], "resize must be HEIGHTxWIDTH such as 64x48"),
        (["train", "dbx", "--data", "photos", "--test-share", "2"], "test share must be a share above 0 and below 1"),
        (
            ["attack", "--pretrained", "--data", "photos", "--resize", "8"],
            "was trained on fashion-mnist, and photos has",
        ),
    ],
)
def test_what_is_no_data_is_refused(folder, arguments, words):
    assert re.search(words, refused(*arguments))
