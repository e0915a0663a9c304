"""Certificates: they hold where the truth is known, they are near it, and no attack breaks one."""

import dataclasses
import json
import math

import pytest
import torch
from made_up import certification
from scipy.stats import binomtest, norm
from support import TINY

from pyrobayes import BayesClassifier, Images, InputError, build, certify, load_data, pretrained
from pyrobayes.codec import decode, encode
from pyrobayes.commands.certify import certify as command
from pyrobayes.commands.context import Context
from pyrobayes.evaluation import certification as library
from pyrobayes.evaluation.certification import Certification, lower_bounds, radius_of, smoothed_class
from pyrobayes.evaluation.rates import Rate
from pyrobayes.inference.smoothing import class_counts
from pyrobayes.options import PRETRAINED, CertificationOptions

SIGMA, DRAWS, ALPHA = 0.5, 20_000, 0.001


class HalfSpace(BayesClassifier):
    """Two classes with a hyperplane between them, which the classifier's own noise moves by `own` standard deviations.

    A noisy copy at distance d is on the image's side with probability Phi(d / sqrt(sigma^2 + own^2)); the radius is d.
    """

    def __init__(self, own):
        super().__init__(build("gbz", TINY, image_shape=(1, 7, 7), num_classes=2), particles=1, seed=5)
        self.own, self.normal = own, torch.randn(49, generator=torch.Generator().manual_seed(0))
        self.normal /= self.normal.norm()

    def distance(self, x):
        return (x.flatten(1) - 0.5) @ self.normal

    def forward(self, x):
        odds = self.distance(x) + self.own * self.base_noise(len(x))[0, 0, :, 0]
        return torch.stack([-odds, odds], 1)


@pytest.fixture
def half_space(request):
    """A classifier, 16 images up to 2 units on both sides of its hyperplane, and their distances from it."""
    classifier, away = HalfSpace(request.param), torch.linspace(-2, 2, 16)
    x = 0.5 + away[:, None] * classifier.normal
    pixels = (255 * x).round().clamp(0, 255).to(torch.uint8).reshape(-1, 1, 7, 7)
    data = Images("two", "test", pixels, (away > 0).long(), ("one", "other"))
    return classifier, data, classifier.distance(data.batch(slice(None))[0]).abs().double()


@pytest.mark.parametrize("half_space", [0.0, 0.3], indirect=True)
def test_the_radius_of_a_half_space_is_at_most_the_true_one_and_near_it(half_space):
    classifier, data, away = half_space
    result = certify(classifier, data, SIGMA, draws=DRAWS, alpha=ALPHA, progress=False)
    assert result.clean_accuracy.share > 0.8 and result.certified(0).count >= 12
    spread = math.hypot(SIGMA, classifier.own)
    for i, distance in enumerate(away.tolist()):
        p = norm.cdf(distance / spread)
        error = math.sqrt(p * (1 - p) / DRAWS) + 1 / DRAWS
        assert abs(result.counts[i][data.labels[i]] / DRAWS - p) < 5 * error
        assert result.radii[i] <= distance
        # The bound lies 3.1 errors below the share that was counted, and this at most 5 from the truth.
        if p - 9 * error > 0.5:
            assert result.radii[i] >= SIGMA * norm.ppf(p - 9 * error) and result.selected[i] == data.labels[i]
    furthest = SIGMA * norm.ppf(ALPHA ** (1 / DRAWS))
    assert max(result.radii) <= furthest + 1e-9


def test_counts_become_radii_as_scipy_has_them():
    for count, draws, alpha in ((4000, 4000, 0.001), (3990, 4000, 0.05), (2100, 4000, 0.001), (1, 10, 0.01)):
        by_hand = binomtest(count, draws, alternative="greater").proportion_ci(1 - alpha, method="exact").low
        assert lower_bounds([count], draws, alpha)[0] == pytest.approx(by_hand, rel=1e-9)
        assert radius_of(by_hand, 0.25) == pytest.approx(0.25 * max(0, norm.ppf(by_hand)), rel=1e-9)
    assert lower_bounds([0], 10, 0.001) == [0.0] and radius_of(0.5, 1.0) == radius_of(0.0, 1.0) == 0
    result = certification("gbz")
    assert result.radii[0] == pytest.approx(0.25 * norm.ppf(lower_bounds([995], 1000, 0.001)[0]))
    assert result.correct_radii == [result.radii[0], 0, 0, 0] and result.radii[1] > 0
    assert result.average_radius.value == pytest.approx(result.radii[0] / 4)
    counts = [result.certified(radius).count for radius in (0, result.radii[0] - 1e-6, result.radii[0])]
    assert counts == [1, 1, 0]


