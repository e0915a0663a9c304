"""The folder of a run: every damage is one line, and nothing of a run is lost or half made."""

import json
import shutil

import pytest
import torch

from pyrobayes import InputError, Progress, TrainingOptions, fit, load
from pyrobayes.tensor_files import read_tensors, save_tensors
from pyrobayes.training.checkpoint import CONFIG, METRICS, MODEL, RESUME
from pyrobayes.training.metrics import Epoch, as_lines, read_metrics

ONE_EPOCH = TrainingOptions(epochs=1)


@pytest.fixture
def run(make, tiny_images, tmp_path):
    """A trained tiny GBZ."""
    fit(make("gbz"), tiny_images, TrainingOptions(epochs=1), out=tmp_path / "gbz")
    return tmp_path / "gbz"


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: flip_a_byte(run / MODEL), "its checksum is wrong"),
        (lambda run: (run / MODEL).write_bytes((run / MODEL).read_bytes()[:-100]), "damaged file"),
        (lambda run: (run / MODEL).write_bytes(b"nothing"), "damaged file"),
        (lambda run: (run / MODEL).unlink(), "missing file"),
        (lambda run: (run / "config.json").unlink(), "no trained model in"),
        (lambda run: (run / "config.json").write_text("{"), "damaged file"),
        (lambda run: (run / "config.json").write_text("[]"), "it holds no object"),
        (lambda run: (run / "config.json").write_text("null"), "it holds no object"),
        (lambda run: (run / "config.json").write_text("[" * 200_000 + "]" * 200_000), "nested too deep"),
        (
            lambda run: (run / "config.json").write_text((run / "config.json").read_text().replace('"gbz"', '"gfz"')),
            "holds weights of 'gbz', expected 'gfz'",
        ),
        (
            lambda run: (run / "config.json").write_text((run / "config.json").read_text().replace(": 12,", ": 13,")),
            "belongs to another configuration",
        ),
        (
            lambda run: (run / "config.json").write_text((run / "config.json").read_text().replace("0.003", "0.004")),
            "belongs to another configuration",
        ),
    ],
)
def test_damaged_runs_are_refused(run, damage, words):
    damage(run)
    with pytest.raises(InputError, match=words):
        load(run)


def test_a_resume_file_holds_all_that_is_needed(run):
    tensors, metadata = read_tensors(run / RESUME)
    kinds = {name.split(".")[0] for name in tensors}
    assert kinds == {"weights", "optimizer", "random"}
    assert {"model", "config", "configuration", "epochs", "place"} == metadata.keys()


def forge(path, change):
    """Change tensors or metadata of a file, with the checksum that belongs to them."""
    tensors, metadata = read_tensors(path)
    change(tensors, metadata)
    save_tensors(path, tensors, metadata)


WEIGHT = "p_y.network.layers.0.weight"


