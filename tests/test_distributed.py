"""Two processes do what one does."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from support import FEW_IMAGES, LONG_TRAINING, invoke, wait_until

from pyrobayes import InputError, distributed
from pyrobayes.evaluation.robustness import known_broken
from pyrobayes.tensor_files import read_tensors
from pyrobayes.training.checkpoint import MODEL, RESUME

SCRIPT = """
import atexit, dataclasses, json, os, pathlib, sys
import torch
from pyrobayes import BayesClassifier, InputError, Networks, Progress, TrainingOptions
from pyrobayes import attack, build, certify, distributed, evaluate, fit, load_data
from pyrobayes.codec import encode
from pyrobayes.evaluation.robustness import known_broken
from pyrobayes.tensor_files import save_tensors

out, words = sys.argv[1:]

def tell_threads():
    threads = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    open(f"{out}/threads{rank}.json", "w").write(json.dumps(threads))

if sys.platform == "linux" and words == "together":
    atexit.register(tell_threads)  # which runs after what is registered later
distributed.join(torch.device("cpu"))
rank, networks = distributed.rank(), Networks(latent=5, hidden=12, channels=6)
images, test = load_data("fashion-mnist-mini", "train"), load_data("fashion-mnist-mini", "test").head(40)

class Dies(Progress):
    def epoch(self, model, epoch, epochs):
        if rank == 1 and epoch.epoch == 2:
            os._exit(3)

def train(folder, **more):
    options = TrainingOptions(epochs=3, batch_size=26, train_particles=2)  # 183 images: the last batch has one
    epochs = fit(build("gfz", networks), images.head(200), options, out=f"{out}/{folder}", **more)
    return [epoch.elbo for epoch in epochs]

def disagree():
    try:
        fit(build("gbz", networks, seed=rank), images.head(50))
    except InputError as error:
        open(f"{out}/refused{rank}", "w").write(str(error))

def make_known_broken():
    known_broken.TRAINING = dataclasses.replace(known_broken.TRAINING, epochs=1, batch_size=26)
    for saturated in (False, True):
        weights = known_broken.known_broken_model(images.head(120), saturated).state_dict()
        save_tensors(f"{out}/{saturated}-{rank}.safetensors", weights, {})

def command_line():
    from matplotlib.figure import Figure
    from pyrobayes.commands import context
    from pyrobayes.results import figures
    from pyrobayes_cli.main import main

    save = figures.save
    figures.save = lambda figure, path: save(Figure((1, 1)), path)  # drawing takes longest
    context.load_data = lambda *given: load_data(*given).head(200)
    for command in (
        "train dbx gbz --epochs 1 --channels 4 --hidden 20 --data fashion-mnist-mini",
        "evaluate --images 20 --batch-size 5 --precision bf16",
        "attack gbz --images 20 --batch-size 5 --eps-range 0.1",
    ):
        main([*command.split(), "--runs", out + "/runs"], standalone_mode=False)
    try:
        main(["evaluate", "gfz", "--runs", out + "/runs"])
    except SystemExit as left:
        open(f"{out}/status{rank}", "w").write(str(left.code))

if words == "dies":
    train("died", progress=Dies())
untrained = BayesClassifier(build("gbz", networks), particles=3)
attacked = attack(untrained, test, [0.0, 0.1], batch_size=16)
result = {
    "processes": distributed.processes(),
    "evaluated": encode(evaluate(untrained, test, batch_size=16)),
    "certified": encode(certify(untrained, test, draws=6, selection_draws=2, batch_size=24)),
    "attacked": encode(attacked) | {"examples": attacked.examples.double().sum().item()},
    "elbo": train("gfz"),
}
make_known_broken()
if distributed.processes() > 1:
    result["elbo resumed"] = train("died", resume=True)
    disagree()
    command_line()
if rank == 0:
    pathlib.Path(out, "result.json").write_text(json.dumps(result))
"""


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The folder of a single process, which is this one."""
    folder = tmp_path_factory.mktemp("single")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_broken, "TRAINING", known_broken.TRAINING)
        patch.setattr(sys, "argv", ["script.py", str(folder), "alone"])
        exec(SCRIPT, {})
    return folder


def torchrun(folder, words):
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [*TORCHRUN, str(script), str(folder), words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def died(tmp_path_factory):
    """The folder of two processes, one of which died."""
    folder = tmp_path_factory.mktemp("double")
    done = torchrun(folder, "dies")
    assert done.returncode != 0
    assert not (folder / "result.json").exists() and not (folder / "gfz").exists()
    return folder


@pytest.fixture(scope="module")
def double(died):
    """The folder of two processes that go on with what died, and what they printed."""
    done = torchrun(died, "together")
    assert done.returncode == 0, done.stderr
    return died, done


def result(folder):
    return json.loads((folder / "result.json").read_text())


def assert_same_weights(run, expected):
    ours = read_tensors(run / MODEL)[0]
    for name, value in read_tensors(expected / MODEL)[0].items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)