def test_without_a_majority_it_abstains():
    result = certification("gbz")
    assert result.radii[2:] == [0, 0] and result.abstained.count == 2
    # PREDICT needs no majority, only one class before the others.
    assert result.predictions == [0, 1, None, 1] and result.smoothed_accuracy.count == 2
    assert smoothed_class([0, 60, 40], 0.001) is None and smoothed_class([0, 60, 40], 0.06) == 1
    assert binomtest(60, 100).pvalue == pytest.approx(0.0569, abs=1e-4)
    assert smoothed_class([0, 0], 0.001) is None and smoothed_class([5, 5], 0.999) is None


def test_a_certification_is_read_back_and_shows_itself():
    result = certification("gbz")
    written = json.loads(json.dumps(encode(result), allow_nan=False))
    assert decode(Certification, written) == result and written["predictions"] == [0, 1, None, 1]
    assert "gbz, sigma 0.25, 4 images of fashion-mnist, 1,000 draws" in repr(result)
    assert "average radius" in repr(result)
    one = {"labels": [0], "selected": [0], "counts": [[995, 5, 0]]}
    alone = dataclasses.replace(result, **one, clean_accuracy=Rate(1, 1))
    assert alone.average_radius.interval == (-math.inf, math.inf) and "100.0 [" in repr(alone)
    with pytest.raises(InputError, match="clean_accuracy must be of 1 images"):
        dataclasses.replace(result, **one)
    with pytest.raises(InputError, match="counts of every image must be of 3 classes and 1000 draws"):
        dataclasses.replace(alone, counts=[[995, 4, 0]])


@pytest.mark.parametrize(
    ("given", "words"),
    [({"sigma": 0}, "sigma must be"), ({"draws": 0}, "draws must be"), ({"selection_draws": 0}, "selection draws must be"),
     ({"alpha": 1}, "alpha must be"), ({"batch_size": 0}, "batch size must be")],
)  # fmt: skip
def test_bad_arguments_are_named(given, words, make, tiny_images):
    with pytest.raises(InputError, match=words):
        certify(BayesClassifier(make("dfx")), tiny_images, **given)


def attack(classifier, x, y, radius, steps=8, copies=16):
    """PGD in L2 against the mean posterior of noisy copies (Salman et al. 2019), not cut to [0, 1]; radii are [B]."""
    seen, size = classifier.unbounded(), radius[:, None, None, None]
    start = torch.Generator().manual_seed(0)
    adversarial = x
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_()
        copied = adversarial.repeat(copies, 1, 1, 1)
        noise = 0.25 * torch.randn(copied.shape, generator=start)
        posterior = seen(copied + noise).log_softmax(1).unflatten(0, (copies, -1)).logsumexp(0)
        loss = -posterior.gather(1, y[:, None]).sum()
        (gradient,) = torch.autograd.grad(loss, adversarial)
        change = adversarial.detach() - x + size / 3 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
        norms = change.flatten(1).norm(dim=1)[:, None, None, None]
        adversarial = x + change * (size / norms).clamp(max=1)
    return adversarial


def test_no_attack_breaks_a_certificate():
    classifier, test = pretrained("dfx", device="cpu", particles=1), load_data("fashion-mnist-mini", "test").head(5)
    result = certify(classifier, test, 0.25, draws=500, selection_draws=50, progress=False)
    certified = torch.tensor([i for i, radius in enumerate(result.radii) if radius])
    assert len(certified) >= 3
    x, classes = test.batch(certified)[0], torch.tensor(result.selected)[certified]
    radii = torch.tensor(result.radii)[certified]

    def predicted(images):
        counts = class_counts(classifier, images, 0.25, range(10_000, 10_300), indices=certified)
        return [smoothed_class(each, ALPHA) for each in counts.tolist()]

    inside = attack(classifier, x, classes, 0.999 * radii)
    assert torch.allclose((inside - x).flatten(1).norm(dim=1), 0.999 * radii, rtol=1e-3)
    assert all(found in (None, c) for found, c in zip(predicted(inside), classes.tolist()))
    beyond = predicted(attack(classifier, x, classes, 6 * radii))
    assert any(found not in (None, c) for found, c in zip(beyond, classes.tolist()))  # the attack is one


def test_sigmas_that_are_finished_are_not_certified_again(tmp_path, monkeypatch, empty_figures):
    where = Context("fashion-mnist-mini", runs=PRETRAINED, out=tmp_path)
    options = CertificationOptions(images=3, particles=1, sigma=(0.1, 0.2, 0.4), draws=20, selection_draws=5)
    expected = command(["dfx"], options, dataclasses.replace(where, out=tmp_path / "whole"))
    real, made = library.certify, []

    def counted(classifier, data, sigma, **more):
        made.append(sigma)
        if made == [0.1, 0.2]:
            raise KeyboardInterrupt
        return real(classifier, data, sigma, **more)

    monkeypatch.setattr(library, "certify", counted)
    with pytest.raises(KeyboardInterrupt, match="and resume=True keeps them"):
        command(["dfx"], options, where)
    again = command(["dfx"], dataclasses.replace(options, batch_size=7), where, resume=True)
    assert made == [0.1, 0.2, 0.2, 0.4] and again == expected
    assert (tmp_path / "certified-dfx.png").is_file()