def in_place(**values):
    return lambda tensors, metadata: metadata.update(place=json.dumps(values))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, _: tensors.pop(WEIGHT), f"the tensor {WEIGHT} is missing"),
        (lambda tensors, _: tensors.update(more=torch.zeros(1)), "the tensor more belongs to nothing"),
        (lambda tensors, _: tensors.update({WEIGHT: torch.zeros(2, 3)}), r"is float32 \[2, 3\], expected float32 \["),
        (lambda tensors, _: tensors[WEIGHT].fill_(float("nan")), "holds numbers that aren't finite"),
        (lambda tensors, _: tensors.update({WEIGHT: tensors[WEIGHT].int()}), "is int32 .*, expected float32"),
        (lambda tensors, _: tensors.update({WEIGHT: tensors[WEIGHT] + 0j}), "is complex64 .*, expected float32"),
        (lambda _, metadata: metadata.update(epoch="x"), "it doesn't say how many epochs it was trained"),
        (lambda _, metadata: metadata.pop("epoch"), "it doesn't say how many epochs it was trained"),
    ],
)
def test_wrong_content_of_a_model_is_refused(run, change, words):
    forge(run / MODEL, change)
    with pytest.raises(InputError, match=f"damaged file .*{MODEL}: .*{words}.*; train the model with resume=True"):
        load(run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, _: tensors.pop(f"weights.{WEIGHT}"), f"the tensor {WEIGHT} is missing"),
        (lambda tensors, _: tensors.pop("optimizer.0.exp_avg"), "the tensor 0.exp_avg is missing"),
        (lambda tensors, _: tensors.update({"optimizer.0.exp_avg": torch.zeros(7)}), r"is float32 \[7\]"),
        (lambda tensors, _: tensors["optimizer.0.exp_avg_sq"].fill_(float("inf")), "aren't finite"),
        (lambda tensors, _: tensors.update({"optimizer.999.step": torch.zeros(())}), "999.step belongs to nothing"),
        (lambda tensors, _: tensors.update({"optimizer.x": torch.zeros(())}), "the tensor x belongs to nothing"),
        (lambda tensors, _: tensors.update({"average.x": torch.zeros(())}), "the tensor x belongs to nothing"),
        (lambda tensors, _: tensors.update({"other.x": torch.zeros(())}), "the tensor other.x belongs to nothing"),
        (lambda tensors, _: tensors.pop("random.cpu"), "random states of nothing, expected cpu"),
        (lambda tensors, _: tensors["random.cpu"].zero_(), "its random state can't be used"),
        (lambda tensors, _: tensors.update({"random.tpu": torch.zeros(1)}), "random states of cpu, tpu"),
        (lambda tensors, _: tensors.update({"random.cuda": torch.zeros(1)}), "random state of cuda is float32|must be"),
        (in_place(train=1), "unknown entries"),
        (in_place(step=0, elbo_sum=0.0, seconds=0.0, train=1), "unknown entries train"),
        (in_place(step=-1, elbo_sum=0.0, seconds=0.0), "no numbers below 0"),
        (in_place(step=10**9, elbo_sum=0.0, seconds=0.0), "it is at step 1000000000 after 1 epochs"),
        (in_place(step=1.5, elbo_sum=0.0, seconds=0.0), "expected a whole number"),
        (in_place(step=0, elbo_sum=float("nan"), seconds=0.0), "NaN is no number of JSON"),
        (lambda _, metadata: metadata.update(place="[" * 200_000 + "]" * 200_000), "nested too deep"),
        (lambda _, metadata: metadata.update(place="{"), "damaged file"),
        (lambda _, metadata: metadata.pop("place"), "damaged file"),
        (lambda _, metadata: metadata.update(epochs='[{"epoch": 1}]'), "damaged file"),
        (lambda _, metadata: metadata.update(epochs='{"run": 1}'), "damaged file"),
        (lambda _, metadata: metadata.update(epochs=metadata["epochs"].replace("}", "}, {}", 1)), "damaged file"),
        (lambda _, metadata: metadata.update(configuration="[" * 200_000), "its configuration can't be read"),
        (lambda _, metadata: metadata.update(configuration="[]"), "its configuration can't be read"),
        (lambda _, metadata: metadata.pop("configuration"), "its configuration can't be read"),
    ],
)
def test_wrong_content_of_a_checkpoint_is_refused(run, make, tiny_images, change, words):
    forge(run / RESUME, change)
    (run / METRICS).unlink()  # so that the run doesn't count as finished
    with pytest.raises(InputError, match=words) as told:
        fit(make("gbz"), tiny_images, ONE_EPOCH, out=run, resume=True)
    assert "\n" not in str(told.value)
    assert f"{RESUME}: " in str(told.value) and "or train the model again with overwrite=True" in str(told.value)
    load(run)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"?"), lambda path: path.unlink()])
