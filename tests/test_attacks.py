"""Invariants of every registered attack, and what FGSM computes."""

import pytest
import torch
from torch import nn

from pyrobayes import BayesClassifier, InputError, attacks, evaluation
from pyrobayes.attacks import fgsm, log_odds_against

EPS = [0.0, 0.05, 0.3, 1.0]


@pytest.fixture(params=attacks.names())
def attack(request):
    return attacks.get(request.param)


def test_stays_in_the_ball_and_in_the_range_of_pixels(attack, name, make, batch):
    x, y = batch
    adversarial = attack(BayesClassifier(make(name), particles=3), x, y, EPS)
    assert adversarial.shape == (4, *x.shape)
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    for eps, images in zip(EPS, adversarial):
        assert (images - x).abs().max() <= eps + 1e-6
    assert torch.equal(adversarial[0], x)
    assert not torch.equal(adversarial[1], x)
    assert not adversarial.requires_grad


def test_the_same_seed_gives_the_same_images(attack, make, batch):
    first, second, other = (attack(BayesClassifier(make("gbz"), seed=seed), *batch, EPS) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_one_eps_has_no_dimension_of_its_own(attack, make, batch):
    classifier = BayesClassifier(make("gbz"), noise="fixed")
    assert torch.equal(attack(classifier, *batch, 0.1), attack(classifier, *batch, [0.1])[0])


def test_changes_neither_the_classifier_nor_the_images(attack, make, batch):
    x, y = batch
    classifier, before = BayesClassifier(make("gfz"), noise="fixed"), x.clone()
    attack(classifier, x, y, EPS)
    assert torch.equal(x, before) and not x.requires_grad
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.parametrize(
    ("y", "eps", "words"),
    [
        (torch.zeros(4), 0.1, "y must hold one class, a torch.long, for each of 4 images"),
        (torch.zeros(3, dtype=torch.long), 0.1, "y must hold one class"),
        (torch.zeros(4, dtype=torch.long), -0.1, "eps must lie in"),
        (torch.zeros(4, dtype=torch.long), [0.1, 1.5], "eps must lie in"),
        (torch.zeros(4, dtype=torch.long), [], "eps is empty"),
        (torch.full((4,), 10), 0.1, "y must hold classes from 0 to 9, got 10 to 10"),
        (torch.full((4,), -1), 0.1, "y must hold classes from 0 to 9, got -1 to -1"),
        ([0, 0, 0, 0], 0.1, "y must hold one class, a torch.long, for each of 4 images, got list"),
    ],
)
def test_bad_arguments_are_named(attack, y, eps, words, make, batch):
    with pytest.raises(InputError, match=words):
        attack(BayesClassifier(make("gbz")), batch[0], y, eps)


class Linear(nn.Module):
    """Logits W x."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.weight = scale * torch.randn(10, 49, generator=torch.Generator().manual_seed(0))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def test_fgsm_of_a_linear_classifier_is_known(batch):
    x, y = batch
    model = Linear()
    posterior = model(x).softmax(1)
    gradient = posterior @ model.weight - model.weight[y]
    expected = (x + 0.1 * gradient.sign().reshape(x.shape)).clamp(0, 1)
    torch.testing.assert_close(fgsm(model, x, y, 0.1), expected)


def test_fgsm_of_a_saturated_posterior_still_has_a_direction(batch):
    x, _ = batch
    model = Linear(scale=1e4)
    y = model(x).argmax(1)
    inputs = x.clone().requires_grad_()
    plain = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), y, reduction="sum"), inputs)[0]
    assert plain.count_nonzero() == 0  # the cross-entropy underflows: this would look like robustness
    assert (fgsm(model, x, y, 0.05) != x).flatten(1).any(1).all()


def test_log_odds_are_those_of_the_posterior():
    log_joint = torch.randn(6, 10, dtype=torch.float64) - 500
    y = torch.arange(6)
    p = log_joint.softmax(1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(log_odds_against(log_joint, y), ((1 - p) / p).log())


def test_fgsm_lowers_the_posterior_of_the_truth(name, make, batch):
    x, y = batch
    classifier = BayesClassifier(make(name, double=True), particles=8, noise="fixed")
    x = x.double()
    adversarial = fgsm(classifier, x, y, 0.003)
    before, after = (log_odds_against(classifier(images), y) for images in (x, adversarial))
    assert (after > before).all()


@pytest.fixture
def classifier(make):
    return BayesClassifier(make("gbz"), particles=3, seed=0)


@pytest.mark.parametrize("noise", ["fresh", "fixed"])
def test_results_do_not_depend_on_batches(noise, make, tiny_images):
    data, classifier = tiny_images.head(50), BayesClassifier(make("gbz"), particles=3, noise=noise)
    results = [evaluation.attack(classifier, data, (0.0, 0.1), batch_size=size) for size in (50, 7)]
    assert results[0].predictions == results[1].predictions
    torch.testing.assert_close(torch.tensor(results[0].posteriors), torch.tensor(results[1].posteriors))
    assert results[0].examples.shape == (2, 8, 1, 7, 7)
    torch.testing.assert_close(results[0].examples, results[1].examples)


def test_eps_zero_gives_clean_accuracy(classifier, tiny_images):
    result = evaluation.attack(classifier, tiny_images, (0.0, 0.2))
    assert result.predictions[0] == result.clean_predictions
    assert result.success(0).share == pytest.approx(1 - result.clean_accuracy.share)
    assert result.flipped(0).count == 0
    assert len(result.labels) == 240


def test_images_limits_the_images(classifier, tiny_images):
    result = evaluation.attack(classifier, tiny_images, images=30)
    assert result.labels == tiny_images.labels[:30].tolist()
    with pytest.raises(InputError, match="images must be at most 240"):
        evaluation.attack(classifier, tiny_images, images=241)


def test_a_classifier_without_gradient_is_reported(make, tiny_images):
    classifier = BayesClassifier(make("dfx"), particles=2)
    for parameter in classifier.parameters():
        parameter.data.zero_()
    assert evaluation.attack(classifier, tiny_images.head(20), 0.1).unmoved.share == 1
