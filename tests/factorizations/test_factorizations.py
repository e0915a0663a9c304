"""The mathematics, for every registered factorization."""

import math

import numpy as np
import pyro
import pytest
import torch
from linear_gaussian import linear_gaussian
from pyro.infer import Trace_ELBO
from scipy.stats import genpareto
from support import draw_by_hand, log_density_by_hand

from pyrobayes import BayesClassifier, InputError, TrainingOptions, build, fit, load
from pyrobayes.inference.importance import ImportanceEstimate, pareto_shape, per_class


def log_weight_by_hand(factorization, x, y, noise):
    """log p(x, z, y) - log q(z|x, y) of one batch, one class each and one particle: [B], noise [B, latent]."""
    values = draw_by_hand(factorization, x, y, noise)
    return log_density_by_hand(factorization, values, "p") - log_density_by_hand(factorization, values, "q")


def test_log_weights_equal_a_plain_loop_over_classes_and_particles(name, make, batch):
    factorization, x = make(name, double=True), batch[0].double()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 10, 4, factorization.latent, dtype=torch.float64, generator=generator)
    weights = per_class(factorization, x, noise)
    assert weights.shape == (3, 10, 4)
    for k in range(3):
        for c in range(10):
            by_hand = log_weight_by_hand(factorization, x, torch.full((4,), c), noise[k, c])
            torch.testing.assert_close(weights[k, c], by_hand, rtol=1e-10, atol=1e-10)


def test_estimates_with_other_draws_agree_within_their_error(name, make, batch):
    factorization, x, particles = make(name, double=True), batch[0].double()[:2], 150
    generator = torch.Generator().manual_seed(0)
    noise = [
        torch.randn(particles, 10, 2, factorization.latent, dtype=torch.float64, generator=generator) for _ in range(2)
    ]
    with torch.no_grad():
        ours = ImportanceEstimate(per_class(factorization, x, noise[0]))
        loop = torch.stack(
            [
                torch.stack([log_weight_by_hand(factorization, x, torch.full((2,), c), n) for n in noise[1][:, c]])
                for c in range(2)
            ],
            dim=1,
        )
    relative = [(w - w.logsumexp(0)).exp() * particles for w in (ours.log_weights[:, :2], loop)]
    error = sum(r.var(0) / particles for r in relative).sqrt().T
    expected = (loop.logsumexp(0) - math.log(particles)).T
    assert (error < 0.5).all()
    assert ((ours.log_joint[:, :2] - expected).abs() < 5 * error).all()


