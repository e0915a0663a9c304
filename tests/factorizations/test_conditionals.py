"""Likelihoods against their definitions, and networks on images of other sizes."""

import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrobayes import BayesClassifier, Images, InputError, Networks, TrainingOptions, build, fit, load
from pyrobayes.factorizations.conditionals import ROUNDING, Conditionals
from pyrobayes.factorizations.distributions import DiagonalNormal, pixels
from pyrobayes.factorizations.networks import Decoder, Upsampling, WithGradient
from pyrobayes.inference.winograd import Winograd
from pyrobayes.options import LIKELIHOODS


def test_gaussian_with_variance_one_half_is_the_squared_error():
    logits, x = torch.randn(5, 7), torch.rand(5, 7)
    expected = -((x - logits.sigmoid()) ** 2) - 0.5 * math.log(math.pi)
    torch.testing.assert_close(pixels("gaussian", logits, 0.5).log_prob(x), expected)


def test_a_chain_of_latent_variables_starts_near_standard_normals():
    torch.manual_seed(0)
    conditionals = Conditionals(Networks(latent=5, hidden=12), (1, 7, 7), 10)
    value = torch.randn(1000, 5)
    for _ in range(4):
        given = conditionals.z("z1")(value)
        value = given.sample()
    assert 0.05 < given.base_dist.scale.min() and given.base_dist.scale.max() < 20 and given.mean.std() > 0.05


def test_bernoulli_is_the_binary_cross_entropy():
    logits, x = torch.randn(5, 7), torch.rand(5, 7)
    expected = x * logits.sigmoid().log() + (1 - x) * (-logits).sigmoid().log()
    torch.testing.assert_close(pixels("bernoulli", logits, 0.5).log_prob(x), expected)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "discretized-logistic"])
def test_likelihoods_with_a_variance_have_it(likelihood):
    torch.manual_seed(0)
    draws = pixels(likelihood, torch.zeros(()), 0.01).sample((200_000,))
    assert draws.mean().item() == pytest.approx(0.5, abs=2e-3)
    assert draws.var().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("variance", [0.5, 0.01, 1e-5])
def test_discretized_logistic_is_a_distribution_over_256_grey_values(variance):
    logits = torch.tensor([-8.0, -1.0, 0.0, 0.3, 9.0], dtype=torch.float64)
    grey = (torch.arange(256, dtype=torch.float64) / 255)[:, None]
    total = pixels("discretized-logistic", logits, variance).log_prob(grey).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-9, rtol=0)


def test_discretized_logistic_is_finite_and_has_a_gradient_far_from_its_mean():
    logits = torch.tensor([-20.0, 20.0], requires_grad=True)
    log_prob = pixels("discretized-logistic", logits.flip(0), 1e-4).log_prob(torch.tensor([0.0, 1.0]))
    assert log_prob.isfinite().all() and (log_prob < -50).all()
    x = torch.tensor([0.2, 0.9], requires_grad=True)
    gradient = torch.autograd.grad(pixels("discretized-logistic", torch.zeros(2), 1e-4).log_prob(x).sum(), x)[0]
    assert gradient[0] > 0 > gradient[1]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_trains_and_classifies(likelihood, make, tiny_images):
    networks = Networks(latent=5, hidden=12, channels=6, likelihood=likelihood, variance=0.1)
    factorization = make("gfz", networks=networks)
    epochs = fit(factorization, tiny_images, TrainingOptions(epochs=8, batch_size=20, lr=1e-2, kl_warmup=0.0))
    assert epochs[-1].elbo > epochs[0].elbo
    x, _ = tiny_images.batch(torch.arange(3))
    assert BayesClassifier(factorization)(x).isfinite().all()


