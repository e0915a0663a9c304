"""Gradients of log p(x, y) by Fisher's identity: right, of the same value, and in every way that an estimate is computed."""

import pytest
import torch
from linear_gaussian import VARIANCE, linear_gaussian
from support import draw_by_hand, log_density_by_hand, with_little_memory

from pyrobayes import BayesClassifier, InputError, build, factorizations
from pyrobayes.factorizations import networks
from pyrobayes.inference.log_weights import LogWeights
from pyrobayes.options import GRADIENTS, LIKELIHOODS, Networks

INDICES = [3, 1, 4, 5]
SHARED = [name for name in factorizations.names() if name not in ("gfz", "gfy")]


def gradients(classifier, x, kind):
    """The gradient of each log p(x, c) in the images, [C, B, channels, height, width]."""
    x = x.detach().requires_grad_()
    log_joint = classifier.with_gradient(kind)(x)
    return torch.stack([torch.autograd.grad(each.sum(), x, retain_graph=True)[0] for each in log_joint.T])


def exact_gradients(factorization, x):
    """The gradients of the closed form."""
    x = x.detach().requires_grad_()
    log_joint = factorization.exact_log_joint(x)
    return torch.stack([torch.autograd.grad(each.sum(), x, retain_graph=True)[0] for each in log_joint.T])


def by_particle(factorization, classifier, x):
    """(mean of the pixels given z - x) / variance of every particle, [K, C, B, ...], the mean worked out by hand."""
    z = []
    for noise in classifier.base_noise(len(x)).expand(-1, -1, len(x), -1)[:, 0].to(x.dtype):
        classes = [torch.full((len(x),), c) for c in range(10)]
        z.append(torch.stack([draw_by_hand(factorization, x, y, noise)["z"] for y in classes]))
    means = (torch.stack(z) @ factorization.p_x.a.T + factorization.p_x.b).unflatten(-1, x.shape[1:])
    return (means - x) / VARIANCE


