"""The variables of a factorization and their parents: what the formula states, and what runs."""

import copy
import dataclasses
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrobayes import BayesClassifier, InputError, TrainingOptions, attacks, factorizations, fit
from pyrobayes.factorizations import DeepBayes, Structure
from pyrobayes.factorizations.deep_bayes import GBZ
from pyrobayes.results import figures

POSTER = {
    "gfz": "p(z) p(y|z) p(x|z, y)",
    "gfy": "p_D(y) p(z|y) p(x|z, y)",
    "gbz": "p(z) p(y|z) p(x|z)",
    "gby": "p_D(y) p(z|y) p(x|z)",
    "dfx": "p_D(x) p(z|x) p(y|z, x)",
    "dfz": "p(z) p(x|z) p(y|z, x)",
    "dbx": "p_D(x) p(z|x) p(y|z)",
}


@pytest.fixture
def register(monkeypatch):
    """Registers factorizations for one test."""
    monkeypatch.setattr(factorizations.base, "_REGISTRY", dict(factorizations.base._REGISTRY))
    return factorizations.register


@pytest.mark.parametrize("name", POSTER)
def test_the_seven_are_those_of_the_paper(name):
    assert factorizations.get(name).formula() == f"p(x, z, y) = {POSTER[name]}"


def test_running_graph_equals_formula(name, make):
    factorization = make(name)
    formula = Structure.of_formula(factorization.formula()).parents
    running = factorization.parents()
    assert list(running) == list(formula)
    assert {site: set(parents) for site, parents in running.items()} == {s: set(p) for s, p in formula.items()}
    assert factorization.structure.parents == formula


@pytest.mark.parametrize("name", POSTER)
def test_kinds_of_model(name, make):
    structure = make(name).structure
    assert structure.generative is name.startswith("g")
    assert structure.models_images is (name not in ("dfx", "dbx"))
    assert structure.latent_depends_on_images is (name in ("dfx", "dbx"))
    assert structure.latent == ("z",)


def test_formulas_are_read():
    structure = Structure.of_formula("p(x, z_1, z2, y) = p(z2) p(z_1 | z2) p_D(y) p(x|z_1, y)")
    assert structure.parents == {"z2": (), "z_1": ("z2",), "y": (), "x": ("z_1", "y")}
    assert structure.latent == structure.variables("z") == ("z2", "z_1")
    assert structure.variables("z2") == ("z2",) and structure.variables("w") == ()
    assert str(structure) == "p(z2) p(z_1|z2) p(y) p(x|z_1, y)"
    assert Structure.of_formula("").parents == {}


def test_several_latent_variables(make, tmp_path):
    factorization = make("hierarchical")
    assert factorization.structure.latent == ("z2", "z1") and factorization.latent == 7
    paths = figures.save(figures.graphical_model(factorization), tmp_path / "graph")
    assert all(path.exists() for path in paths)
    white = [
        circle.center for circle in figures.graphical_model(factorization).axes[0].patches
        if type(circle).__name__ == "Circle" and circle.get_facecolor()[:3] == (1, 1, 1)
    ]  # fmt: skip
    assert len(white) == 2


def test_several_latent_variables_are_trained_together(make, tiny_images):
    options = TrainingOptions(epochs=15, batch_size=16, lr=1e-2)
    factorization = make("hierarchical")
    before = {name: value.clone() for name, value in factorization.named_parameters()}
    epochs = fit(factorization, tiny_images, options)
    assert epochs[-1].elbo > epochs[0].elbo + 4 and not epochs[-1].collapsed
    assert not any(torch.equal(before[name], value) for name, value in factorization.named_parameters())
    few = dataclasses.replace(options, epochs=1, train_particles=2)
    for more in ({"antithetic": True}, {"bound": "importance-weighted"}):
        fit(make("hierarchical"), tiny_images, dataclasses.replace(few, **more))
    x, y = tiny_images.batch(torch.arange(20))
    classifier = BayesClassifier(factorization, noise="fixed")
    found = attacks.get("pgd", steps=3, snapshot=True)(classifier, x, y, 0.2)
    before, after = (classifier(images).log_softmax(1)[range(20), y] for images in (x, found))
    assert (after < before).float().mean() > 0.7