@pytest.mark.parametrize("learned", ["one", "each"])
@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "discretized-logistic"])
def test_a_variance_is_learned_for_all_pixels_or_each(likelihood, learned):
    networks = Networks(latent=2, hidden=4, channels=(2,), likelihood=likelihood, learned_variance=learned)
    factorization = build("gbz", networks, image_shape=(3, 4, 5), num_classes=2)
    p_x, shape = factorization.p_x, (3, 4, 5) if learned == "each" else ()
    assert p_x.variance.shape == shape and p_x.variance.detach().numpy() == pytest.approx(0.5)
    z, x, logits = torch.randn(6, 2), torch.rand(6, 3, 4, 5), torch.zeros(6, 3, 4, 5)
    p_x.decoder.register_forward_hook(lambda *given: logits)  # the mean is 1/2
    p_x.log_variance.data = torch.rand(shape) - 3
    one_by_one = [pixels(likelihood, torch.zeros(()), v.item()) for v in p_x.variance.expand(3, 4, 5).flatten()]
    expected = sum(each.log_prob(x.flatten(1)[:, i]) for i, each in enumerate(one_by_one))
    torch.testing.assert_close(p_x(z).log_prob(x), expected)
    if likelihood == "gaussian":  # the gradient vanishes at the mean square
        squares = (x - 0.5).square().mean(0 if learned == "each" else None)
        p_x.log_variance.data = (squares - ROUNDING).log()
        gradient = torch.autograd.grad(p_x(z).log_prob(x).mean(), p_x.log_variance)[0]
        torch.testing.assert_close(gradient, torch.zeros(shape), atol=1e-5, rtol=0)


def test_a_learned_variance_is_trained_saved_and_never_zero(tmp_path):
    images = Images.from_arrays(torch.zeros(20, 3, 4, 5), torch.arange(20) % 2)  # black
    networks = Networks(latent=2, hidden=4, channels=(2,), variance=0.1, learned_variance="one")
    factorization = build("gbz", networks, image_shape=(3, 4, 5), num_classes=2)
    fit(factorization, images, TrainingOptions(epochs=1, lr=0.1, batch_size=2), out=tmp_path, progress=False)
    loaded = load(tmp_path, device="cpu").factorization
    assert torch.equal(loaded.p_x.variance, factorization.p_x.variance) and loaded.p_x.variance != 0.1
    loaded.p_x.log_variance.data.fill_(-100)
    assert loaded.p_x.variance.item() == pytest.approx(ROUNDING)


@pytest.mark.parametrize(
    ("out", "before", "after", "block"),
    [
        (1, (14, 14), (28, 28), 2),
        (1, (5, 4), (10, 8), 1),
        (3, (6, 4), (12, 8), 1),
        (3, (5, 4), (9, 7), 1),
        (20, (3, 3), (6, 6), 0),
    ],
)
def test_upsampling_is_the_transposed_convolution(out, before, after, block):
    layer = Upsampling(16, out, before, after).double()
    x = torch.randn(2, 16, *before, dtype=torch.float64)
    expected = nn.ConvTranspose2d.forward(layer, x)
    assert layer.block() == block and expected.shape[2:] == after
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(Winograd(layer)(x), expected, rtol=1e-10, atol=1e-12)
    layer.block = lambda: 1  # as for bfloat16
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)


def test_winograds_algorithm_is_precise_in_float32():
    layer = Upsampling(64, 64, (7, 7), (14, 14)).requires_grad_(False)
    x = torch.relu(torch.randn(10, 64, 7, 7))
    plain, ours = layer(x), Winograd(layer)(x)
    exact = layer.double()(x.double())
    assert (ours - exact).square().mean() < 25 * (plain - exact).square().mean() < 1e-12


@pytest.mark.parametrize(
    ("image_shape", "channels"),
    [
        ((3, 32, 32), (32,) * 3),
        ((1, 28, 28), (32,) * 3),
        ((1, 9, 12), (32,) * 3),
        ((3, 17, 20), (4, 16, 8, 6)),
        ((3, 5, 4), (9,)),
    ],
)
def test_the_gradient_written_out_is_that_of_autograd(image_shape, channels):
    decoder, hidden = Decoder(image_shape, channels, hidden=7).double(), torch.randn(3, 7).double()
    layers, found = partial(decoder.layers, decoder.prepared()), []
    for decode in (lambda hidden: layers(hidden)[-1], partial(WithGradient.apply, layers, decoder.backward)):
        given = hidden.clone().requires_grad_()
        first = torch.autograd.grad(decode(given).sin().sum(), given, create_graph=True)[0]
        found.append((first, torch.autograd.grad(first.square().sum(), given)[0]))
    torch.testing.assert_close(*found)


