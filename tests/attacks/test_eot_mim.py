"""Momentum steps through a random classifier's noise, towards one class at a time."""

import math

import pytest
import torch

from pyrobayes import BayesClassifier, InputError, attacks
from pyrobayes.attacks import LOSSES, Problem
from pyrobayes.attacks.eot_mim import EOTMIM, pair


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


def test_sizes_of_steps_fall_along_half_a_cosine():
    attack = EOTMIM(steps=5, first_step=0.6, last_step=0.2)
    sizes = [attack.size(0.1, step) for step in range(5)]
    half = math.sqrt(0.5)
    assert sizes == pytest.approx([0.06, 0.04 + 0.02 * half, 0.04, 0.04 - 0.02 * half, 0.02])
    assert EOTMIM(steps=1).size(0.1, 0) == pytest.approx(0.1)
    assert EOTMIM(step_size=0.3).size(0.1, 7) == 0.3


def test_some_images_alone_have_the_loss_that_they_have_among_all(classifier, images):
    x, y = images
    attack, kept = attacks.get("eot-mim", snapshot=True), torch.arange(1, 30, 3)
    problem = Problem(attack, classifier, x, y, indices=torch.arange(100, 130))
    for particles in (None, 1, 2):
        loss = problem.by(attack, particles).loss(x, 5)
        torch.testing.assert_close(problem.of(kept).by(attack, particles).loss(x[kept], 5), loss[kept])
        torch.testing.assert_close(problem.of(kept).loss(x[kept], 5), problem.loss(x, 5)[kept])
    assert not torch.equal(problem.by(attack, 1).loss(x, 5), problem.loss(x, 5))


def test_some_images_keep_the_noise_that_a_classifier_was_made_with(classifier, images):
    x, y = images
    kept, ours = torch.arange(1, 30, 3), classifier.for_images(torch.arange(30), draw=9)
    problem = Problem(EOTMIM(), ours, x, y)
    torch.testing.assert_close(problem.of(kept).loss(x[kept]), problem.loss(x)[kept])
    numbered = ours.resampled(torch.arange(30))
    torch.testing.assert_close(numbered.for_some(kept)(x[kept]), numbered(x)[kept])


def test_every_climb_is_taken_where_more_draws_fall_for_it(classifier, images):
    x, y = images
    attack = EOTMIM(steps=2, second_steps=4, rivals=2, second_climbs=1, selection=6)
    found, choosing = attack(classifier, x, y, 0.1), range(12, 18)  # after three climbs of at most 4 steps
    before, after = (Problem(attack, classifier, x, y).over_draws(each, choosing)[0] for each in (x, found))
    changed = (found != x).flatten(1).any(1)
    assert changed.any() and (before[changed] < 1).all() and (after >= before).all() and (after > before).any()


def test_draws_that_choose_are_not_those_of_the_steps(classifier, images, monkeypatch):
    seen, estimate = [], BayesClassifier.estimate
    monkeypatch.setattr(
        BayesClassifier, "estimate", lambda self, x: seen.append((x.requires_grad, self._number)) or estimate(self, x)
    )
    EOTMIM(steps=3, second_steps=2, rivals=2, second_climbs=2, selection=4)(classifier, *images, 0.01)
    climbing, choosing = ({number for climbs, number in seen if climbs == kind} for kind in (True, False))
    assert climbing == {0, 1, 2, 3, 4, 5, 6, 7, 9, 10} and choosing == {12, 13, 14, 15}


def test_images_that_are_broken_are_left_as_they_are(classifier, images, monkeypatch):
    x, _ = images
    sizes, climb = [], EOTMIM.climb
    monkeypatch.setattr(
        EOTMIM, "climb", lambda self, problem, *given: sizes.append(len(problem.y)) or climb(self, problem, *given)
    )
    classifier = classifier.replaced(noise="fixed")
    predicted = classifier(x).argmax(1)
    wrong = torch.arange(30) % 3 == 0
    adversarial = EOTMIM(steps=8, second_steps=4)(classifier, x, (predicted + wrong) % 10, 0.3)
    assert torch.equal(adversarial[wrong], x[wrong]) and sizes[0] == 20 and sizes == sorted(sizes, reverse=True)


def test_every_climb_goes_towards_another_class(classifier, images, monkeypatch):
    x, y = images
    seen, climb = [], EOTMIM.climb

    def followed(self, problem, eps, start, draw):
        seen.append((problem, start, self.step_particles, self.steps))
        return climb(self, problem, eps, start, draw)

    monkeypatch.setattr(EOTMIM, "climb", followed)
    attack = EOTMIM(
        steps=3, second_steps=2, rivals=3, second_climbs=2, second_particles=2, selection=3, least_progress=0
    )
    attack(classifier, x, y, 1e-4)  # too little to break any
    order = Problem(attack, classifier, x, y).over_draws(x, range(15, 18))[2].argsort(descending=True)
    rivals = torch.stack([row[row != label] for row, label in zip(order, y)])
    stand = seen[0][0].indices
    assert len(seen) == len(stand) == 5
    for (problem, start, particles, steps), place in zip(seen, (0, 1, 2, 0, 1)):
        later = steps == 2
        assert (particles, torch.equal(start, x[stand])) == ((2, False) if later else (1, True))
        if not later:
            assert torch.equal(problem._classes, torch.stack([y[stand], rivals[stand, place]]))
        log_joint = problem._estimates(0)[0](start)
        assert (log_joint.isfinite().sum(1) == 2).all()  # no other class is computed
        own, rival = log_joint.gather(1, problem._classes.T).T
        torch.testing.assert_close(problem.loss(start), rival - own)