def test_a_subclass_inherits_the_formula(register, make, batch):
    @register("heir")
    class Heir(GBZ):
        pass

    @register("heir-with-words")
    class HeirWithWords(Heir):
        """GBZ, with a docstring that is no formula: p(x) = 1."""

    for name in ("heir", "heir-with-words"):
        factorization = make(name)
        assert factorization.formula() == GBZ.formula() and factorization.structure.latent == ("z",)
        classifier = BayesClassifier(factorization, noise="fixed", negligible=0.01)
        expected = BayesClassifier(make("gbz"), noise="fixed", negligible=0.01)
        assert torch.equal(attacks.fgsm(classifier, *batch, eps=0.1), attacks.fgsm(expected, *batch, eps=0.1))


class Contradiction(GBZ):
    """p(x, z, y) = p(z) p(y|z) p(x|z, y)"""


class Silent(DeepBayes):
    """States nothing."""


class OtherGuide(GBZ):
    def guide(self, x, y):
        with self.images(x, y):
            return pyro.sample("w", self.q_z(x, y))


class NotNormal(GBZ):
    def guide(self, x, y):
        with self.images(x, y):
            return pyro.sample("z", dist.Laplace(self.q_z(x, y).mean, 1.0).to_event(1))


class Broken(GBZ):
    def model(self, x=None, y=None):
        return self.p_w(x, y)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (
            Contradiction,
            r"the formula says p\(z\) p\(y\|z\) p\(x\|z, y\), but what runs is p\(z\) p\(y\|z\) p\(x\|z\); change",
        ),
        (Silent, "Silent states no formula with x and y: begin its docstring with one"),
        (OtherGuide, r"the guide of OtherGuide must draw the latent variables \(z\), but it draws w"),
        (NotNormal, "the guide's site 'z' must be normal, got Laplace"),
        (Broken, "the model of Broken doesn't run: 'Broken' object has no attribute 'p_w'"),
    ],
)
def test_a_model_or_guide_that_contradicts_the_formula_is_refused(cls, words, register, make, batch, tiny_images):
    register("wrong")(cls)
    with pytest.raises(InputError, match=words):
        make("wrong")
    by_hand = cls(factorizations.conditionals.Conditionals(make("gbz").networks, (1, 7, 7), 10))
    with pytest.raises(InputError, match=words):
        BayesClassifier(by_hand)
    with pytest.raises(InputError, match=words):
        fit(by_hand, tiny_images)


def test_the_check_leaves_no_trace(make, monkeypatch):
    factorization = make("gbz").train()
    factorization.p_y.eval()
    factorization.p_x.add_module("norm", nn.BatchNorm1d(12))  # refuses a single image, unless it evaluates
    forward = type(factorization.p_x).forward
    monkeypatch.setattr(
        type(factorization.p_x), "forward", lambda self, z: self.norm(z.new_zeros(1, 12)) is z or forward(self, z)
    )
    del factorization.structure, factorization.latent
    before = torch.get_rng_state(), {name: module.training for name, module in factorization.named_modules()}
    factorization.check()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == {name: module.training for name, module in factorization.named_modules()}
    assert not pyro.get_param_store()._params


def test_the_check_is_made_once(make, monkeypatch):
    factorization = make("gbz")
    monkeypatch.setattr(Structure, "of_model", None)
    factorization.check()
    assert make("gbz", seed=1).structure == factorization.structure
    for copied in (copy.deepcopy(factorization), pickle.loads(pickle.dumps(factorization))):
        copied.check()
        assert copied.structure == factorization.structure
