"""Attacks of libraries: what they find is judged by draws that they never saw. Those that aren't installed are skipped."""

import math

import pytest
import torch

from pyrobayes import BayesClassifier, InputError, attacks, evaluation
from pyrobayes.attacks import adapters, base, libraries
from pyrobayes.attacks.least_distance import FACTORS, Judge
from pyrobayes.attacks.norms import ORDERS, farthest, shortened, size
from pyrobayes.attacks.problem import Problem
from pyrobayes.inference.interface import Classifier
from pyrobayes.options import ClassifierOptions

PACKAGES = {name: cls.package for name, cls in base._REGISTRY.items() if hasattr(cls, "package")}
NEAREST = [(name, norm) for name in PACKAGES if name != "autoattack" for norm in base._REGISTRY[name].norms]
STEPS = {"hop-skip-jump": 2, "boundary": 150}


def get(name, **options):
    """An attack with few steps, where its library is installed."""
    pytest.importorskip(PACKAGES[name], reason="not installed: pip install 'pyrobayes[attacks]'")
    return attacks.get(name, **{"steps": STEPS.get(name, 30)} | options)


class Plane(Classifier):
    """Two classes with a plane between them: class 1 where the mean pixel is above 0.6, but for the luck of the draw."""

    has_particles = False

    def __init__(self, luck=0.0, draw=0):
        super().__init__(ClassifierOptions(1))
        self.luck, self.draw = luck, draw

    @property
    def random(self):
        return self.luck > 0

    def for_images(self, indices, draw=0):
        return self

    def resampled(self, draw):
        return Plane(self.luck, draw)

    def forward(self, x):
        generator = torch.Generator().manual_seed(self.draw)
        margin = 20 * (x.flatten(1).mean(1) - 0.6) + self.luck * torch.randn((), generator=generator)
        return torch.stack([0 * margin, margin], 1)


@pytest.fixture
def grey():
    """Three equal images whose mean pixel is 0.1 away from the plane, and their class."""
    return torch.linspace(0.4, 0.6, 16).reshape(1, 1, 4, 4).repeat(3, 1, 1, 1), torch.zeros(3, dtype=torch.long)


LEAST = {"linf": 0.1, "l2": 0.4, "l1": 1.6, "l0": 3}  # of 16 pixels: 0.1 each, or the three darkest made white


@pytest.mark.parametrize(("name", "norm"), NEAREST)
def test_the_nearest_image_beyond_a_plane_is_known(name, norm, grey):
    x, y = grey
    found = get(name, norm=norm)(Plane(), x, y, farthest(16, norm))
    assert (Plane()(found).argmax(1) == 1).all() and found.min() >= 0 and found.max() <= 1
    far = 1.4 if base._REGISTRY[name].follows_gradient else 2.5  # decisions alone find it slowly
    assert (size(found - x, norm) >= LEAST[norm] * 0.998).all() and size(found - x, norm).max() <= far * LEAST[norm]


@pytest.mark.parametrize("name", ["fmn", "ddn", "fab"])
def test_an_image_of_a_random_classifier_is_moved_out_until_most_draws_agree(name, grey):
    x, y = grey
    found = get(name, norm="l2")(Plane(luck=1.0), x, y, 4.0)
    shares = torch.stack([Plane(1.0, draw)(found).argmax(1) for draw in range(1000, 1400)]).float().mean(0)
    assert (shares > 0.6).all()
    # One draw in five misses it where the margin is 0.84 nats: at 0.4 + 4 * 0.84 / 20 in L2. Ten draws tell that roughly.
    assert ((size(found - x, "l2") > 0.4) & (size(found - x, "l2") < 0.8)).all()


def test_a_line_is_followed_outwards_and_inwards(grey):
    x, y = grey
    problem = Problem(attacks.get("cw"), Plane(luck=1e-3), x, y)
    judge = Judge(problem, 0.0, 5)
    for length in (0.06, 0.11, 0.2):  # the plane is at 0.1
        found = judge.along_the_line(x + length)
        assert ((found - x > 0.099) & (found - x < 0.115 * max(1, length / 0.11))).all()
    short = judge.along_the_line(x + 0.001)
    torch.testing.assert_close(short, x + FACTORS[-1] * 0.001)  # the furthest that was tried
    assert not judge.astray.any() and Judge(problem, 0.0, 5).of(torch.tensor([1])).astray.tolist() == [False]


def test_the_luck_of_the_draw_that_decides_is_taken_off(grey):
    x, y = grey
    lucky = next(draw for draw in range(100) if Plane(4.0, draw)(x)[0].argmax() == 1)  # misclassifies the original
    problem = Problem(attacks.get("cw"), Plane(luck=4.0), x, y)
    problem._attacked.resampled = lambda draw: Plane(4.0, lucky if draw == 0 else draw)
    judge = Judge(problem, 0.0, 50)
    assert (problem.margin(x) > 0).all() and (judge(x) < 0).all() and not judge.astray.any()
    torch.testing.assert_close(judge(x + 0.05) - judge(x), torch.ones(3), rtol=1e-4, atol=1e-4)  # nats


