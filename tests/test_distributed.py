"""Two processes do what one does."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from support import FEW_IMAGES, LONG_TRAINING, wait_until

from pyrobayes import InputError, distributed
from pyrobayes.tensor_files import read_tensors
from pyrobayes.training.checkpoint import MODEL, RESUME

SCRIPT = """
import atexit, json, os, sys
import torch
from pyrobayes import BayesClassifier, Networks, Progress, TrainingOptions, attack, build, evaluate, fit, load_data
from pyrobayes import distributed
from pyrobayes.codec import encode

torch.set_num_threads(1)
out, words = sys.argv[1:]
death, resume = words == "dies", words == "resumes"
networks = Networks(latent=5, hidden=12, channels=6)

class Dies(Progress):
    def epoch(self, model, epoch, epochs):
        if death and distributed.rank() == 1 and epoch.epoch == 2:
            os._exit(3)

def tell_threads():
    threads = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    open(f"{out}/threads{distributed.rank()}.json", "w").write(json.dumps(threads))

if sys.platform == "linux":
    atexit.register(tell_threads)  # which runs after what is registered later
distributed.join(torch.device("cpu"))
if words == "disagrees":
    fit(build("gbz", networks, seed=distributed.rank()), load_data("fashion-mnist-mini").head(50))
else:
    untrained = BayesClassifier(build("gbz", networks), particles=3)
    test = load_data("fashion-mnist-mini", "test").head(70)
    evaluated = evaluate(untrained, test, batch_size=16)
    attacked = attack(untrained, test, [0.0, 0.1], batch_size=16)
    options = TrainingOptions(epochs=3, batch_size=26, train_particles=2)  # 183 images: the last batch has one
    images = load_data("fashion-mnist-mini", "train").head(200)
    epochs = fit(build("gfz", networks), images, options, out=out + "/gfz", resume=resume, progress=Dies())
if words != "disagrees" and distributed.rank() == 0:
    result = {
        "processes": distributed.processes(),
        "evaluated": encode(evaluated),
        "attacked": encode(attacked) | {"examples": attacked.examples.double().sum().item()},
        "elbo": [epoch.elbo for epoch in epochs],
    }
    open(out + "/result.json", "w").write(json.dumps(result))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    script = tmp_path_factory.mktemp("script") / "script.py"
    script.write_text(SCRIPT)

    def run(folder, processes, words):
        folder.mkdir(exist_ok=True)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(torchrun if processes > 1 else []), str(script), str(folder), words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope="module")
def single(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    done = run(folder, 1, "starts")
    assert done.returncode == 0, done.stderr
    return folder


def result(folder):
    return json.loads((folder / "result.json").read_text())


def weights(folder):
    return read_tensors(folder / "gfz" / MODEL)[0]


def test_two_processes_give_what_one_gives(run, single, tmp_path):
    done = run(tmp_path, 2, "starts")
    assert done.returncode == 0, done.stderr
    ours, expected = result(tmp_path), result(single)
    assert (ours["processes"], expected["processes"]) == (2, 1)
    assert ours["evaluated"] == expected["evaluated"]  # bit for bit
    assert ours["attacked"] == expected["attacked"]
    assert ours["elbo"] == pytest.approx(expected["elbo"], rel=1e-5)
    for name, value in weights(single).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=1e-3, atol=1e-4)
    if sys.platform == "linux":
        for rank in range(2):  # a thread that outlives the group may abort the process
            assert "gloo" not in (tmp_path / f"threads{rank}.json").read_text()


def test_a_process_that_dies_ends_the_run_which_then_goes_on(run, single, tmp_path):
    died = run(tmp_path, 2, "dies")
    assert died.returncode != 0
    assert not (tmp_path / "result.json").exists()
    done = run(tmp_path, 2, "resumes")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path)["elbo"] == pytest.approx(result(single)["elbo"], rel=1e-5)
    for name, value in weights(single).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=1e-3, atol=1e-4)


def test_processes_that_disagree_are_refused(run, tmp_path):
    done = run(tmp_path, 2, "disagrees")
    assert done.returncode != 0
    assert "the processes don't agree on where the training starts" in done.stderr


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_one_process_speaks_for_all_and_they_work_together_more_than_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pyrobayes_cli.main import main\n"
        "for command in (\n"
        "    'train dbx gbz --epochs 1 --channels 4 --hidden 20 --data fashion-mnist-mini',\n"
        "    'evaluate --images 30 --batch-size 10 --precision bf16',\n"
        "    'attack --images 30 --batch-size 10',\n"
        "):\n"
        "    main([*command.split(), '--runs', sys.argv[1]], standalone_mode=False)\n"
    )
    done = torchrun(str(script), str(tmp_path))
    assert done.returncode == 0, done.stderr
    for once in ("validation ELBO", "expected calibration error", "success rate"):
        assert done.stdout.count(once) == 1
    assert done.stderr.count("epoch 1/1") == 2
    assert all((tmp_path / file).is_file() for file in ("evaluation.json", "attack.json", "figure1.pdf"))


def test_an_error_ends_all_processes(tmp_path):
    done = torchrun("-m", "pyrobayes_cli", "evaluate", "gfz", "--runs", str(tmp_path))
    assert done.returncode != 0
    assert "no trained model in" in done.stderr  # from the first process, or from the second if that ended both


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
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(tmp_path / "script.py"), "train", "gbz", *LONG_TRAINING, "--runs", str(tmp_path)]
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
def test_variables_of_torchrun_without_torchrun(variables, status):
    command = [sys.executable, "-m", "pyrobayes_cli", "show", "gbz"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=100)
    assert done.returncode == status
    assert ("p(x, z, y) = p(z) p(y|z) p(x|z)" in done.stdout) is (status == 0)
    assert ("WORLD_SIZE must be a whole number, as torchrun sets it, got 'two'" in done.stderr) is (status == 1)


KNOWN_BROKEN = """
import dataclasses, sys
import torch
from pyrobayes import distributed, load_data
from pyrobayes.evaluation.robustness import known_broken
from pyrobayes.tensor_files import save_tensors

torch.set_num_threads(1)
distributed.join(torch.device("cpu"))
known_broken.TRAINING = dataclasses.replace(known_broken.TRAINING, epochs=1, batch_size=26)
training = load_data("fashion-mnist-mini", "train").head(120)
for saturated in (False, True):
    weights = known_broken.known_broken_model(training, saturated).state_dict()
    save_tensors(f"{sys.argv[1]}/{saturated}-{distributed.rank()}.safetensors", weights, {})
"""


def test_a_known_broken_classifier_does_not_depend_on_the_number_of_processes(tmp_path):
    (tmp_path / "script.py").write_text(KNOWN_BROKEN)
    weights = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        started = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if processes == 2 else []
        command = [sys.executable, *started, str(tmp_path / "script.py"), str(folder)]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for path in folder.iterdir():
            weights[processes, path.stem] = read_tensors(path)[0]
    assert len(weights) == 6
    for saturated in (False, True):
        alone = weights[1, f"{saturated}-0"]
        for rank in (0, 1):
            shared = weights[2, f"{saturated}-{rank}"]
            assert all(torch.equal(value, shared[name]) for name, value in alone.items())  # bit for bit
