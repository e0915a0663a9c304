"""Shared fixtures: small models of every registered factorization, and small real images."""

import dataclasses
import signal

import hierarchical  # noqa: F401  (registers a factorization)
import linear_gaussian  # noqa: F401  (and another)
import pyro
import pytest
import torch
from matplotlib.figure import Figure
from support import TINY
from torch.nn.functional import avg_pool2d

from pyrobayes import Images, build, factorizations, load_data
from pyrobayes.evaluation.robustness import known_broken
from pyrobayes.inference import importance
from pyrobayes.results import figures

DEFAULT_HANDLERS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


@pytest.fixture(autouse=True, scope="session")
def validation():
    """Pyro checks shapes, supports and plates in every trace."""
    importance.VALIDATE = True


@pytest.fixture(autouse=True, scope="session")
def default_signals():
    """Signals end what tests start, although `nohup` and a shell's `&` let pytest ignore some."""
    for number, handler in DEFAULT_HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_parameters_left():
    """No test leaves parameters in Pyro's global store, where the next one would find them."""
    yield
    left = list(pyro.get_param_store()._params)
    pyro.clear_param_store()
    assert not left, "ask for `param_store`, which is emptied afterwards, where a test fills it on purpose"


@pytest.fixture
def param_store():
    """Pyro's global parameter store, empty before a test and after it."""
    pyro.clear_param_store()
    yield pyro.get_param_store()
    pyro.clear_param_store()


@pytest.fixture(scope="session")
def mini():
    """The embedded training images."""
    return load_data("fashion-mnist-mini", "train")


@pytest.fixture(scope="session")
def tiny_images(mini):
    """240 real images of all ten classes, 7x7 pixels."""
    few = mini.head(240)
    pixels = avg_pool2d(few.pixels.float(), 4).round().to(torch.uint8)
    return Images("tiny", "train", pixels, few.labels, few.classes)


@pytest.fixture(params=factorizations.names())
def name(request):
    """The name of every registered factorization in turn."""
    return request.param


@pytest.fixture
def make():
    """Builds a tiny factorization, in float64 on request, moved away from its initial symmetry."""

    def make(name, networks=TINY, double=False, seed=0):
        factorization = build(name, networks, image_shape=(1, 7, 7), num_classes=10, seed=seed).eval()
        return factorization.double() if double else factorization

    return make


@pytest.fixture
def batch(tiny_images):
    """Four images in float32, and their classes."""
    return tiny_images.batch(torch.arange(4))


@pytest.fixture
def quickly_broken(monkeypatch):
    """Trains what is known to be broken for one epoch on few images only, where that isn't what is tested."""
    monkeypatch.setattr(known_broken, "IMAGES", 64)
    monkeypatch.setattr(known_broken, "TRAINING", dataclasses.replace(known_broken.TRAINING, epochs=1))


@pytest.fixture
def empty_figures(monkeypatch):
    """Figures are written empty, for tests of which figures are there: drawing takes longest."""
    save = figures.save
    monkeypatch.setattr(figures, "save", lambda figure, path: save(Figure((1, 1)), path))