@pytest.mark.parametrize("norm", ORDERS)
def test_a_change_is_shortened_to_a_length(norm):
    change = (
        torch.tensor([[3.0, -4.0, 0.0, 0.5]]).reshape(1, 1, 2, 2).expand(2, 1, 2, 2)
        * torch.tensor([1.0, 0.1])[:, None, None, None]
    )
    lengths = {"linf": 4.0, "l2": math.sqrt(25.25), "l1": 7.5, "l0": 3}
    assert size(change, norm).tolist() == pytest.approx([lengths[norm], lengths[norm] * (1 if norm == "l0" else 0.1)])
    shorter = shortened(change, norm, 2.0)
    assert size(shorter, norm).tolist() == pytest.approx([2.0, 2.0 if norm == "l0" else lengths[norm] * 0.1])
    assert torch.equal(shorter[1], change[1]) or norm == "l0"
    if norm == "l0":
        assert torch.equal(shorter.flatten(1)[0], torch.tensor([3.0, -4.0, 0.0, 0.0]))
    assert farthest(16, norm) == {"linf": 1, "l2": 4, "l1": 16, "l0": 16}[norm]


@pytest.mark.parametrize("name", ["fmn", "boundary"])
def test_images_and_random_numbers_do_not_depend_on_batches(name, grey):
    x, y = grey
    by, state, places = get(name, steps=3, selection=2), torch.random.get_rng_state(), torch.arange(3)
    together = by(Plane(luck=0.5), x, y, 1.0)
    apart = [by(Plane(luck=0.5), x[i : i + 1], y[i : i + 1], 1.0, indices=places[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(apart))
    assert torch.equal(state, torch.random.get_rng_state())
    if name != "fmn":  # which draws nothing
        assert not torch.equal(together[0], together[1])
        assert not torch.equal(together, get(name, steps=3, selection=2, seed=1)(Plane(luck=0.5), x, y, 1.0))


@pytest.mark.parametrize("noise", ["fresh", "fixed"])
def test_most_further_draws_decide_whether_a_distance_counts(noise, make, tiny_images):
    data, classifier = tiny_images.head(4), BayesClassifier(make("dfx"), particles=2, noise=noise)
    result = evaluation.attack(classifier, data, [0.0], by=get("fmn", steps=3, selection=2), checked=0)
    assert result.judges == (evaluation.attacked.JUDGES if noise == "fresh" else None)
    draws = range(4, 4 + (result.judges or 1))  # from NoiseStream.REDRAWS on
    x, y = data.batch(slice(None))
    wrong = torch.stack([classifier.for_images(range(4), draw)(x).argmax(1) != y for draw in draws]).double().mean(0)
    assert [distance == 0 for distance in result.distances] == (wrong > 0.5).tolist() and any(wrong > 0.5)


def test_a_target_is_reached(grey):
    x, y = grey
    for name in ("fmn", "boundary"):
        aimed = get(name, target=1, norm="l2")(Plane(), x, torch.tensor([0, 1, 0]), 4.0)
        assert Plane()(aimed).argmax(1).tolist() == [1, 0, 1] and torch.equal(aimed[1], x[1])  # of that class already


@pytest.mark.parametrize(("variant", "noise"), [("rand", "fresh"), ("standard", "fixed")])
def test_autoattack_stays_in_the_ball_and_breaks_what_fgsm_breaks(variant, noise, make, tiny_images):
    (x, _), classifier = tiny_images.head(2).batch(slice(None)), BayesClassifier(make("dfx"), particles=2, noise=noise)
    by, y = get("autoattack", variant=variant, steps=1, queries=3, targets=1), classifier(x).argmax(1)
    found = by(classifier, x, y, 0.5)
    assert (found - x).abs().max() <= 0.5 + 1e-6 and found.min() >= 0 and found.max() <= 1
    if noise == "fixed":
        wrong, plain = (classifier(images).argmax(1) != y for images in (found, attacks.fgsm(classifier, x, y, 0.5)))
        assert plain.any() and wrong[plain].all()
        assert torch.equal(found, by(classifier, x, y, 0.5))


def test_autoattack_needs_four_classes(grey):
    with pytest.raises(InputError, match="at least four classes for its DLR loss, got 2"):
        get("autoattack")(Plane(), *grey, 0.1)


def test_gradients_are_counted():
    assert (
        attacks.get("fmn", steps=7).gradients(10, 2) == 7 * 2
        and attacks.get("fmn", steps=7, norm="l1").gradients(10, 2) == 14 * 2
    )
    assert attacks.get("ddn", steps=7, step_particles=20, eot=2).gradients(10, 2) == 140 * 2
    assert attacks.get("boundary").gradients(10, 2) == 0
    assert attacks.get("autoattack", variant="rand").gradients(10, 2) == 2 * 20 * 100 * 10 * 2
    assert attacks.get("autoattack", targets=3).gradients(1, 2) == 100 * (1 + 3 + 3) * 2


def test_what_a_library_sees_is_the_judges_margin_with_the_gradient_of_the_loss(make, batch):
    (x, y), classifier = batch, BayesClassifier(make("gbz"), particles=3, noise="fixed")
    problem = Problem(attacks.get("fmn", loss="cross-entropy"), classifier, x, y)
    judge, inputs = Judge(problem, 0.0, 1), x.clone().requires_grad_()
    logits = adapters.RightOrWrong(problem, judge)(inputs)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], problem.margin(x))
    (seen,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), inputs)
    torch.testing.assert_close(seen, problem.gradient(x)[1])


def test_a_library_that_is_missing_is_named(monkeypatch, grey):
    monkeypatch.setattr(libraries.FMN, "package", "no_such_library")
    with pytest.raises(InputError, match=r"fmn is an attack of no_such_library, .* pip install 'pyrobayes\[attacks\]'"):
        attacks.get("fmn")(Plane(), *grey, 0.1)
    assert "fmn" in attacks.names()