def test_two_processes_give_what_one_gives(single, double):
    folder, _ = double
    ours, expected = result(folder), result(single)
    assert (ours["processes"], expected["processes"]) == (2, 1)
    assert ours["evaluated"] == expected["evaluated"]  # bit for bit
    assert ours["certified"] == expected["certified"]
    assert ours["attacked"] == expected["attacked"]
    assert ours["elbo"] == pytest.approx(expected["elbo"], rel=1e-5)
    assert_same_weights(folder / "gfz", single / "gfz")
    if sys.platform == "linux":
        for rank in range(2):  # a thread that outlives the group may abort the process
            assert "gloo" not in (folder / f"threads{rank}.json").read_text()


def test_a_process_that_dies_ends_the_run_which_then_goes_on(single, double):
    folder, _ = double  # the fixture `died` tells how the run ended
    assert result(folder)["elbo resumed"] == pytest.approx(result(single)["elbo"], rel=1e-5)
    assert_same_weights(folder / "died", single / "gfz")


def test_processes_that_disagree_are_refused(double):
    for rank in range(2):
        told = (double[0] / f"refused{rank}").read_text()
        assert "the processes don't agree on where the training starts" in told


def test_a_known_broken_classifier_does_not_depend_on_the_number_of_processes(single, double):
    for saturated in (False, True):
        alone, *shared = (
            read_tensors(folder / f"{saturated}-{rank}.safetensors")[0]
            for folder, rank in ((single, 0), (double[0], 0), (double[0], 1))
        )
        for each in shared:
            assert all(torch.equal(value, each[name]) for name, value in alone.items())  # bit for bit


def test_one_process_speaks_for_all_and_they_work_together_more_than_once(double):
    folder, done = double
    told = " ".join(done.stdout.split())
    for once in ("validation ELBO", "expected calibration error", "images that end up misclassified"):
        assert told.count(once) == 1
    assert done.stderr.count("epoch 1/1") == 2
    assert all((folder / "runs" / file).is_file() for file in ("evaluation.json", "attack.json", "figure1.pdf"))


def test_an_error_ends_all_processes(double):
    folder, done = double
    assert [(folder / f"status{rank}").read_text() for rank in range(2)] == ["1", "1"]
    for who in ("Error", "Error in process 1"):
        assert f"{who}: no trained model in" in done.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {},
            "RANK and WORLD_SIZE are set but MASTER_ADDR and MASTER_PORT not: start the processes with torchrun, or unset",
        ),
        ({"MASTER_ADDR": "localhost"}, "are set but MASTER_PORT not"),
        ({"MASTER_ADDR": "localhost", "MASTER_PORT": "x"}, "MASTER_PORT must be a whole number"),
        (
            {"MASTER_ADDR": "localhost", "MASTER_PORT": "70000"},
            "MASTER_PORT must be a port, from 1 to 65535, got '70000'",
        ),
        ({"MASTER_ADDR": "localhost", "MASTER_PORT": "9", "RANK": "2"}, "RANK must be below WORLD_SIZE, 2, got 2"),
    ],
)
def test_variables_that_are_not_torchruns_are_refused(monkeypatch, variables, words):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2"} | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words):
        distributed.join(torch.device("cpu"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_processes_at_the_same_step(tmp_path, number):
    (tmp_path / "script.py").write_text(FEW_IMAGES)
    command = [*TORCHRUN, str(tmp_path / "script.py"), "train", "gbz", *LONG_TRAINING, "--runs", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until((tmp_path / "gbz" / RESUME).is_file)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does; torchrun then sends it to its processes once more
    else:
        process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    assert told.count("; to go on: pyrobayes train gbz") == 1 and "stopped a" in told
    assert told.count("Traceback") == told.count("SignalException: Process")  # torchrun's own
    assert read_tensors(tmp_path / "gbz" / RESUME)


@pytest.mark.parametrize(
    ("variables", "status"), [({"RANK": "1"}, 0), ({"WORLD_SIZE": "2"}, 0), ({"WORLD_SIZE": "two"}, 1)]
)
def test_variables_of_torchrun_without_torchrun(monkeypatch, variables, status):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = invoke("show", "gbz")
    assert done.exit_code == status
    assert ("p(x, z, y) = p(z) p(y|z) p(x|z)" in done.stdout) is (status == 0)
    assert ("WORLD_SIZE must be a whole number, as torchrun sets it, got 'two'" in done.stderr) is (status == 1)