@pytest.mark.parametrize("noise", ["fixed", "fresh"])
def test_an_image_has_the_same_result_in_every_batch(name, noise, make, tiny_images):
    classifier = BayesClassifier(make(name, double=True), particles=4, noise=noise, seed=3)
    indices = torch.tensor([7, 2, 30, 31, 5])
    x = tiny_images.batch(indices)[0].double()
    together = classifier.for_images(indices, draw=1)(x)
    alone = torch.cat([classifier.for_images(i[None], draw=1)(image[None]) for i, image in zip(indices, x)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


def test_expected_estimate_rises_with_particles(name, make, batch):
    """Burda, Grosse and Salakhutdinov (2016), theorem 1; each number of particles with draws of its own."""
    factorization, x = make(name), batch[0][:1].repeat(500, 1, 1, 1)
    means, errors = [], []
    with torch.no_grad():
        for seed, particles in enumerate((1, 4, 16)):
            log_joint = BayesClassifier(factorization, particles, seed=seed).for_images(torch.arange(500))(x)
            means.append(log_joint.mean(0))
            errors.append(log_joint.std(0) / math.sqrt(500))
        many = BayesClassifier(factorization, 2000).for_images([0])(x[:1])[0]
    for less, more, error, other in zip(means, means[1:], errors, errors[1:]):
        assert (more - less > -4 * (error + other) - 1e-4).all()
    assert ((means[2] - means[0] > 4 * errors[0]) | (errors[0] < 1e-4)).any()
    assert (means[2] - many < 4 * errors[2] + 0.1).all()


def test_gradient_in_the_image_equals_finite_differences(name, make, batch):
    classifier = BayesClassifier(make(name, double=True), particles=5, noise="fixed", seed=0)
    x = (0.2 + 0.6 * batch[0].double()).requires_grad_()
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    for c in (0, 9):
        slope = (torch.autograd.grad(classifier(x)[:, c].sum(), x)[0] * direction).sum((1, 2, 3))
        step = 1e-6
        with torch.no_grad():
            differences = (classifier(x + step * direction) - classifier(x - step * direction))[:, c] / (2 * step)
        assert (slope != 0).all()
        torch.testing.assert_close(slope, differences, rtol=1e-4, atol=1e-6)


def test_every_parameter_gets_a_gradient(name, make, tiny_images):
    factorization = make(name)
    with pyro.validation_enabled(True):
        x, y = tiny_images.batch(torch.arange(64))
        pyro.set_rng_seed(0)
        Trace_ELBO(max_plate_nesting=1).differentiable_loss(factorization.model, factorization.guide, x, y).backward()
    without = [n for n, p in factorization.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_saved_and_loaded_the_log_joint_is_the_same_bit_for_bit(name, make, tiny_images, tmp_path):
    factorization = make(name)
    fit(factorization, tiny_images, TrainingOptions(epochs=1), out=tmp_path)
    x, _ = tiny_images.batch(torch.arange(8))
    expected = BayesClassifier(factorization, particles=3, noise="fresh", seed=5)(x)
    loaded = load(tmp_path, particles=3, noise="fresh", seed=5)
    assert torch.equal(loaded(x), expected)


def test_generates_with_the_text_of_the_model(name, make):
    factorization = make(name)
    if not factorization.structure.models_images:
        with pytest.raises(InputError, match="p_D.x. can't be sampled"):
            factorization.model()
        return
    with torch.no_grad():
        x, y = factorization.model()
    assert x.shape == (1, 1, 7, 7) and y.shape == (1,)


def test_exact_posterior_as_guide_gives_the_closed_form_with_one_particle(batch):
    factorization, x = linear_gaussian(wider=1.0), batch[0].double()
    got = BayesClassifier(factorization, particles=1)(x)
    torch.testing.assert_close(got, factorization.exact_log_joint(x), rtol=1e-9, atol=1e-9)


def test_another_guide_converges_to_the_closed_form(batch):
    factorization, x = linear_gaussian(wider=1.3), batch[0].double()
    result = BayesClassifier(factorization, particles=4000).estimate(x)
    error = (1 / result.effective_sample_size - 1 / 4000).clamp(min=0).sqrt()
    assert (error < 0.03).all() and (error > 0.005).all()
    assert ((result.log_joint - factorization.exact_log_joint(x)).abs() < 5 * error).all()
    few = BayesClassifier(factorization, particles=4).estimate(x)
    assert not torch.allclose(few.log_joint, factorization.exact_log_joint(x), atol=1e-3)


def test_effective_sample_size_of_known_weights():
    weights = torch.tensor([1.0, 1.0, 2.0]).log().reshape(3, 1, 1) - 500
    result = ImportanceEstimate(weights)
    assert result.effective_sample_size.item() == pytest.approx(16 / 6, rel=1e-4)
    assert result.log_joint.item() == pytest.approx(math.log(4 / 3) - 500, abs=1e-3)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.5, 0.7, 1.2])
def test_pareto_shape_of_samples_of_a_known_shape(shape):
    samples = genpareto(shape, scale=3).rvs((40_000, 20), random_state=0)
    got = pareto_shape(torch.from_numpy(samples).log() - 500)
    assert got.shape == (20,)
    # The tail of a generalized Pareto distribution has its shape; an estimate's deviation is about (1 + k) / sqrt(600).
    assert abs(got.mean() - shape) < 0.05 and got.std() < 0.1


def test_pareto_shape_agrees_with_maximum_likelihood():
    weights = genpareto(0.6).rvs((20_000, 5), random_state=1)
    ours = pareto_shape(torch.from_numpy(weights).log())
    for column, got in zip(np.sort(weights, axis=0).T, ours):
        excess = column[-425:] - column[-426]
        assert got.item() == pytest.approx(genpareto.fit(excess, floc=0)[0], abs=0.02)


def test_pareto_shape_where_there_is_no_tail_and_of_pruned_weights(make, batch):
    assert pareto_shape(torch.zeros(20, 3, 2)).isnan().all() and pareto_shape(torch.zeros(20, 3, 2)).shape == (3, 2)
    assert (pareto_shape(torch.zeros(21, 3)) == -torch.inf).all()
    assert pareto_shape(-1000 * torch.rand(100, 4)).isfinite().all()  # all but one underflow
    estimate = BayesClassifier(make("gbz"), particles=30).estimate(batch[0])
    assert estimate.pareto_k.shape == (4, 10) and estimate.pareto_k.dtype == torch.float32
    assert estimate.pareto_k.isfinite().all()
    missing = estimate.log_weights.index_fill(0, torch.tensor([5]), -torch.inf)
    assert ImportanceEstimate(missing).pareto_k.isnan().all()


def test_classifier_noise(make, batch):
    x = batch[0]
    fixed = BayesClassifier(make("gbz"), noise="fixed", seed=1)
    assert torch.equal(fixed(x), fixed(x))
    fresh = BayesClassifier(make("gbz"), noise="fresh", seed=1)
    first, second = fresh(x), fresh(x)
    assert not torch.equal(first, second)
    assert torch.equal(BayesClassifier(make("gbz"), noise="fresh", seed=1)(x), first)
    assert not torch.equal(BayesClassifier(make("gbz"), noise="fresh", seed=2)(x), first)
    pinned = fresh.for_images([3, 1, 4, 5], draw=2)
    assert torch.equal(pinned(x), pinned(x))
    assert not torch.equal(pinned(x), fresh.for_images([3, 1, 4, 5], draw=3)(x))


def test_base_noise_is_standard_normal_and_independent(make):
    classifier = BayesClassifier(make("gbz"), particles=50, estimator="mixture")
    noise = classifier.for_images(torch.arange(40)).base_noise(40)
    assert noise.shape == (50, 10, 40, 5)
    assert abs(noise.mean()) < 0.01 and abs(noise.var() - 1) < 0.02
    assert (noise**4).mean().item() == pytest.approx(3, abs=0.1)
    for dim in range(4):  # particles, guides, images, latent dimensions
        correlation = torch.corrcoef(noise.movedim(dim, 0).flatten(1)) - torch.eye(noise.shape[dim])
        assert correlation.abs().max() < 6 / math.sqrt(
            noise[0].numel() if dim == 0 else noise.numel() / noise.shape[dim]
        )


def test_classes_share_the_noise_of_an_image(make, batch):
    classifier = BayesClassifier(make("gbz"), particles=3).for_images([3, 9, 1, 2])
    shared = classifier.base_noise(4)
    assert shared.shape == (3, 1, 4, 5)
    expected = per_class(classifier.factorization, batch[0], shared.expand(-1, 10, -1, -1))
    torch.testing.assert_close(classifier.estimate(batch[0]).log_weights, expected)


def test_the_first_particles_are_the_same_whatever_their_number(make):
    few, many = (BayesClassifier(make("gbz"), particles=k).for_images([3, 9]).estimate for k in (3, 8))
    x = torch.rand(2, 1, 7, 7)
    torch.testing.assert_close(few(x).log_weights, many(x).log_weights[:3])


def test_models_in_one_process_do_not_share_weights(make, tiny_images):
    first, second = make("gbz", seed=1), make("gbz", seed=2)
    fit(first, tiny_images, TrainingOptions(epochs=1))
    before = {name: value.clone() for name, value in first.state_dict().items()}
    fit(second, tiny_images, TrainingOptions(epochs=1, seed=2))
    assert all(torch.equal(before[name], value) for name, value in first.state_dict().items())
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()) if a.abs().sum() > 0)


