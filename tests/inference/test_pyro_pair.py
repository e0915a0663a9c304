"""Plain pairs of Pyro functions as classifiers: their log p(x, y) is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import linear_gaussian
from torch import nn
from torch.nn.functional import one_hot

import pyrobayes
from pyrobayes import InputError, attacks, from_pyro
from pyrobayes.inference.interface import BY_CALLS

SHAPE = (1, 7, 7)
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def gaussian(wider, *, rows):
    """The linear Gaussian model as plain functions; in rows, the guide's code works on batches alone."""
    known = linear_gaussian(wider)

    def model(x, y):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(known.p_y.frequencies), obs=y)
            z = pyro.sample("z", known.p_z(y))
            pyro.sample("x", known.p_x(z), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            if rows:
                both = torch.cat([x.flatten(1), one_hot(y, 10).to(x)], 1)
                x, y = both[:, :49].unflatten(1, SHAPE), both[:, 49:].argmax(1)
            pyro.sample("z", known.q_z(x, y))

    return known, from_pyro(model, guide, 10, image_shape=SHAPE, particles=1, name="mine")


@pytest.mark.parametrize("rows", [False, True])
def test_a_plain_pair_has_the_exact_posterior_of_a_conjugate_model(rows, tiny_images):
    x = tiny_images.batch(torch.arange(4))[0].double()
    known, exact = gaussian(1.0, rows=rows)
    assert exact.factorization.in_rows is rows and exact.factorization.placement["dtype"] == torch.float32
    expected = known.exact_log_joint(x)
    torch.testing.assert_close(exact(x), expected, check_dtype=False, rtol=1e-4, atol=1e-3)
    wide = gaussian(1.3, rows=rows)[1].replaced(particles=500)
    torch.testing.assert_close(wide(x).softmax(1), expected.softmax(1), check_dtype=False, rtol=0, atol=0.1)
    ours = pyrobayes.BayesClassifier(known.float(), particles=1)
    assert exact.structure == ours.structure and exact.factorization.formula() == "p(x, z, y) = p(y) p(z|y) p(x|z)"
    inputs = x.float().requires_grad_()
    gradients = [
        torch.autograd.grad(each.for_images(range(4))(inputs).logsumexp(1).sum(), inputs)[0] for each in (exact, ours)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
    in_parts = exact.replaced(particles=6, memory=1)
    torch.testing.assert_close(
        in_parts.for_images(range(4))(x), exact.replaced(particles=6).for_images(range(4))(x), rtol=1e-4, atol=1e-3
    )


def mixture(x, y):
    """p(y) p(s|y) p(x|s, y) with a coin s, and a number u > 0 that scales nothing."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(WEIGHTS.float()), obs=y)
        s = pyro.sample("s", dist.Bernoulli(0.5))
        pyro.sample("u", dist.LogNormal(0.0, 1.0))
        mean = (y + s).float() / 4
        pyro.sample("x", dist.Normal(mean[:, None, None, None].expand(x.shape), 0.5).to_event(3), obs=x)


def coins(x, y):
    with pyro.plate("data", len(x)):
        pyro.sample("s", dist.Bernoulli(0.5))
        pyro.sample("u", dist.LogNormal(0.0, 1.0))


def test_latent_sites_that_are_not_normal_draw_by_calls_which_results_say(tiny_images):
    classifier = from_pyro(mixture, coins, 3, image_shape=SHAPE, particles=400)
    x = tiny_images.batch(torch.arange(3))[0]
    log_joint = torch.stack(
        [
            torch.stack([dist.Normal((c + s) / 4, 0.5).log_prob(x).sum((1, 2, 3)) for s in (0, 1)]).logsumexp(0)
            + WEIGHTS[c].log()
            - math.log(2)
            for c in range(3)
        ],
        1,
    )
    torch.testing.assert_close(classifier(x), log_joint.float(), rtol=0, atol=0.3)
    pinned, before = classifier.for_images(range(3)), torch.get_rng_state()
    assert torch.equal(pinned(x), pinned(x)) and not torch.equal(pinned(x), pinned.resampled(1)(x))
    assert torch.equal(before, torch.get_rng_state())
    assert not classifier.addressable and classifier.caveats == (BY_CALLS,) and classifier.random
    images = pyrobayes.Images("three", "test", tiny_images.pixels[:9], torch.arange(9) % 3, ("a", "b", "c"))
    few = classifier.replaced(particles=2)
    assert pyrobayes.evaluate(few, images, progress=False).caveats == (BY_CALLS,)
    attacked = pyrobayes.attack(few, images, [0.1], progress=False)
    assert attacked.model == "mixture" and attacked.caveats == (BY_CALLS,) and attacked.generative


class VAE(nn.Module):
    """Pyro's usual form: a module whose methods are the model and the guide."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(5 + 10, 49), nn.Linear(49 + 10, 10)

    def model(self, x, y):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            y = pyro.sample("y", dist.Categorical(torch.full((10,), 0.1)), obs=y)
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 5), 1.0).to_event(1))
            logits = self.decoder(torch.cat([z, one_hot(y, 10).float()], 1))
            pyro.sample("x", dist.Normal(logits.view(x.shape), 0.5).to_event(3), obs=x)

    def guide(self, x, y):
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(torch.cat([x.flatten(1), one_hot(y, 10).float()], 1)).chunk(2, 1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_methods_of_a_module_are_trained_by_pyro_and_attacked(tiny_images, param_store):
    torch.manual_seed(0)
    vae, (x, y) = VAE(), tiny_images.batch(slice(None))
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.02}), pyro.infer.Trace_ELBO())
    for _ in range(60):
        svi.step(x, y)
    classifier = from_pyro(vae.model, vae.guide, 10, image_shape=SHAPE, particles=2)
    result = pyrobayes.evaluate(classifier, tiny_images, progress=False)
    assert result.model == "VAE" and result.accuracy.share > 0.4 and result.log_evidence is not None
    assert {"owners.0.decoder.weight", "decoder$$$weight"} <= classifier.weights.keys()
    attacked = pyrobayes.attack(classifier, tiny_images.head(4), [0.3], by=attacks.get("pgd", steps=2), progress=False)
    assert attacked.generative and not attacked.caveats and attacked.unmoved.count == 0
    with pytest.raises(InputError, match="the mixture estimator needs plates .* the code of VAE doesn't broadcast"):
        classifier.replaced(estimator="mixture")


def outside(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(WEIGHTS.float()), obs=y)
        pyro.sample("x", dist.Normal(w.expand(x.shape), 0.5).to_event(3), obs=x)


def unobserved(x, y):
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Categorical(WEIGHTS.float()), obs=y)
        pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("model", "guide", "words"),
    [
        (
            outside,
            lambda x, y: pyro.sample("w", dist.Normal(0.0, 1.0)),
            "the site 'w' of .* must be drawn once for each image",
        ),
        (unobserved, lambda x, y: pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0)), "an observed site 'x'"),
        (mixture, lambda x, y: None, r"the guide of mixture must draw the latent sites \(s, u\), but it draws none"),
        (mixture, lambda x: None, r"mixture doesn't run on images \[4, 1, 7, 7\] and classes \[4\]: TypeError"),
        (None, coins, r"model must be a Pyro function of \(x, y\), got None"),
    ],
)
def test_a_pair_that_is_no_classifier_is_refused(model, guide, words):
    with pytest.raises(InputError, match=words):
        from_pyro(model, guide, 3, image_shape=SHAPE)
