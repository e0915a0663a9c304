"""Momentum steps through a random classifier's noise, and the second stage."""

import dataclasses
import math

import pytest
import torch

from pyrobayes import BayesClassifier, InputError, attacks
from pyrobayes.attacks import LOSSES, Problem
from pyrobayes.attacks.eot_mim import EOTMIM, nearest


@pytest.fixture
def classifier(make):
    return BayesClassifier(make("gbz", double=True), particles=4)


@pytest.fixture
def images(tiny_images):
    x, y = tiny_images.head(30).batch(slice(None))
    return x.double(), y


def test_the_soft_margin_is_the_log_of_a_sigmoid():
    log_joint, y = torch.tensor([[-500.0, -497.0, -510.0]]), torch.tensor([0])
    for truth, margin in ((0, 3.0), (1, -3.0), (2, 13.0)):
        found = LOSSES["soft-margin"](log_joint, torch.tensor([truth]))
        assert found.item() == pytest.approx(-math.log(1 + math.exp(-margin / 3)), abs=1e-5)
    assert LOSSES["soft-margin"](log_joint, y, torch.tensor([2])).item() == pytest.approx(-13 / 3, abs=0.02)


def test_sizes_of_steps_fall_geometrically():
    attack = EOTMIM(steps=5, first_step=0.5, last_step=0.5 / 16)
    sizes = [attack.size(0.1, step) for step in range(5)]
    assert sizes == pytest.approx([0.05 / 2**step for step in range(5)])
    assert EOTMIM(steps=1).size(0.1, 0) == pytest.approx(0.05)
    assert EOTMIM(step_size=0.3).size(0.1, 7) == 0.3


def test_some_images_alone_have_the_loss_that_they_have_among_all(classifier, images):
    x, y = images
    attack, kept = attacks.get("eot-mim", snapshot=True), torch.arange(30) % 3 == 1
    problem = Problem(attack, classifier, x, y, indices=torch.arange(100, 130))
    for particles in (None, 1, 2):
        loss = problem.by(attack, particles).loss(x, 5)
        torch.testing.assert_close(problem.of(kept).by(attack, particles).loss(x[kept], 5), loss[kept])
        torch.testing.assert_close(problem.of(kept).loss(x[kept], 5), problem.loss(x, 5)[kept])
    assert not torch.equal(problem.by(attack, 1).loss(x, 5), problem.loss(x, 5))


def test_some_images_keep_the_noise_that_a_classifier_was_made_with(classifier, images):
    x, y = images
    kept, ours = torch.arange(30) % 3 == 1, classifier.for_images(torch.arange(30), draw=9)
    problem = Problem(EOTMIM(), ours, x, y)
    torch.testing.assert_close(problem.of(kept).loss(x[kept]), problem.loss(x)[kept])
    numbered = ours.resampled(torch.arange(30))
    torch.testing.assert_close(numbered.for_some(kept)(x[kept]), numbered(x)[kept])


def test_every_climb_is_taken_where_more_draws_fall_for_it(classifier, images):
    x, y = images
    attack = EOTMIM(steps=2, starts=1, second_steps=40, selection=6)
    found, choosing = attack(classifier, x, y, 0.1), range(120, 126)  # after three climbs of at most 40 steps
    before, after = (Problem(attack, classifier, x, y).over_draws(each, choosing)[0] for each in (x, found))
    changed = (found != x).flatten(1).any(1)
    assert changed.any() and (before[changed] < 0.9).all() and (after >= before).all() and (after > before).any()


def test_draws_that_choose_are_not_those_of_the_steps(classifier, images, monkeypatch):
    seen, estimate = [], BayesClassifier.estimate
    monkeypatch.setattr(
        BayesClassifier, "estimate", lambda self, x: seen.append((x.requires_grad, self._number)) or estimate(self, x)
    )
    EOTMIM(steps=3, second_steps=2, selection=4)(classifier, *images, 0.01)
    climbing, choosing = ({number for climbs, number in seen if climbs == kind} for kind in (True, False))
    assert climbing == {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10} and choosing == {12, 13, 14, 15}


def test_images_that_are_broken_are_left_as_they_are(classifier, images, monkeypatch):
    x, _ = images
    sizes, walk = [], EOTMIM.walk
    monkeypatch.setattr(
        EOTMIM, "walk", lambda self, problem, *given: sizes.append(len(problem.y)) or walk(self, problem, *given)
    )
    classifier = classifier.replaced(noise="fixed")
    predicted = classifier(x).argmax(1)
    wrong = torch.arange(30) % 3 == 0
    adversarial = EOTMIM(steps=8, second_steps=4)(classifier, x, (predicted + wrong) % 10, 0.3)
    assert torch.equal(adversarial[wrong], x[wrong]) and sizes[0] == 20 and sizes == sorted(sizes, reverse=True)


def test_without_looks_it_is_one_climb(classifier, images):
    x, y = images
    attack = EOTMIM(steps=6, looks=0)
    problem = Problem(attack, classifier, x, y)
    climbed = attack.climb(problem.by(attack, 1), 0.1, x, draw=0)
    torch.testing.assert_close(attack(classifier, x, y, 0.1), climbed)
    assert attack.gradients(10) == 6 and EOTMIM(steps=6, second_steps=5).gradients(10) == 3 * 6 + 5 * 4
    assert EOTMIM(steps=6, target=3, second_steps=0).gradients(10) == 2 * 6


def test_several_estimates_of_some_classes_have_a_gradient(classifier, images):
    x, y = images
    attack = EOTMIM(eot=2)
    problem = Problem(attack, classifier, x, y)
    classes = nearest(problem.over_draws(x, range(2))[2], y)
    (loss, gradient), (whole, _) = (problem.by(attack, 1, some).raw_gradient(x) for some in (classes, None))
    assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()
    assert (loss <= whole + 1e-9).all() and not torch.equal(loss, whole)


def test_a_step_sees_the_classes_that_come_near():
    log_posterior = torch.tensor([[0.0, 5.0, 4.0, 3.0, 2.0, 1.0], [9.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    assert nearest(log_posterior, torch.tensor([0, 4])).T.tolist() == [[0, 1, 2, 3], [4, 0, 1, 2]]
    assert nearest(log_posterior[:, :2], torch.tensor([1, 0])).T.tolist() == [[1, 0], [0, 1]]


class NoisyLinear(torch.nn.Module):
    """Logits of a linear classifier with noise in each call, which nobody can address."""

    random = True

    def __init__(self):
        super().__init__()
        self.weight = torch.randn(10, 49, generator=torch.Generator().manual_seed(0))

    def forward(self, x):
        return x.flatten(1) @ self.weight.to(x).T + torch.randn(len(x), 10).to(x)


def test_it_attacks_any_random_module(images):
    x, y = images
    model = NoisyLinear()
    y = model(x).argmax(1)
    adversarial = EOTMIM(steps=10, second_steps=5)(model, x, y, 0.1)
    wrong = torch.stack([model(adversarial).argmax(1) != y for _ in range(20)]).double().mean()
    assert wrong > 0.8


def test_wrong_options_are_refused():
    for name, value in (("step_particles", 0), ("second_steps", -1), ("second_steps", 1.5), ("last_step", 0)):
        with pytest.raises(InputError, match=f"{name.replace('_', ' ')} must be"):
            EOTMIM(**{name: value})
    assert dataclasses.replace(EOTMIM(), second_steps=0).second_steps == 0