@pytest.mark.parametrize("particles", [1, 7])
def test_with_gaussian_pixels_it_is_the_weighted_mean_residual(particles, batch):
    factorization, x = linear_gaussian(wider=1.3), batch[0].double()
    classifier = BayesClassifier(factorization, particles, seed=1).for_images(INDICES)
    weights = classifier.estimate(x).log_weights.softmax(0)
    residuals = by_particle(factorization, classifier, x)
    expected = (weights[..., None, None, None] * residuals).sum(0)
    torch.testing.assert_close(gradients(classifier, x, "fisher"), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("wider", [1.0, 1.3])
def test_it_agrees_with_the_closed_form(wider, batch):
    factorization, x = linear_gaussian(wider), batch[0].double()
    classifier = BayesClassifier(factorization, 400).for_images(INDICES)
    weights = classifier.estimate(x).log_weights.softmax(0)[..., None, None, None]
    found, exact = gradients(classifier, x, "fisher"), exact_gradients(factorization, x)
    error = (weights * (by_particle(factorization, classifier, x) - found)).square().sum(0).sqrt()
    assert ((found - exact).abs() < 5 * error).all()
    assert error.mean() < 0.1 * exact.abs().mean()


def test_with_the_exact_posterior_as_the_guide_the_path_is_exact_and_fisher_is_not(batch):
    factorization, x = linear_gaussian(wider=1.0), batch[0].double()
    classifier, exact = BayesClassifier(factorization, 1), exact_gradients(factorization, x)
    torch.testing.assert_close(gradients(classifier, x, "path"), exact, rtol=1e-6, atol=1e-6)
    assert (gradients(classifier, x, "fisher") - exact).abs().mean() > 0.1


def test_only_the_model_is_differentiated(name, make, batch):
    """log p(x, z, y) - log q(z|x, y), weighted, is differentiated by hand, with z and the weights held fixed."""
    factorization, x = make(name, double=True), batch[0].double()
    classifier = BayesClassifier(factorization, 3).for_images(INDICES)
    weights, noise = classifier.estimate(x).log_weights.softmax(0), classifier.base_noise(4)[:, 0].double()
    for c in (0, 7):
        y, seen, total = torch.full((4,), c), x.clone().requires_grad_(), 0
        for weight, base in zip(weights[:, c].detach(), noise):
            drawn = {site: value.detach() for site, value in draw_by_hand(factorization, x, y, base).items()}
            total = total + weight * log_density_by_hand(factorization, drawn | {"x": seen}, "p")
        (expected,) = torch.autograd.grad(total.sum(), seen)
        torch.testing.assert_close(gradients(classifier, x, "fisher")[c], expected, rtol=1e-8, atol=1e-8)


def test_values_stay_and_both_is_half_of_each(name, make, batch):
    factorization, x = make(name, double=True).requires_grad_(False), batch[0].double()
    classifier = BayesClassifier(factorization, 3).for_images(INDICES)
    seen = x.clone().requires_grad_()
    for kind in GRADIENTS:
        assert torch.equal(classifier.with_gradient(kind)(seen), classifier(x))
    path, fisher, both = (gradients(classifier, x, kind) for kind in GRADIENTS)
    torch.testing.assert_close(both, (path + fisher) / 2, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(path, fisher)
    again = torch.autograd.grad(classifier(seen).sum(), seen)[0]
    assert torch.equal(again, torch.autograd.grad(classifier.with_gradient("PATH")(seen).sum(), seen)[0])


@pytest.mark.parametrize("name", ["cnn", "bnn"])
def test_all_are_the_same_where_the_guide_sees_no_image(name, make, batch):
    classifier = BayesClassifier(make(name), 3, noise="fixed")
    path, *others = (gradients(classifier, batch[0], kind) for kind in GRADIENTS)
    assert path.any() and all(torch.equal(path, other) for other in others)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_of_the_pixels_has_one(likelihood, batch):
    sizes = Networks(latent=5, hidden=12, channels=6, likelihood=likelihood)
    factorization = build("gbz", sizes, image_shape=(1, 7, 7)).double().requires_grad_(False)
    x = 0.2 + 0.6 * batch[0].double()
    classifier = BayesClassifier(factorization, 1, noise="fixed")
    y, noise = torch.full((4,), 2), classifier.base_noise(4)[:, 0].double().expand(-1, 4, -1)
    pixel = factorization.p_x(draw_by_hand(factorization, x, y, noise[0])["z"]).pixel
    slope = (pixel.log_prob(x + 1e-6) - pixel.log_prob(x - 1e-6)) / 2e-6
    torch.testing.assert_close(gradients(classifier, x, "fisher")[2], slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["fisher", "both"])
@pytest.mark.parametrize("estimator", ["per-class", "mixture"])
@pytest.mark.parametrize("name", factorizations.names())
def test_it_is_the_same_in_parts_and_without_what_is_negligible(name, estimator, kind, make, batch):
    if estimator == "mixture" and name not in SHARED:
        pytest.skip("the mixture is not for it")
    factorization, x = make(name, double=True).requires_grad_(False), batch[0].double().requires_grad_()
    found = []
    for options, decodings in (({}, 10_000), ({}, 40), ({"negligible": 1e-12}, 40)):
        classifier = with_little_memory(BayesClassifier(factorization, 7, estimator=estimator, **options), decodings)
        log_joint = classifier.for_images(INDICES).with_gradient(kind)(x)
        found.append(torch.autograd.grad(log_joint.softmax(1)[:, 0].sum(), x)[0])
    whole, *others = found
    for other in others:
        torch.testing.assert_close(other, whole, rtol=1e-8, atol=1e-9)


def test_the_mixture_holds_its_proposal_fixed_too(batch):
    factorization, x = linear_gaussian(wider=1.3), batch[0].double()
    classifier = BayesClassifier(factorization, 200, estimator="mixture").for_images(INDICES)
    found, exact = gradients(classifier, x, "fisher"), exact_gradients(factorization, x)
    assert (found - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_pruned_classes_have_one_too(make, batch):
    classifier = BayesClassifier(make("gby", double=True), 10, noise="fixed")
    x = batch[0].double().requires_grad_()
    pruned, all_of_them = (
        torch.autograd.grad(each.with_gradient("fisher")(x).logsumexp(1).sum(), x)[0]
        for each in (classifier.replaced(prune=1000.0), classifier)
    )
    torch.testing.assert_close(pruned, all_of_them, rtol=1e-8, atol=1e-9)
    few = classifier.replaced(prune=2.0).with_gradient("fisher")(x).logsumexp(1).sum()
    assert torch.autograd.grad(few, x)[0].isfinite().all()


def test_bfloat16_gives_it_nearly(make, batch, monkeypatch):
    monkeypatch.setattr(networks, "CPU_TILE", 8 * 1024)
    factorization, x = make("gbz"), batch[0]
    plain, faster = (BayesClassifier(factorization, 7, noise="fixed", **given) for given in ({}, {"precision": "bf16"}))
    near, exact = (gradients(each, x, "fisher") for each in (faster, plain))
    assert torch.nn.functional.cosine_similarity(near.flatten(1), exact.flatten(1)).min() > 0.99


def test_nothing_goes_back_through_the_decoder(make, batch):
    """Only the pixels are kept for the gradient; the parts stay as large as without it."""
    factorization = make("gbz").requires_grad_(False)
    classifier = BayesClassifier(factorization)
    path, fisher = (
        LogWeights(factorization, classifier.options, None, kind).measure_memory()[1] for kind in ("path", "fisher")
    )
    assert fisher == 4 * batch[0][0].numel() < path / 4
    assert classifier.with_gradient("fisher").bytes_needed[1] == path


def test_an_unknown_gradient_is_refused(make):
    with pytest.raises(InputError, match="unknown gradient 'fischer': did you mean 'fisher'?"):
        BayesClassifier(make("gbz")).with_gradient("fischer")
