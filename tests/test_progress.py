"""Progress: a bar where somebody watches, lines in a log, silence elsewhere, and estimates of the time left."""

import io
import sys
from types import SimpleNamespace

import pytest

import pyrobayes
from pyrobayes import InputError, Progress, TrainingOptions, evaluate, fit
from pyrobayes.progress import ProgressBar, duration, receiver, shows_progress, silent


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """Standard error as a terminal; called within a test, since pytest takes a fixture's place of it."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock finds it 20 seconds later."""
    ticks = iter(range(0, 100_000, 20))
    monkeypatch.setattr("time.monotonic", lambda: float(next(ticks)))


EPOCH = SimpleNamespace(
    epoch=2, elbo=-1.5, validation_elbo=-2.5, validation_kl=0.01, validation_accuracy=0.125, seconds=3, collapsed=True
)


def test_a_result_worth_a_look_is_told_with_its_path(capsys):
    ProgressBar(lines=True).written("Figure 1", "runs-quick/figure1.png")
    assert capsys.readouterr().err == "Figure 1: runs-quick/figure1.png\n"


def test_another_pass_over_the_images_starts_anew(clock, capsys):
    progress = ProgressBar(lines=True)
    for _ in range(2):
        for done in (0, 100, 200):  # five images a second
            progress.images("gbz", done, 200)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[2] for line in lines] == 2 * ["5.0 images/s, 20 s left", "5.0 images/s, 0 s left"]


def test_the_time_left_in_all_is_told(clock, capsys):
    progress = ProgressBar(lines=True)
    for done in (1, 2, 3):  # a part takes a minute: the clock is looked at three times in one
        progress.part(f"pgd, {done} of 3", done, 10)
        progress.images("gbz", 0, 5)
        progress.images("gbz", 5, 5)
    told = [line.split("  ")[-1] for line in capsys.readouterr().err.splitlines()]
    assert told == [
        "pgd, 1 of 3: 10% of all done",
        "pgd, 2 of 3: 20% of all done, about 8 min left in all",
        "pgd, 3 of 3: 30% of all done, about 7 min left in all",
    ]


def test_the_time_of_another_verdict_is_its_own(clock, capsys):
    progress = ProgressBar(lines=True)
    for _ in range(3):  # the first ones' time doesn't count
        progress.part("fgsm", 0, 4)
    for done in (1, 2):
        progress.part("pgd", done, 4)
        progress.images("gbz", 0, 5)
        progress.images("gbz", 5, 5)
    told = [line.split("  ")[-1] for line in capsys.readouterr().err.splitlines()]
    assert told[-1].startswith("pgd: 50% of all done, about ")
    alone = ProgressBar(lines=True)
    alone.part("fgsm", 0, 4)
    for done in (1, 2):
        alone.part("pgd", done, 4)
        alone.images("gbz", 0, 5)
        alone.images("gbz", 5, 5)
    assert capsys.readouterr().err.splitlines()[-1].split("  ")[-1] == told[-1]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12_000, "3 h 20 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_training_and_evaluation_show_a_bar_on_a_terminal(monkeypatch, tiny_images, make):
    shown = terminal(monkeypatch)
    factorization = make("gbz")
    fit(factorization, tiny_images, TrainingOptions(epochs=1, batch_size=16))
    assert "gbz  epoch 1/1  ELBO " in shown.getvalue() and "step/s" in shown.getvalue()
    shown.seek(0), shown.truncate()
    evaluate(pyrobayes.BayesClassifier(factorization, 2), tiny_images)
    assert "image/s" in shown.getvalue()
    shown.seek(0), shown.truncate()
    for quiet in (None, False, Progress()):
        evaluate(pyrobayes.BayesClassifier(factorization, 2), tiny_images, progress=quiet)
    assert shown.getvalue() == ""


def test_a_pipe_stays_silent_unless_lines_are_asked_for(capsys):
    for lines in (False, True):
        with ProgressBar(lines) as progress:
            progress.images("gbz", 5, 5)
            progress.epoch("gbz", EPOCH, 2)
        said = capsys.readouterr().err
        assert ("gbz  image 5/5" in said and "epoch 2/2" in said and "has collapsed" in said) if lines else said == ""


def test_of_several_processes_the_first_speaks(monkeypatch):
    shown = terminal(monkeypatch)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    progress = ProgressBar(lines=True)
    progress.images("gbz", 1, 5)
    progress.epoch("gbz", EPOCH, 2)
    assert shown.getvalue() == "" and progress.model == "gbz"
    monkeypatch.setenv("RANK", "0")
    progress.images("gbz", 2, 5)
    assert "gbz" in shown.getvalue()
    progress.close()


def test_a_notebook_shows_a_bar(monkeypatch, capsys):
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # cannot be imported
    with ProgressBar() as progress:
        progress.images("gbz", 1, 5)
    assert "gbz" in capsys.readouterr().err


def test_what_progress_may_be(capsys):
    own = Progress()
    function = shows_progress(lambda *, progress: progress)
    assert function(progress=own) is own and function(progress=None) is silent and function(progress=False) is silent
    assert isinstance(function(), ProgressBar)
    with pytest.raises(InputError, match="progress must be True, False or a pyrobayes.Progress, got 3"), receiver(3):
        pass
