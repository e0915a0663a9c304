"""Model and guide are plain Pyro: its own inference runs on them."""

import copy
import math
import pickle
import re

import pyro
import pytest
import torch
from linear_gaussian import VARIANCE
from pyro.infer import MCMC, NUTS, SVI, Importance, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from support import guides_of, log_density_by_hand

from pyrobayes import BayesClassifier, TrainingOptions, attacks, fit, load


@pytest.fixture(autouse=True)
def from_the_start(param_store):
    """Every test begins with an empty store and the same seed."""
    pyro.set_rng_seed(0)


def steps(svi, images, passes):
    """The loss of every pass, nats per image."""
    batches = [images.batch(indices) for indices in torch.arange(len(images)).split(48)]
    return [sum(svi.step(x, y) for x, y in batches) / len(images) for _ in range(passes)]


def weights(factorization):
    return {name: value.detach().clone() for name, value in factorization.named_parameters()}


def test_svi_trains(name, make, tiny_images):
    factorization = make(name)
    before = weights(factorization)
    svi = SVI(factorization.model, factorization.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    losses = steps(svi, tiny_images, 12)
    assert losses[-1] < losses[0] - 0.05
    assert not [key for key, value in weights(factorization).items() if torch.equal(value, before[key])]


def test_two_models_in_one_process_share_no_weights(make, tiny_images):
    models = [make("gbz", seed=1), make("gbz", seed=2)]
    models.append(copy.deepcopy(models[0]))
    before = [weights(model) for model in models]
    for i, model in enumerate(models):
        steps(SVI(model.model, model.guide, Adam({"lr": 1e-2}), Trace_ELBO()), tiny_images, 1)
        for other, state in zip(models[i + 1 :], before[i + 1 :]):
            assert all(torch.equal(value, state[key]) for key, value in weights(other).items())
    stored = pyro.get_param_store()
    assert len(stored) == 3 * len(before[0])
    for model in models:
        assert all(any(value is mine for value in stored.values()) for mine in model.parameters())


def test_our_own_training_and_inference_leave_the_store_empty(name, make, tiny_images):
    factorization, (x, y) = make(name), tiny_images.batch(torch.arange(4))
    fit(factorization, tiny_images.head(40), TrainingOptions(epochs=1))
    attacks.fgsm(BayesClassifier(factorization), x, y, eps=0.1)
    assert not list(pyro.get_param_store().keys())


def test_after_svi_a_model_is_copied_and_pickled(make, tiny_images):
    factorization = make("gbz")
    svi = SVI(factorization.model, factorization.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    steps(svi, tiny_images, 1)
    for again in (copy.deepcopy(factorization), pickle.loads(pickle.dumps(factorization))):
        assert all(torch.equal(*pair) for pair in zip(again.parameters(), factorization.parameters()))
    before = weights(factorization)
    steps(svi, tiny_images, 1)
    assert not any(torch.equal(value, before[key]) for key, value in weights(factorization).items())


def test_loaded_weights_are_frozen_until_they_are_not(make, tiny_images, tmp_path):
    fit(make("gbz"), tiny_images, TrainingOptions(epochs=1), out=tmp_path)
    factorization = load(tmp_path).factorization
    before = weights(factorization)
    svi = SVI(factorization.model, factorization.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    steps(svi, tiny_images, 1)
    assert all(torch.equal(value, before[key]) for key, value in weights(factorization).items())
    factorization.requires_grad_(True)
    steps(svi, tiny_images, 1)
    assert not any(torch.equal(value, before[key]) for key, value in weights(factorization).items())


def test_importance_has_our_log_weights(name, make, batch):
    factorization = make(name)
    x, y = (part[:1] for part in batch)
    posterior = Importance(factorization.model, factorization.guide, num_samples=20).run(x, y)
    for trace, log_weight in zip(posterior.exec_traces, posterior.log_weights):
        values = {"x": x, "y": y} | {site: trace.nodes[site]["value"] for site in guides_of(factorization)}
        by_hand = log_density_by_hand(factorization, values, "p") - log_density_by_hand(factorization, values, "q")
        assert log_weight.item() == pytest.approx(by_hand.item(), rel=1e-4)
    log_joint = torch.stack(posterior.log_weights).logsumexp(0) - math.log(20)
    assert posterior.get_log_normalizer().item() == pytest.approx(log_joint.item(), rel=1e-5)


def test_predictive_draws_what_is_left_out(name, make, batch):
    factorization, (x, y) = make(name).requires_grad_(False), batch
    posterior = Predictive(factorization.model, guide=factorization.guide, num_samples=30)(x, y)
    (site, given), *_ = guides_of(factorization).items()
    q = getattr(factorization, f"q_{site}")(*({"x": x, "y": y}[name] for name in given))
    assert posterior[site].shape == (30, *q.mean.shape)
    assert ((posterior[site].mean(0) - q.mean).abs() < 5 * q.variance.sqrt() / math.sqrt(30)).all()
    if factorization.structure.models_images:
        drawn = Predictive(factorization.model, num_samples=3)(None, y)
        assert drawn["x"].shape == (3, *x.shape)
    else:
        assert Predictive(factorization.model, num_samples=3)(x)["y"].shape == (3, len(y))


def posterior_mean(factorization, x, y):
    """The mean of p(z|x, y) of the linear model, whose standard deviation is sqrt(1 / (1 + 1 / VARIANCE))."""
    return factorization.q_z(x, y).mean


def test_autonormal_finds_the_latent_variables(name, make, batch):
    factorization, (x, y) = make(name).requires_grad_(False), batch
    guide = AutoNormal(factorization.model, init_scale=0.3)
    svi = SVI(factorization.model, guide, Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(x, y) for _ in range(100)]
    assert sum(losses[-20:]) < sum(losses[:20])
    median = guide.median(x, y)
    assert set(median) == set(factorization.structure.latent)
    if name == "linear-gaussian":
        torch.testing.assert_close(median["z"], posterior_mean(factorization, x, y), atol=0.3, rtol=0)


def test_nuts_samples_the_latent_variables(name, make, batch):
    factorization = make(name).requires_grad_(False)
    x, y = (part[:2] for part in batch)
    samples = 60 if name == "linear-gaussian" else 4
    chain = MCMC(
        NUTS(factorization.model, max_tree_depth=4), num_samples=samples, warmup_steps=samples, disable_progbar=True
    )
    chain.run(x, y)
    found = chain.get_samples()
    assert set(found) == set(factorization.structure.latent)
    assert all(value.isfinite().all() and value.shape[:2] == (samples, 2) for value in found.values())
    if name == "linear-gaussian":
        deviation = math.sqrt(1 / (1 + 1 / VARIANCE))
        assert (found["z"].mean(0) - posterior_mean(factorization, x, y)).abs().max() < deviation


def test_render_model_draws_the_formula(name, make, batch):
    factorization = make(name)
    drawn = pyro.render_model(factorization.model, model_args=batch).source
    edges = set(re.findall(r"(\w+) -> (\w+)", drawn))
    parents = factorization.structure.parents
    assert edges == {(parent, child) for child, given in parents.items() for parent in given}
    assert all(re.search(rf"{site} \[label={site} ", drawn) for site in parents)