def test_it_is_one_climb_where_it_goes_towards_no_rival(classifier, images):
    x, y = images
    attack = EOTMIM(steps=6, rivals=0)
    problem = Problem(attack, classifier, x, y)
    climbed = attack.climb(problem.by(attack, 1), 0.1, x, draw=0)
    torch.testing.assert_close(attack(classifier, x, y, 0.1), climbed)
    assert (
        attack.gradients(10, 9) == 6 * 9 and EOTMIM(steps=6, second_steps=5).gradients(10, 9) == (4 * 6 + 5 * 5 * 2) * 2
    )
    assert EOTMIM(steps=6, second_steps=0, eot=3).gradients(10, 9) == 4 * 6 * 2 * 3


@pytest.mark.parametrize(("least", "second"), [(0.4, 1), (0.1, 2), (0, 2), (0.6, 0)])
def test_the_second_stage_leaves_what_has_come_a_small_part_of_the_way(monkeypatch, least, second):
    """The margin is ten times one pixel minus another, which has no gradient: eps 0.1 brings 0.1 of 0.05, of 0.2, of 0.5."""
    x, y = torch.tensor([[0, 0.05], [0, 0.2], [0, 0.5]]).double()[:, None, None], torch.zeros(3, dtype=torch.long)
    sizes, climb = [], EOTMIM.climb
    monkeypatch.setattr(
        EOTMIM, "climb", lambda self, problem, *given: sizes.append(len(problem.y)) or climb(self, problem, *given)
    )

    def classifier(x):
        return torch.stack([10 * x[:, 0, 0, 1].detach(), 10 * x[:, 0, 0, 0]], 1)

    EOTMIM(steps=4, second_steps=2, second_climbs=2, least_progress=least)(classifier, x, y, 0.1)
    assert sizes == [3] + [second] * (2 if second else 0)


@pytest.mark.parametrize("classes", [2, 3])
def test_it_takes_as_many_classes_as_there_are(classes, images):
    x, y = images[0], images[1] % classes
    weight = torch.randn(classes, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = EOTMIM(steps=5, second_steps=5)(lambda x: x.flatten(1) @ weight.T, x, y, 0.3)
    assert ((found.flatten(1) @ weight.T).argmax(1) != y).all()


def test_several_estimates_of_some_classes_have_a_gradient(classifier, images):
    x, y = images
    attack = EOTMIM(eot=2)
    problem = Problem(attack, classifier, x, y)
    classes = pair(problem.over_draws(x, range(2))[2], y, 1)
    (loss, gradient), (whole, _) = (problem.by(attack, 1, some).raw_gradient(x) for some in (classes, None))
    assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()
    assert (loss <= whole + 1e-9).all() and not torch.equal(loss, whole)


def test_a_pair_is_the_own_class_and_one_of_the_likeliest_others():
    log_posterior = torch.tensor([[0.0, 5.0, 4.0, 3.0], [9.0, 5.0, 4.0, 3.0]])
    assert [pair(log_posterior, torch.tensor([0, 1]), place).tolist() for place in (0, 1, 2)] == [
        [[0, 1], [1, 0]], [[0, 1], [2, 2]], [[0, 1], [3, 3]]
    ]  # fmt: skip


def test_the_loss_of_some_classes_is_that_of_a_classifier_that_knows_no_others(images):
    x, y = images
    weight = torch.randn(10, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = Problem(EOTMIM(), lambda x: x.flatten(1) @ weight.T, x, y)
    classes = torch.stack([y, (y + 3) % 10])
    own, rival = (x.flatten(1) @ weight.T).gather(1, classes.T).T
    torch.testing.assert_close(problem.by(EOTMIM(), classes=classes).loss(x), rival - own)


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


def test_it_reaches_a_target(images):
    (x, y), model = images, NoisyLinear()
    attack = EOTMIM(steps=10, second_steps=5, target=3)
    adversarial = attack(model, x, y, 0.3)
    reached = torch.stack([model(adversarial).argmax(1) == 3 for _ in range(20)])[:, y != 3].double().mean()
    assert reached > 0.8 and torch.equal(adversarial[y == 3], x[y == 3])
    assert attack.climbs == (1, 5) and attack.gradients(10, 9) == (10 + 5 * 5 * 2) * 9


def test_wrong_options_are_refused():
    for name, value in (("step_particles", 0), ("second_steps", -1), ("second_steps", 1.5), ("last_step", 0)):
        with pytest.raises(InputError, match=f"{name.replace('_', ' ')} must be"):
            EOTMIM(**{name: value})
    with pytest.raises(
        InputError, match="dlr compares three classes, and a climb of eot-mim sees two: choose another loss"
    ):
        EOTMIM(loss="dlr")
    assert EOTMIM(loss="dlr", rivals=0).single
