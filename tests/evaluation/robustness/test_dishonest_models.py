"""Small classifiers of real images, each built with one fault, fail the check that looks for it."""

import dataclasses

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from verdicts import QUICK, judged, run_of, sheet

from pyrobayes import (
    BayesClassifier,
    TrainingOptions,
    attacks,
    build,
    fit,
)
from pyrobayes.evaluation.robustness.checks import (
    FAIL,
    NOT_APPLICABLE,
    PASS,
)
from pyrobayes.evaluation.robustness.suite import SuiteEntry
from pyrobayes.factorizations.comparators import BNN, CNN
from pyrobayes.factorizations.conditionals import StandardNormal
from pyrobayes.options import Networks


class Faulty(CNN):
    """p(x, y) = p_D(x) p(y|x)"""

    def __init__(self, cnn, see):
        nn.Module.__init__(self)
        self.networks, self.image_shape, self.num_classes = cnn.networks, cnn.image_shape, cnn.num_classes
        self.cnn, self.see, self.name = cnn, see, "faulty"

    def model(self, x=None, y=None):
        with self.images(x, y):
            x = pyro.sample("x", self.cnn.p_x(), obs=x)
            y = pyro.sample("y", dist.Categorical(logits=self.see(self.cnn, x)), obs=y)
        return x, y


@pytest.fixture(scope="module")
def cnn(tiny_images):
    cnn = build("cnn", Networks(latent=5, hidden=32, channels=16), image_shape=(1, 7, 7))
    fit(cnn, tiny_images, TrainingOptions(epochs=20, batch_size=16))
    return cnn.eval().requires_grad_(False)


def assessment(see, cnn, data, **changes):
    options = dataclasses.replace(QUICK, brief=True, **changes)
    victim = BayesClassifier(Faulty(cnn, see), 1, noise="fixed")
    return run_of(victim, data, options)


def plain(cnn, x):
    return cnn.p_y(x).logits


def test_an_honest_cnn_passes_what_a_masked_one_fails(cnn, tiny_images):
    honest = judged(assessment(plain, cnn, tiny_images), 3, 6, 7, 8, 10)
    assert honest[8].status == PASS and honest[3].status == PASS
    assert honest[6].status == honest[7].status == honest[10].status == NOT_APPLICABLE
    masked = judged(
        assessment(lambda cnn, x: plain(cnn, (10 * x.detach()).round() / 10 + 0 * x), cnn, tiny_images), 3, 5, 8
    )
    assert masked[8].status == FAIL  # no gradient at all
    assert masked[5].status == FAIL  # noise and Square do better than what needs one
    assert masked[3].status == FAIL


def test_a_model_that_lies_about_its_gradient_fails(cnn, tiny_images):
    def lying(cnn, x):
        return plain(cnn, x.detach() + 0 * x) - plain(cnn, x) + plain(cnn, x).detach()

    found = judged(assessment(lying, cnn, tiny_images), 3, 5, 8)
    assert found[5].status == FAIL and found[3].status == FAIL and found[8].status == PASS


def test_a_model_that_knows_an_attack_by_its_pixels_fails(cnn, tiny_images):
    def wary(cnn, x):  # off the grid of 256 grey values, as every step but the first is, the gradient points backwards
        logits, levels = plain(cnn, x), 255 * x.detach()
        clean = (levels - levels.round()).abs().amax((1, 2, 3)) < 1e-3
        return torch.where(clean[:, None], logits, 2 * logits.detach() - logits)

    run = assessment(wary, cnn, tiny_images)
    run.suite = {name: run.suite[name] for name in ("fgsm", "pgd")}  # which are compared
    assert judged(run, 1)[1].status == FAIL


def test_a_model_that_shows_its_gradient_to_half_of_the_starts_fails(cnn, tiny_images):
    def shy(cnn, x):
        shows = (1e4 * x[:, 0, 0, 0]).sin() > 0  # a pixel without a gradient, which stays as it started
        seen = x.detach() + shows[:, None, None, None] * (x - x.detach())
        seen = torch.cat([seen[..., :1, :1].detach(), seen[..., :1, 1:]], 3), seen[..., 1:, :]
        return plain(cnn, torch.cat(seen, 2))

    assert judged(assessment(shy, cnn, tiny_images), 4)[4].status == FAIL


def test_a_model_that_lets_its_gradient_drip_fails(cnn, tiny_images):
    def drips(cnn, x):  # one pixel at a time
        images = x.detach()
        order = (1e4 * (images + images.mean((1, 2, 3), keepdim=True))).sin()
        return plain(cnn, images + (order >= order.amax((1, 2, 3), keepdim=True)) * (x - images))

    assert judged(assessment(drips, cnn, tiny_images, steps=10), 9)[9].status == FAIL


@pytest.mark.usefixtures("quickly_broken")
def test_a_gradient_that_is_not_finite_fails(cnn, tiny_images):
    def undefined(cnn, x):
        return (
            plain(cnn, x) + 0 * x.flatten(1).sum(1, keepdim=True).sub(x.detach().flatten(1).sum(1, keepdim=True)).sqrt()
        )

    found = sheet(assessment(undefined, cnn, tiny_images))
    assert found[8].status == FAIL and "not finite 100.0%" in found[8].finding


def test_a_model_that_heals_fails(cnn, tiny_images):
    x, y = tiny_images.batch(slice(None))

    def heals(cnn, images):
        distance = torch.cdist(images.flatten(1), x.flatten(1), p=torch.inf)
        nearest = distance.min(1)
        known = 100 * nn.functional.one_hot(y[nearest.indices], 10)
        return torch.where((nearest.values > 0.15)[:, None], known + 0 * plain(cnn, images), plain(cnn, images))

    assert judged(assessment(heals, cnn, tiny_images), 2)[2].status == FAIL


def test_a_model_that_looks_at_the_batch_fails(cnn, tiny_images):
    def together(cnn, x):
        return plain(cnn, x) + 1e3 * (x.mean() * torch.arange(10.0)).sin()

    assert judged(assessment(together, cnn, tiny_images), 12)[12].status == FAIL


class Noisy(BNN):
    """p(x, z, y) = p_D(x) p(z) p(y|z, x)"""

    def __init__(self, cnn):
        nn.Module.__init__(self)
        self.networks, self.image_shape, self.num_classes = cnn.networks, cnn.image_shape, cnn.num_classes
        self.p_x, self.p_z, self.cnn, self.name = cnn.p_x, StandardNormal(49), cnn, "noisy"

    def p_y(self, z, x):
        return dist.Categorical(logits=plain(self.cnn, x + 0.4 * z.unflatten(-1, (1, 7, 7))))

    @property
    def latent(self):
        return 49


def test_a_model_that_hides_in_noise_fails(cnn, tiny_images):
    victim = BayesClassifier(Noisy(cnn), particles=1)
    options = dataclasses.replace(
        QUICK, steps=2, eps=(0.1,), images=120, checked_images=120, batch_size=120, brief=True
    )
    run = run_of(victim, tiny_images, options)
    run.suite["eot-mim"] = SuiteEntry(attacks.get("eot-mim", steps=1, rivals=0))
    found = judged(run, 6, 7, 10)
    assert found[6].status == FAIL  # the gradient of one estimate is mostly noise, which one step doesn't average
    assert found[7].status == FAIL  # what one draw of the noise falls for, others don't
    assert found[10].status == FAIL