def test_building_is_reproducible_and_leaves_the_random_state(make):
    state = torch.get_rng_state()
    a, b = make("gfz", seed=4), make("gfz", seed=4)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_paper_networks_have_the_papers_sizes():
    factorization = build("gfz")
    shapes = {name: tuple(p.shape) for name, p in factorization.named_parameters()}
    assert shapes["p_x.decoder.convolutions.0.weight"] == (64, 64, 5, 5)
    assert shapes["p_x.network.layers.0.weight"] == (500, 74)
    assert shapes["q_z.network.layers.1.weight"] == (128, 500)
    assert [n for n in shapes if n.startswith("p_y.network.layers") and n.endswith("weight")] == [
        f"p_y.network.layers.{i}.weight" for i in range(3)
    ]
    for name in ("dfx", "dfz", "dbx"):
        assert len(build(name).p_y.network.layers) == 2


def test_cifar_networks_have_the_authors_sizes():
    factorization = build("gfz", "cifar", image_shape=(3, 32, 32))
    shapes = {name: tuple(p.shape) for name, p in factorization.named_parameters() if name.endswith("weight")}
    encoder = [shapes[f"q_z.network.encoders.0.convolutions.{i}.weight"][:2] for i in range(3)]
    decoder = [shapes[f"p_x.decoder.convolutions.{i}.weight"][:2] for i in range(3)]  # [in, out]
    assert encoder == [(64, 3), (128, 64), (256, 128)] and decoder == [(256, 128), (128, 64), (64, 3)]
    assert shapes["p_x.decoder.linear.weight"] == (256 * 4 * 4, 1000) and factorization.latent == 128
    assert [layer.after for layer in factorization.p_x.decoder.convolutions] == [(8, 8), (16, 16), (32, 32)]