def test_a_finished_run_needs_no_checkpoint(run, make, tiny_images, damage):
    finished = load(run).factorization
    damage(run / RESUME)
    with pytest.raises(InputError, match=r"already holds a run: go on with it \(resume=True\)"):
        fit(make("gbz"), tiny_images, ONE_EPOCH, out=run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    again = make("gbz", seed=5)
    (epoch,) = fit(again, tiny_images, ONE_EPOCH, out=run, resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert epoch == read_metrics(run / METRICS)[0]
    assert all(torch.equal(again.state_dict()[name], value) for name, value in finished.state_dict().items())
    with pytest.raises(InputError, match="another configuration"):
        fit(make("gbz"), tiny_images, TrainingOptions(epochs=2), out=run, resume=True)


def test_every_damage_of_the_metrics_is_noticed(tmp_path, run):
    epochs = read_metrics(run / METRICS)
    assert (run / METRICS).read_text() == as_lines(epochs)
    epochs = [
        Epoch(1, -500.25, -480.5, 12.5, 0.75, False, 0.003, 1.25)
    ]  # no digit of these numbers is beyond a float's
    text = as_lines(epochs)
    for place, letter in enumerate(text[:-1]):
        for other in "0", "7", "x":
            if other != letter:
                (tmp_path / METRICS).write_text(text[:place] + other + text[place + 1 :])
                with pytest.raises(InputError, match="damaged file .*metrics.jsonl"):
                    read_metrics(tmp_path / METRICS)
    for damaged in (text + text, text + "[" * 200_000, text + "{}", "5", "[]"):
        (tmp_path / METRICS).write_text(damaged)
        with pytest.raises(InputError, match="damaged file .*metrics.jsonl"):
            read_metrics(tmp_path / METRICS)
    older = {name: value for name, value in json.loads(text).items() if name != "sha256"}
    (tmp_path / METRICS).write_text(json.dumps(older) + "\n")
    assert read_metrics(tmp_path / METRICS) == epochs


def test_a_folder_that_is_deleted_meanwhile_is_not_written_anew(make, tiny_images, tmp_path):
    class Deletes(Progress):
        def epoch(self, model, epoch, epochs):
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(InputError, match="run was deleted or replaced .* nothing more is written there"):
        fit(make("gbz"), tiny_images, TrainingOptions(epochs=3), out=tmp_path / "run", progress=Deletes())
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_replaced_meanwhile_is_left_alone(make, tiny_images, tmp_path):
    class Replaces(Progress):
        def epoch(self, model, epoch, epochs):
            if model == "gbz":
                shutil.move(tmp_path / "run", tmp_path / "away")
                fit(make("dbx"), tiny_images, ONE_EPOCH, out=tmp_path / "run", progress=False)

    with pytest.raises(InputError, match="run was deleted or replaced"):
        fit(make("gbz"), tiny_images, TrainingOptions(epochs=3), out=tmp_path / "run", progress=Replaces())
    assert load(tmp_path / "run").factorization.name == "dbx"
    resumed = fit(make("gbz"), tiny_images, TrainingOptions(epochs=3), out=tmp_path / "away", resume=True)
    assert len(resumed) == 3


def test_leftovers_of_killed_writes_are_removed_at_the_next_start(run, make, tiny_images):
    ours = [f".{name}.a1b2_3cd.pyrobayes" for name in (MODEL, RESUME, CONFIG, METRICS)]
    others = [".notes.a1b2_3cd.pyrobayes", f".{MODEL}.a1b2_3cd", "notes"]
    for name in ours + others:
        (run / name).write_text("half")
    fit(make("gbz"), tiny_images, ONE_EPOCH, out=run, resume=True)
    assert sorted(path.name for path in run.iterdir()) == sorted([*others, ".lock", MODEL, RESUME, CONFIG, METRICS])


@pytest.mark.parametrize("folder", [5, None, 1.5, ["runs"]])
def test_a_folder_of_a_wrong_kind_is_refused(folder):
    with pytest.raises(InputError, match="folder must be the path of a run, such as runs/gbz, got "):
        load(folder)