def test_it_is_taken_in_bfloat16_where_weights_are_fixed():
    decoder, given = Decoder((1, 28, 28), (8, 8, 8), 7).bfloat16(), torch.randn(3, 7, requires_grad=True)
    gradients = []
    for trained in (True, False):
        out = decoder.requires_grad_(trained)(given)
        assert ("WithGradient" in named_in_graph(out)) != trained
        gradients.append(torch.autograd.grad(out.float().sin().sum(), given)[0])
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.01)
    assert "WithGradient" not in named_in_graph(decoder.float()(given))  # autograd's knows more than one derivative


def named_in_graph(out):
    """The names of the functions that a tensor's gradient goes back through."""
    names, nodes = "", [out.grad_fn]
    while nodes:
        node = nodes.pop()
        names += f"{node.name()} "
        nodes += [each for each, _ in node.next_functions if each is not None]
    return names


def test_a_diagonal_normal_is_a_normal_under_plates():
    loc, log_scale, value = torch.randn(4, 3).double(), torch.randn(4, 3).double(), torch.randn(2, 5, 4, 3).double()
    expected = dist.Normal(loc, log_scale.exp()).to_event(1).expand([5, 4])
    normal = DiagonalNormal(loc, log_scale).expand([5, 4])
    assert (normal.batch_shape, normal.event_shape) == (expected.batch_shape, expected.event_shape)
    assert normal.rsample([2]).shape == expected.rsample([2]).shape
    torch.testing.assert_close(normal.log_prob(value), expected.log_prob(value))
    torch.testing.assert_close(normal.log_prob(value[0, 0]), expected.log_prob(value[0, 0]))


@pytest.mark.parametrize(
    ("image_shape", "channels"),
    [
        ((3, 32, 32), 4),
        ((1, 28, 28), 4),
        ((1, 9, 12), 4),
        ((2, 1, 1), 4),
        ((3, 45, 64), (2, 3, 4, 5)),
        ((3, 8, 6), (4,)),
    ],
)
def test_images_of_any_size(image_shape, channels, name):
    factorization = build(name, Networks(latent=2, hidden=8, channels=channels), image_shape=image_shape, num_classes=3)
    classifier = BayesClassifier(factorization, particles=2)
    assert classifier(torch.rand(2, *image_shape)).shape == (2, 3)


BAD = [
    (torch.full((2, 1, 7, 7), float("nan")), "got values from nan to nan"),
    (torch.full((2, 1, 7, 7), 255.0), "got values from 255 to 255"),
    (torch.full((2, 1, 7, 7), -0.5), "got values from -0.5"),
    (torch.rand(2, 1, 28, 28), r"got shape \[2, 1, 28, 28\]"),
    (torch.rand(1, 7, 7), r"got shape \[1, 7, 7\]"),
    (torch.rand(0, 1, 7, 7), "got no image"),
    (torch.zeros(2, 1, 7, 7, dtype=torch.uint8), "got torch.uint8"),
    ([[0.0]], "got list"),
]


@pytest.mark.parametrize(("x", "words"), BAD, ids=[words for _, words in BAD])
def test_what_is_no_batch_of_images_is_refused(x, words, make):
    with pytest.raises(ValueError, match=r"images: expected floats in \[0, 1\] of shape \[B, 1, 7, 7\], " + words):
        BayesClassifier(make("gbz"))(x)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"particles": 0}, "particles must be a whole number of at least 1, got 0"),
        ({"particles": 2.5}, "particles must be a whole number"),
        ({"noise": "none"}, "unknown noise 'none'"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_classifiers_are_refused(arguments, words, make):
    with pytest.raises(InputError, match=words):
        BayesClassifier(make("gbz"), **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"networks": "large"}, "unknown networks 'large'"),
        ({"image_shape": (28, 28)}, "image_shape must be"),
        ({"image_shape": (1, 0, 28)}, "every size in image_shape"),
        ({"num_classes": 1}, "num_classes must be a whole number of at least 2"),
    ],
)
def test_bad_models_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        build("gbz", **arguments)


def test_networks_refuse_what_they_cannot_be():
    wrong = [{"channels": channels} for channels in (1.5, (), (4, 0), (4,) * 11, "4")]
    wrong += [{"likelihood": "bernoulli", "learned_variance": "one"}, {"learned_variance": "all"}]
    for arguments in ({"latent": 0}, {"likelihood": "poisson"}, {"variance": 0.0}, *wrong):
        with pytest.raises(InputError):
            Networks(**arguments)
