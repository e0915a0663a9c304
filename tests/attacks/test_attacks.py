"""Invariants of every registered attack, and what FGSM computes."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from pyrobayes import BayesClassifier, InputError, attacks, build, evaluation
from pyrobayes.attacks import LOSSES, base, fgsm, log_odds_against
from pyrobayes.attacks.apgd import checkpoints
from pyrobayes.attacks.norms import ORDERS
from pyrobayes.attacks.simba import directions
from pyrobayes.attacks.square import share
from pyrobayes.codec import encode
from pyrobayes.evaluation.attacked import of_other_classes
from pyrobayes.options import Networks

EPS = [0.0, 0.05, 0.3, 1.0]
AIMING = ["pgd", "mim", "apgd"]
NOISE = ["uniform", "gaussian"]  # too weak to reach a target
OPTIONS_TO_AIM = {"square": {"steps": 500}, "simba": {"steps": 98}, "transfer": {"steps": 20}, "patch": {"steps": 20}}
EPS_TO_AIM = {"linf": 0.5, "area": 1.0, "l2": 7.0}
LIBRARIES = {name for name, cls in base._REGISTRY.items() if hasattr(cls, "package")}  # test_libraries.py
OURS = [name for name in attacks.names() if name not in LIBRARIES]
NORMS = {name: attacks.get(name).norms for name in OURS}
FEW = {"steps": 3, "second_steps": 2, "selection": 6, "rivals": 2, "second_climbs": 1, "stop_draws": 1}
FEW |= {"restarts": 2, "draws": 3, "searches": 2}


@pytest.fixture
def quick():
    """Any attack with few steps, where it has any; restarts where it starts at random, a source where it takes one."""
    source = BayesClassifier(build("gbz", Networks(latent=5, hidden=12, channels=6), image_shape=(1, 7, 7)), 2)

    def quick(name, **options):
        few = {option: value for option, value in FEW.items() if option in attacks.options(name)}
        if attacks.get(name).least_distance:
            few["selection"] = 1
        if name == "transfer":
            few["sources"] = (source,)
        if name in ("simba", "pgd-stop"):
            few["steps"] = 1  # of several passes
        return attacks.get(name, **(few | options))

    return quick


def test_the_first_norm_of_an_attack_is_its_default(attack):
    assert attack.norm == attack.norms[0]


@pytest.fixture(params=OURS)
def attack(request, quick):
    return quick(request.param)


def size(change, norm):
    """How much is changed, [E, B], of changes [E, B, channels, height, width]."""
    if norm == "area":
        return change.ne(0).any(2).flatten(2).float().mean(2)
    return change.flatten(2).norm(p=ORDERS[norm], dim=2)


@pytest.mark.parametrize("name", ["gfz", "dbx", "bnn"])
@pytest.mark.parametrize(("attack", "norm"), [(name, norm) for name in OURS for norm in NORMS[name]])
def test_stays_in_the_ball_and_in_the_range_of_pixels(attack, norm, quick, name, make, batch):
    x, attack, classifier = batch[0], quick(attack, norm=norm), BayesClassifier(make(name), particles=2)
    likely = classifier.replaced(particles=100)(x).argmax(1)  # so that there is something to break
    adversarial = attack(classifier, x, likely, EPS)
    assert adversarial.shape == (4, *x.shape)
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert (size(adversarial - x, norm) <= torch.tensor(EPS)[:, None] + 1e-6).all()
    assert torch.equal(adversarial[0], x)
    assert not torch.equal(adversarial[-1], x) or attack.least_distance
    assert not adversarial.requires_grad


def test_the_same_seed_gives_the_same_images(attack, make, batch):
    attacked = (BayesClassifier(make("gfz"), particles=2, seed=1) for _ in range(2))
    first, second = (attack(classifier, *batch, 0.3) for classifier in attacked)
    assert torch.equal(first, second)
    classifier = BayesClassifier(make("gfz"), particles=2, seed=1)
    for _ in range(2):  # and so does the same classifier, whose noise a call of its own would draw anew
        classifier(batch[0])
        assert torch.equal(first, attack(classifier, *batch, 0.3))


def test_another_seed_gives_other_images_where_an_attack_draws(attack, make, batch, monkeypatch):
    drawn, keys = [], attacks.Problem._keys
    monkeypatch.setattr(attacks.Problem, "_keys", lambda problem, draw: drawn.append(draw) or keys(problem, draw))
    classifier = BayesClassifier(make("gfz"), particles=2, noise="fixed")
    first, other = (dataclasses.replace(attack, seed=seed)(classifier, *batch, 0.3) for seed in (0, 1))
    assert torch.equal(first, other) == (not drawn)
    if attack.name in ("fgsm", "mim", "cw", "pgd", "simba", "square", "uniform"):
        assert bool(drawn) == (attack.name in ("pgd", "simba", "square", "uniform"))


def test_one_eps_has_no_dimension_of_its_own(attack, make, batch):
    classifier = BayesClassifier(make("gbz"), particles=2, noise="fixed")
    assert torch.equal(attack(classifier, *batch, 0.1), attack(classifier, *batch, [0.1])[0])


def test_changes_neither_the_classifier_nor_the_images(attack, make, batch):
    x, y = batch
    classifier, before = BayesClassifier(make("gfz"), noise="fixed"), x.clone()
    attack(classifier, x, y, 0.3)
    assert torch.equal(x, before) and not x.requires_grad
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.parametrize(
    ("y", "eps", "words"),
    [
        (torch.zeros(4), 0.1, "y must hold one class, a torch.long, for each of 4 images"),
        (torch.zeros(3, dtype=torch.long), 0.1, "y must hold one class"),
        (torch.zeros(4, dtype=torch.long), -0.1, "eps must lie in"),
        (torch.zeros(4, dtype=torch.long), [0.1, float("inf")], "eps must lie in"),
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
        return x.flatten(1) @ self.weight.T.to(x.dtype)


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
def test_results_do_not_depend_on_batches(noise, attack, make, tiny_images):
    data, classifier = tiny_images.head(20), BayesClassifier(make("gbz", double=True), particles=3, noise=noise)
    results = [evaluation.attack(classifier, data, (0.0, 0.1), by=attack, batch_size=size) for size in (20, 7)]
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


def test_a_classifier_without_gradient_is_reported(attack, make, tiny_images):
    classifier = BayesClassifier(make("dfx"), particles=2)
    for parameter in classifier.parameters():
        parameter.data.zero_()
    result = evaluation.attack(classifier, tiny_images.head(20), 0.1, by=attack)
    assert result.unmoved.share == (1 if attack.follows_gradient else 0)


@pytest.mark.filterwarnings("ignore:the classifier gave .* no gradient other than zero for .* of 4 images")
def test_a_gradient_that_is_not_finite_moves_nothing(attack, batch, quick):
    class Undefined(Linear):
        def forward(self, x):
            return super().forward(x) + 0 * (x - x.detach()).sum().sqrt()

    for norm in attack.norms:
        tried = dataclasses.replace(attack, norm=norm)
        found = tried(Undefined(), *batch, 0.1)
        assert found.isfinite().all()
        if tried.follows_gradient and not (tried.least_distance or getattr(tried, "random_start", False)):
            assert torch.equal(found, batch[0])


def test_a_classifier_with_a_gradient_is_not(attack, make, tiny_images):
    result = evaluation.attack(BayesClassifier(make("gbz"), particles=2), tiny_images.head(20), 0.1, by=attack)
    assert result.unmoved.count == 0


def success(classifier, x, y):
    return (classifier(x).argmax(1) != y).float().mean().item()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", AIMING)
def test_steps_and_targets_reach_what_they_aim_at_in_a_linear_classifier(name, loss, tiny_images):
    x, y = tiny_images.head(60).batch(slice(None))
    model = Linear()
    attack = attacks.get(name, loss=loss, steps=20)
    assert success(model, attack(model, x, y, 0.3), y) == 1
    aimed = attacks.get(name, loss=loss, steps=20, target=3)(model, x, y, 0.5)
    assert torch.equal(aimed[y == 3], x[y == 3])
    if loss != "dlr":  # which, with a target, only weighs it against the truth
        assert (model(aimed).argmax(1) == 3)[y != 3].float().mean() > 0.9
    each = attacks.get(name, loss=loss, steps=20, target="each")(model, x, y, 0.3)
    assert success(model, each, y) == 1


@pytest.mark.parametrize("name", [name for name in OURS if name not in (*AIMING, *NOISE)])
def test_other_attacks_reach_a_target_too(name, tiny_images):
    (x, y), model = tiny_images.head(30).batch(slice(None)), Linear()
    options = OPTIONS_TO_AIM.get(name, {}) | ({"sources": (model,)} if name == "transfer" else {})
    attack = attacks.get(name, target=3, **options)
    aimed = attack(model, x, y, EPS_TO_AIM[attack.norm])
    assert torch.equal(aimed[y == 3], x[y == 3])
    assert (model(aimed).argmax(1) == 3)[y != 3].float().mean() > 0.9


def test_pgd_of_a_linear_classifier_is_known(tiny_images):
    x, y = tiny_images.head(8).batch(slice(None))
    model, expected = Linear(), x
    for _ in range(3):
        posterior = model(expected).softmax(1)
        gradient = (posterior @ model.weight - model.weight[y]).reshape(x.shape)
        expected = (expected + 0.05 * gradient.sign()).clamp((x - 0.1).clamp(0), (x + 0.1).clamp(max=1))
    found = attacks.get("pgd", steps=3, step_size=0.05, random_start=False)(model, x, y, 0.1)
    torch.testing.assert_close(found, expected)


def test_losses_of_known_log_joints():
    log_joint, y, target = torch.tensor([[-500.0, -497.0, -503.0, -510.0]]), torch.tensor([0]), torch.tensor([2])
    assert LOSSES["margin"](log_joint, y).item() == 3
    assert LOSSES["margin"](log_joint, y, target).item() == -6
    assert LOSSES["dlr"](log_joint, y).item() == pytest.approx(3 / 6)
    assert LOSSES["dlr"](log_joint, y, target).item() == pytest.approx(-3 / (-497 + (503 + 510) / 2))
    towards = -503 - torch.tensor([-500.0, -497.0, -510.0]).logsumexp(0)
    assert LOSSES["cross-entropy"](log_joint, y, target).item() == pytest.approx(towards.item(), abs=1e-4)


def test_mim_accumulates_normalized_gradients(tiny_images):
    x, y = tiny_images.head(8).batch(slice(None))
    model, expected, along = Linear(), x, torch.zeros(8, 49)
    for _ in range(3):
        log_odds = model(expected).detach().requires_grad_()
        weight = torch.autograd.grad(log_odds_against(log_odds, y).sum(), log_odds)[0]
        gradient = weight @ model.weight
        along = 0.5 * along + gradient / gradient.abs().sum(1, keepdim=True)
        step = 0.05 * along.sign().reshape(x.shape)
        expected = (expected + step).clamp((x - 0.1).clamp(0), (x + 0.1).clamp(max=1))
    found = attacks.get("mim", steps=3, step_size=0.05, decay=0.5)(model, x, y, 0.1)
    torch.testing.assert_close(found, expected)


def test_checkpoints_of_apgd_are_those_of_its_paper():
    # Croce and Hein (2020), section 3.3: p_1 = 0.22, and each period shorter by 0.03, to 0.06.
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


class Lucky(Linear):
    """Logits W x, and luck of class 0 in every draw."""

    def forward(self, x):
        return super().forward(x) + 10 * torch.randn((), dtype=x.dtype) * (torch.arange(10) == 0)


def test_apgd_does_not_take_luck_for_progress(tiny_images):
    x, y = tiny_images.head(20).batch(slice(None))[0].double(), torch.zeros(20, dtype=torch.long)
    # Whatever the luck, the gradient of the margin is the same, and so are differences, but for rounding.
    attack = attacks.get("apgd", loss="margin", steps=20)
    lucky, plain = (attack(model.double(), x, y, 0.1) for model in (Lucky(), Linear()))
    torch.testing.assert_close(lucky, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_more_steps_and_restarts_climb_higher_on_fixed_noise(name, norm, make, batch):
    (x, y), classifier = batch, BayesClassifier(make("gbz", double=True), particles=3, noise="fixed")
    x, eps = x.double(), 0.1 if norm == "linf" else 0.7
    reached = []
    for more in ({"steps": 1}, {"steps": 10}, {"steps": 10, "restarts": 3}):
        adversarial = attacks.get(name, norm=norm, **more)(classifier, x, y, eps)
        reached.append(log_odds_against(classifier(adversarial), y).mean())
    assert log_odds_against(classifier(x), y).mean() < reached[0] < reached[1] <= reached[2]


@pytest.mark.parametrize("name", [name for name in OURS if attacks.options(name) & {"steps", "draws"}])
def test_more_steps_never_leave_more_images(name, tiny_images):
    x, _ = tiny_images.head(60).batch(slice(None))
    model, source, counts = Linear(), Linear(), "steps" if "steps" in attacks.options(name) else "draws"
    source.weight = source.weight + 0.5 * torch.randn(10, 49, generator=torch.Generator().manual_seed(1))
    y, broken = model(x).argmax(1), []  # all are right at first
    for number in (1, 20):
        by = attacks.get(name, **{counts: number}, **({"sources": (source,)} if name == "transfer" else {}))
        eps = 0.15 if counts == "draws" else {"l2": 0.1, "linf": 0.02, "area": 0.1}[by.norm]
        broken.append(success(model, by(model, x, y, eps), y))
    assert broken[0] <= broken[1] and 0 < broken[1] < 1


def test_the_worst_draw_of_noise_counts(tiny_images):
    x, y = tiny_images.head(20).batch(slice(None))
    model = Linear()
    few, many = (attacks.get("uniform", draws=draws)(model, x, y, 0.2) for draws in (1, 50))
    assert (log_odds_against(model(many), y) >= log_odds_against(model(few), y)).all()
    assert (few - x).abs().max() > 0.19


def test_noise_in_l2_has_the_length_that_was_asked_for(tiny_images):
    x, y = torch.full((4, 1, 7, 7), 0.5), torch.zeros(4, dtype=torch.long)
    lengths = (attacks.get("gaussian", norm="l2", draws=1)(Linear(), x, y, 0.3) - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((4,), 0.3))


def test_eot_sees_the_mean_of_independent_posteriors(make, batch):
    x, y = batch
    classifier = BayesClassifier(make("gbz"), particles=2).for_images(range(4))
    problem = attacks.Problem(attacks.get("fgsm", eot=3), classifier, x, y)
    posteriors = torch.stack([classifier.resampled(draw)(x).softmax(1) for draw in (3, 4, 5)])
    assert not torch.equal(posteriors[0], posteriors[1])
    torch.testing.assert_close(problem.log_posterior(x, 1), posteriors.mean(0).log())
    assert torch.equal(classifier.resampled(0)(x), classifier(x))


def test_a_term_without_images_decodes_nothing(make, batch, monkeypatch):
    factorization, (x, y) = make("gbz"), batch
    classifier = BayesClassifier(factorization, 3).for_images(range(4))
    expected = attacks.get("fgsm", term="y")(classifier, x, y, 0.1)
    monkeypatch.setattr(factorization.p_x.decoder, "forward", None)
    assert torch.equal(attacks.get("fgsm", term="y")(classifier, x, y, 0.1), expected)
    with pytest.raises(TypeError):
        attacks.get("fgsm")(classifier, x, y, 0.1)


def test_terms_add_up_to_the_log_weights(name, make, batch):
    x, _ = batch
    for estimator in ("per-class", "mixture"):
        if estimator == "mixture" and "y" in make(name).parents()["x"]:
            continue
        classifier = BayesClassifier(make(name), particles=3, estimator=estimator).for_images(range(4))
        terms = [classifier.of_term(term).estimate(x).log_weights for term in "xyz"]
        torch.testing.assert_close(sum(terms), classifier.estimate(x).log_weights, rtol=1e-5, atol=1e-4)


def test_one_latent_variable_of_several_is_a_term(make, batch):
    x, y = batch
    classifier = BayesClassifier(make("hierarchical"), particles=3, noise="fixed")
    both, *each = (classifier.of_term(term).estimate(x).log_weights for term in ("z", "z1", "z2"))
    torch.testing.assert_close(sum(each), both, rtol=1e-5, atol=1e-4)
    assert not torch.equal(*(attacks.get("fgsm", term=term)(classifier, x, y, 0.1) for term in ("z1", "z2")))
    with pytest.raises(InputError, match=r"hierarchical has no z3: it is p\(x, z1, z2, y\)"):
        attacks.get("fgsm", term="z3")(classifier, x, y, 0.1)
    mixture = classifier.replaced(estimator="mixture")
    with pytest.raises(InputError, match="proposes all latent variables at once, not z1 alone: take the term z"):
        mixture.of_term("z1")(x)


def test_a_snapshot_climbs_every_particles_own_log_joint(make, batch):
    x, y = batch
    classifier = BayesClassifier(make("gbz"), particles=3).for_images(range(4))
    problem = attacks.Problem(attacks.get("fgsm", snapshot=True), classifier, x, y)
    particles = classifier.estimate(x).log_weights
    expected = sum(log_odds_against(each.T, y) for each in particles) / 3
    torch.testing.assert_close(problem.loss(x), expected)
    twice = attacks.Problem(attacks.get("fgsm", snapshot=True, eot=2), classifier, x, y)
    others = [problem.loss(x, draw) for draw in (2, 3)]
    assert not torch.equal(*others)
    torch.testing.assert_close(twice.loss(x, 1), sum(others) / 2)
    with pytest.raises(InputError, match="term, snapshot and gradient need a BayesClassifier, got Linear"):
        attacks.get("fgsm", term="y")(Linear(), x, y, 0.1)


@pytest.mark.parametrize("gradient", ["fisher", "both"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "mim"])
def test_attacks_climb_by_fishers_identity(attack, gradient, quick, name, make, batch):
    (x, y), classifier = batch, BayesClassifier(make(name), particles=3).for_images(range(4))
    by, plain = quick(attack, gradient=gradient), quick(attack)
    (problem, usual), seen = (attacks.Problem(each, classifier, x, y) for each in (by, plain)), x.clone()
    loss = log_odds_against(classifier.with_gradient(gradient)(seen.requires_grad_()), y)
    torch.testing.assert_close(problem.gradient(x)[1], torch.autograd.grad(loss.sum(), seen)[0])
    assert torch.equal(problem.loss(x), usual.loss(x))
    assert not torch.equal(problem.gradient(x)[1], usual.gradient(x)[1])
    adversarial = by(classifier, x, y, EPS)
    assert (size(adversarial - x, "linf") <= torch.tensor(EPS)[:, None] + 1e-6).all()
    assert not torch.equal(adversarial[2], x)


def test_a_snapshot_by_fishers_identity_holds_every_particle_fixed(make, batch):
    x, y = batch
    classifier = BayesClassifier(make("gfz"), particles=3).for_images(range(4))
    problem = attacks.Problem(attacks.get("fgsm", snapshot=True, gradient="fisher"), classifier, x, y)
    seen = x.clone().requires_grad_()
    particles = classifier.with_gradient("fisher").estimate(seen).log_weights
    expected = torch.autograd.grad(sum(log_odds_against(each.T, y).sum() for each in particles) / 3, seen)[0]
    torch.testing.assert_close(problem.gradient(x)[1], expected)


def test_a_gradient_is_the_classifiers_own_unless_the_attack_asks(make, batch):
    x, y = batch
    classifier = BayesClassifier(make("gbz"), particles=3)
    asked = attacks.get("fgsm", gradient="fisher")
    assert torch.equal(fgsm(classifier.with_gradient("fisher"), x, y, 0.1), asked(classifier, x, y, 0.1))
    assert "gradient" not in attacks.get("fgsm", gradient="PATH").described()
    assert asked.described()["gradient"] == "fisher"
    with pytest.raises(InputError, match="term, snapshot and gradient need a BayesClassifier, got Linear"):
        asked(Linear(), x, y, 0.1)


def test_the_attacker_may_see_another_estimate(make, tiny_images):
    classifier, data = BayesClassifier(make("gbz"), particles=2), tiny_images.head(20)
    plain, more, mixed = (
        evaluation.attack(classifier, data, 0.2, attacker=attacker)
        for attacker in ({}, {"particles": 9}, {"estimator": "mixture"})
    )
    assert plain.clean_predictions == more.clean_predictions == mixed.clean_predictions
    assert not torch.equal(plain.examples, more.examples) and not torch.equal(plain.examples, mixed.examples)
    assert more.options["attacker"] == {"particles": 9} and "attacker" not in plain.options


def test_a_target_that_is_reached_is_counted(make, tiny_images):
    classifier, data = BayesClassifier(make("gbz"), particles=2), tiny_images.head(40)
    result = evaluation.attack(classifier, data, (0.0, 0.3), by=attacks.get("fgsm", target=7))
    others = [prediction for prediction, label in zip(result.predictions[1], result.labels) if label != 7]
    assert (result.reached(1).count, result.reached(1).total) == (others.count(7), len(others))
    assert "reached" in encode(result)["rates"][0]
    with pytest.raises(InputError, match="target must be at most 9"):
        evaluation.attack(classifier, data, 0.1, by=attacks.get("fgsm", target=10))


def test_cw_finds_the_nearest_image_of_another_class(tiny_images):
    x, y = torch.full((10, 1, 7, 7), 0.5), torch.arange(10)
    model, gap = Linear(scale=0.1), []
    model.bias = -(x[0].flatten() @ model.weight.T) + torch.linspace(0, 0.02, 10)  # all nearly as likely
    for true in range(10):
        between = (model.weight - model.weight[true]).norm(dim=1)
        gap.append(((model(x[:1])[0, true] - model(x[:1])[0]) / between).nan_to_num(torch.inf).min().clamp_min(0))
    found = attacks.get("cw", steps=200, searches=8, step_size=0.01)(model, x, y, 3.0)
    assert (model(found).argmax(1) != y).all()
    expected = torch.stack(gap)
    torch.testing.assert_close((found - x).flatten(1).norm(dim=1), expected, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize(("loss", "target"), [("cross-entropy", None), ("dlr", 3), ("margin", 3)])
def test_cw_is_judged_by_the_margin_whatever_it_climbs(loss, target, tiny_images):
    (x, y), model = tiny_images.head(40).batch(slice(None)), Linear(scale=0.3)
    found = attacks.get("cw", loss=loss, target=target)(model, x, y, 7.0)
    moved, predicted = (found != x).flatten(1).any(1), model(found).argmax(1)
    assert (moved | (model(x).argmax(1) != y)).float().mean() > 0.5
    assert ((predicted != y) if target is None else (predicted == target))[moved].all()


def test_what_cannot_be_attacked_is_named(make, batch):
    x, y = batch
    with pytest.raises(InputError, match="the term x doesn't depend on the image here"):
        attacks.get("fgsm", term="x")(BayesClassifier(make("dfx"), 2), x, y, 0.1)
    with pytest.raises(InputError, match="snapshot needs all particles of every class: leave prune out"):
        attacks.get("fgsm", snapshot=True)(BayesClassifier(make("gbz"), 5, prune=1.0), x, y, 0.1)


def test_the_least_distance_is_reported(make, tiny_images):
    data, by = tiny_images.head(20), attacks.get("cw", steps=20, searches=3, step_size=0.3)
    result = evaluation.attack(BayesClassifier(make("gbz"), particles=2, noise="fixed"), data, (0.0, 0.1, 2.0), by=by)
    assert len(result.predictions) == len(result.examples) == 3 and len(result.distances) == 20
    for distance, label, prediction in zip(result.distances, result.labels, result.predictions[2]):
        if distance <= 2:
            assert prediction != label
    assert encode(result)["distances"].count(None) == sum(d == torch.inf for d in result.distances)
    assert result.median_distance <= 2 and result.unmoved.count == 0
    assert evaluation.attack(BayesClassifier(make("gbz")), data, 0.1).median_distance is None


def test_images_of_the_target_class_have_no_distance():
    def median(distances, predictions, labels, target):
        return evaluation.AttackResult(
            model="gbz", generative=True, attack="cw", options={"target": target}, data="tiny", eps=(2.0,), labels=labels,
            clean_predictions=predictions, predictions=[predictions], posteriors=[[1.0] * len(labels)], unmoved=evaluation.Rate(0, len(labels)),
            distances=distances,
        ).median_distance  # fmt: skip

    distances, labels, predictions = [1.0, 3.0, 0.0, 9.0, math.inf], [0, 1, 2, 1, 0], [0, 1, 2, 0, 0]
    assert median(distances, predictions, labels, target=2) == 3.0  # of 1, 3 and infinity
    assert median(distances, predictions, labels, target=None) == 2.0
    assert math.isnan(median([0.0], [2], [2], target=2))


class WithoutGradient(Linear):
    def forward(self, x):
        return super().forward(x.detach().round(decimals=2))


def test_square_needs_no_gradient_and_beats_noise(tiny_images):
    x, y = tiny_images.head(30).batch(slice(None))
    model = WithoutGradient()
    found = attacks.get("square", steps=200)(model, x, y, 0.1)
    noise = attacks.get("uniform", draws=200)(model, x, y, 0.1)
    climbed, luck = (LOSSES["margin"](model(images), y) for images in (found, noise))
    assert (climbed > luck).float().mean() > 0.9
    assert share(0, 10_000) == share(10, 10_000) == 0.8 and share(11, 10_000) == 0.4 and share(999, 1000) == 0.8 / 512


def test_square_changes_channels_apart():
    towards = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(0))
    model = lambda x: torch.stack([torch.zeros(len(x)), (x * towards).flatten(1).sum(1)], 1)  # noqa: E731
    x = torch.full((4, 3, 7, 7), 0.5)
    found = attacks.get("square", steps=1000)(model, x, torch.zeros(4, dtype=torch.long), 0.1)
    assert (((found - x) * towards).flatten(1).sum(1) > 0.95 * 0.1 * towards.abs().sum()).all()


class Evaded:
    """A test that rejects images whose first logit is above a bound."""

    def __init__(self, bound):
        self.bound = bound

    def __call__(self, log_joint):
        return log_joint[:, 0]

    def rejects(self, log_joint):
        return log_joint[:, 0] > self.bound


def test_pgd_stops_at_the_first_step_that_has_an_image_misclassified_and_accepted(tiny_images):
    x, model = tiny_images.head(30).batch(slice(None))[0], Linear()
    y, eps, never = model(x).argmax(1), 0.04, {"evade": Evaded(-math.inf), "evade_weight": 1e-9}
    options = {"step_size": eps / 12, "random_start": False}
    path = torch.stack([attacks.get("pgd", steps=steps, **options)(model, x, y, eps) for steps in range(1, 13)])
    log_joint = torch.stack([model(images) for images in path])
    broken = log_joint.argmax(2) != y
    assert 0 < broken[-1].sum() < 30 and broken[4].sum() < broken[-1].sum()
    bound = log_joint[..., 0][broken].median().item()
    plain = attacks.get("pgd-stop", steps=12, **options)
    for by, done in (
        (plain, broken),
        (dataclasses.replace(plain, evade=Evaded(bound), evade_weight=1e-9), broken & (log_joint[..., 0] <= bound)),
        (dataclasses.replace(plain, **never), torch.zeros_like(broken)),
    ):
        first = done.float().argmax(0).where(done.any(0), 11)  # else it goes on to the end
        torch.testing.assert_close(by(model, x, y, eps), path[first, torch.arange(30)])


def test_pgd_that_stops_looks_by_draws_that_no_gradient_saw_and_keeps_what_most_of_them_misclassify(
    make, batch, monkeypatch
):
    x, y = batch
    climbed, looked, seen, gradient = [], [], [], attacks.Problem.gradient
    monkeypatch.setattr(
        attacks.Problem, "gradient", lambda self, images, draw: climbed.append(draw) or gradient(self, images, draw)
    )
    successes = [2, 1, 2, 3]  # of five draws, at each step

    def succeeds(self, problem, images, draw):
        step, place = divmod(len(looked), 5)
        looked.append(draw)
        seen.append(images)
        return torch.full((len(y),), place < successes[step] if step < 4 else False)

    monkeypatch.setattr(attacks.StoppingPGD, "succeeds", succeeds)
    classifier = BayesClassifier(make("gbz"), particles=2)
    found = attacks.get("pgd-stop", steps=30)(classifier, x, y, 0.1)
    assert climbed == list(range(4)) and looked == list(range(30, 50))  # after the fourth step all images are done
    assert torch.equal(found, seen[-1])
    successes[:], looked[:] = [1, 2, 2, 1], []
    found = attacks.get("pgd-stop", steps=4)(classifier, x, y, 0.1)
    assert torch.equal(found, seen[30]) and not torch.equal(found, seen[25])  # the last of the best


def test_simba_goes_to_the_corner_where_a_linear_loss_is_highest(monkeypatch):
    towards = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    model = lambda x: torch.stack([torch.zeros(len(x)), (x * towards).flatten(1).sum(1)], 1)  # noqa: E731
    x, y = torch.full((2, 3, 4, 5), 0.5), torch.zeros(2, dtype=torch.long)
    once = attacks.get("simba", steps=x[0].numel())
    corner = x + 0.1 * towards.sign()
    torch.testing.assert_close(once(model, x, y, 0.1), corner)
    smaller = dataclasses.replace(once, step_size=0.04)
    torch.testing.assert_close(smaller(model, x, y, 0.1), x + 0.04 * towards.sign())
    few = dataclasses.replace(once, steps=7, norm="l2")(model, x, y, 1.0) - x
    assert (few.ne(0).flatten(1).sum(1) == 7).all() and ((few * towards) >= 0).all()
    torch.testing.assert_close(few.abs().amax((1, 2, 3)), torch.full((2,), 0.2))


def test_simba_tries_every_direction_once_and_then_again_in_another_order(batch):
    x, y = batch
    for basis, several in (("pixel", 49), ("dct", 4)):  # a quarter of seven frequencies is two
        for norm, p in (("linf", math.inf), ("l2", 2)):
            problem = attacks.Problem(attacks.get("simba", basis=basis, norm=norm), Linear(), x, y)
            tried = torch.stack(list(itertools.islice(directions(problem), 2 * several))).flatten(2)
            torch.testing.assert_close(tried.norm(p=p, dim=2), torch.ones(2 * several, len(x)))
            first, second = (each.transpose(0, 1) for each in tried.split(several))
            overlaps = first @ first.mT
            torch.testing.assert_close(overlaps, torch.diag_embed(overlaps.diagonal(dim1=1, dim2=2)), atol=1e-5, rtol=0)
            same = (first @ second.mT).abs() > 1e-5
            assert (same.sum(1) == 1).all() and not torch.equal(first, second)
            assert not torch.equal(first[0], first[1])
    assert first.amin() < 0 < tried.abs().sum(2).amax()  # waves have both signs


@pytest.mark.parametrize("noise", ["fresh", "fixed"])
def test_simba_asks_a_random_classifier_by_other_draws_every_time(noise, make, batch, monkeypatch):
    asked, loss = [], attacks.Problem.loss
    monkeypatch.setattr(
        attacks.Problem, "loss", lambda self, images, draw: asked.append(draw) or loss(self, images, draw)
    )
    attacks.get("simba", steps=3)(BayesClassifier(make("gfz"), particles=2, noise=noise), *batch, 0.1)
    assert asked == ([0, 1, 2, 3, 4, 5, 6, 7, 8] if noise == "fresh" else [0, 1, 2, 4, 5, 7, 8])


def test_transfer_takes_the_images_of_its_source(tiny_images):
    x, y = tiny_images.head(20).batch(slice(None))
    model, first, second = WithoutGradient(), Linear(), Linear(scale=-1.0)
    options = {"steps": 5, "random_start": False}
    taken = attacks.get("transfer", sources=(first,), **options)(model, x, y, 0.1)
    assert torch.equal(taken, attacks.get("pgd", **options)(first, x, y, 0.1))
    assert torch.equal(attacks.get("transfer", sources=(second, first), **options)(model, x, y, 0.1), taken)
    with pytest.raises(InputError, match="give sources"):
        attacks.get("transfer")(model, x, y, 0.1)
    assert attacks.get("transfer", sources=(first,)).described()["sources"] == ["Linear"]


def test_a_patch_is_a_square_of_its_area(tiny_images):
    x, y = tiny_images.head(20).batch(slice(None))
    found = attacks.get("patch", steps=10)(Linear(), x, y, 0.2)
    for changed in (found != x)[:, 0]:
        rows, columns = changed.nonzero().T
        assert rows.max() - rows.min() < 3 and columns.max() - columns.min() < 3  # 3 x 3 of 49 are 18%
    assert log_odds_against(Linear()(found), y).mean() > log_odds_against(Linear()(x), y).mean()


def test_matched_logits_become_those_of_the_other_image(tiny_images):
    (x, y), data, model = tiny_images.head(30).batch(slice(None)), tiny_images, Linear()
    towards = of_other_classes(data, torch.arange(30), 0)
    found = attacks.get("pgd", loss="logit-matching", steps=200)(model, x, y, 0.5, references=towards)
    before, after = ((model(images) - model(towards)).norm(dim=1) for images in (x, found))
    assert (after < 0.1 * before).all()


def test_matched_latents_come_nearer(name, make, batch):
    x, y = batch
    classifier = BayesClassifier(make(name, double=True), particles=2)
    attack = attacks.get("pgd", loss="latent-matching", steps=5, random_start=False)
    found = attack(classifier, x.double(), y, 0.2, references=x.double().flip(0))
    before, after = (
        (classifier.latent_means(images) - classifier.latent_means(x.double().flip(0))).flatten(1).norm(dim=1)
        for images in (x.double(), found)
    )
    assert (after < before).all()


def test_latent_means_are_those_of_the_guide(name, make, batch):
    x, _ = batch
    factorization = make(name)
    means = BayesClassifier(factorization).latent_means(x)
    for y in range(10):
        values = {"x": x, "y": torch.full((4,), y)}
        for site, given in getattr(factorization, "guides", {"z": ("x", "y")}).items():
            values[site] = getattr(factorization, f"q_{site}")(*(values[name] for name in given)).base_dist.loc
        torch.testing.assert_close(means[:, y], torch.cat(list(values.values())[2:], dim=1))


def test_references_are_of_other_classes_and_follow_from_the_image(tiny_images):
    indices = torch.arange(240)
    pixels = {image.numpy().tobytes(): label.item() for image, label in zip(*tiny_images.batch(indices))}
    found = of_other_classes(tiny_images, indices, 0)
    labels = torch.tensor([pixels[image.numpy().tobytes()] for image in found])
    assert (labels != tiny_images.labels).all() and len(labels.unique()) == 10
    assert torch.equal(of_other_classes(tiny_images, indices[50:60], 0), found[50:60])
    assert not torch.equal(of_other_classes(tiny_images, indices, 1), found)
    one = tiny_images.take(tiny_images.labels.eq(3).nonzero()[:, 0])
    with pytest.raises(InputError, match="images of one class only"):
        of_other_classes(one, torch.arange(2), 0)


def test_matching_attacks_are_reported_like_others(make, tiny_images):
    classifier, data = BayesClassifier(make("gbz"), particles=2), tiny_images
    results = [
        evaluation.attack(classifier, data, 0.2, by=attacks.get("pgd", loss="logit-matching", steps=2), images=n)
        for n in (30, 60)
    ]
    assert results[0].predictions[0] == results[1].predictions[0][:30]  # the references don't depend on how many


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pdg", {}, "did you mean 'pgd'"),
        (
            "fgsm",
            {"steps": 3},
            "fgsm has no option steps; it has eot, evade, evade_weight, gradient, loss, norm, seed, snapshot, target, term",
        ),
        ("pgd", {"steps": 0}, "steps must be a whole number of at least 1"),
        ("pgd", {"step_size": 0.0}, "step size must be a finite number above 0"),
        ("pgd", {"restarts": 2, "random_start": False}, "would all be the same"),
        ("mim", {"decay": -1}, "decay must be a finite number from 0"),
        ("uniform", {"draws": 0}, "draws must be"),
        ("fgsm", {"norm": "l3"}, "unknown norm 'l3'"),
        ("fgsm", {"norm": "l1"}, "fgsm is bounded in linf or l2, not in l1: leave the norm out"),
        ("cw", {"norm": "linf"}, "cw is bounded in l2, not in linf: leave the norm out"),
        ("patch", {"norm": "linf"}, "patch is bounded in area"),
        ("cw", {"confidence": -1.0}, "confidence must be a finite number from 0, got -1.0"),
        ("cw", {"confidence": True}, "confidence must be a finite number from 0, got True"),
        ("cw", {"step_size": 0}, "step size must be a finite number above 0, got 0"),
        ("pgd", {"steps": None}, "steps must be a whole number of at least 1, got None"),
        ("square", {"loss": None}, "unknown loss 'None'"),
        ("cw", {"target": "each"}, "cw looks for the nearest misclassified image"),
        ("cw", {"searches": 0}, "searches must be"),
        ("square", {"steps": 0}, "steps must be"),
        ("transfer", {"sources": ("gbz",)}, "sources must be a tuple of classifiers"),
        ("transfer", {"sources": nn.Identity()}, "sources must be a tuple of classifiers"),
        ("mim", {"restarts": 2}, "mim has no option restarts"),
        ("pgd", {"loss": "logit-matching", "target": 0}, "has no target: leave it out"),
        ("pgd", {"loss": "latent-matching", "term": "x"}, "has no term: leave it out"),
        ("pgd", {"loss": "latent-matching", "snapshot": True}, "has no snapshot: leave it out"),
        ("fgsm", {"gradient": "fischer"}, "unknown gradient 'fischer': did you mean 'fisher'?"),
        ("fgsm", {"gradient": "fisher", "term": "x"}, "all factors together: leave term or gradient out"),
        ("pgd", {"gradient": "both", "loss": "latent-matching"}, "follows the guide alone, .*: leave gradient out"),
        ("square", {"gradient": "fisher"}, "square has no option gradient"),
        ("gaussian", {"gradient": "fisher"}, "gaussian has no option gradient"),
        ("fgsm", {"loss": "hinge"}, "unknown loss 'hinge'"),
        ("fgsm", {"target": "all"}, "target must be a whole number"),
        ("fgsm", {"eot": 0}, "eot must be"),
        ("pgd", {"random_start": "no"}, "random start must be True or False, got 'no'"),
        ("pgd", {"snapshot": "no"}, "snapshot must be True or False, got 'no'"),
    ],
)
def test_bad_options_are_named(name, options, words):
    with pytest.raises(InputError, match=words):
        attacks.get(name, **options)


def test_no_images_and_no_gradient_are_named(batch):
    x, y = batch
    with pytest.raises(InputError, match="x holds no image to attack"):
        attacks.get("fgsm")(Linear(), x[:0], y[:0], 0.1)
    with torch.inference_mode(), pytest.raises(InputError, match="attack outside of it"):
        attacks.get("fgsm")(Linear(), x, y, 0.1)


@pytest.mark.parametrize("bad", [255.0, -0.5, math.nan])
def test_images_must_be_in_their_range_for_any_classifier(bad, batch):
    x, y = batch
    with pytest.raises(InputError, match=r"expected floats in \[0, 1\], got values from"):
        attacks.get("fgsm")(Linear(), x.where(x > x.mean(), bad), y, 0.1)


def test_images_of_less_precision_are_refused(batch):
    x, y = batch
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(InputError, match=f"of 32 or 64 bits .*, got {dtype}"):
            attacks.get("fgsm")(Linear(), x.to(dtype), y, 0.1)


def test_logits_are_attacked_as_their_classifier_is(attack, classifier, batch):
    of_classifier, of_logits = (attack(each, *batch, 0.1) for each in (classifier, classifier.as_logits()))
    assert torch.equal(of_classifier, of_logits)


def test_options_may_be_numpys(batch):
    attack = attacks.get("pgd", steps=np.int64(2), seed=np.int64(3), evade_weight=np.float64(2))
    assert attack == attacks.get("pgd", steps=2, seed=3, evade_weight=2.0) and json.dumps(attack.described())


def test_a_single_eps_may_be_numpys_or_torchs(batch):
    expected = attacks.get("fgsm")(Linear(), *batch, 0.25)
    for eps in (np.array(0.25), np.float64(0.25), torch.tensor(0.25)):
        assert torch.equal(attacks.get("fgsm")(Linear(), *batch, eps), expected)
    assert attacks.get("fgsm")(Linear(), *batch, torch.tensor([0.25, 0.5])).shape[0] == 2
    for eps in (None, "0.25", ["a"], [None], True, [True], np.bool_(True), torch.tensor(True), torch.tensor([True])):
        with pytest.raises(InputError, match="eps must be a number, or a list of numbers, got"):
            attacks.get("fgsm")(Linear(), *batch, eps)


def test_indices_are_whole_numbers_one_an_image(batch):
    x, y = batch
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(49, 10))
    by = attacks.get("uniform", draws=1)
    long, short = (by(net, x, y, 0.1, indices=torch.arange(4, dtype=kind)) for kind in (torch.long, torch.int32))
    assert torch.equal(long, short)
    for indices in (torch.arange(3), torch.rand(4), torch.ones(4, dtype=torch.bool)):
        with pytest.raises(InputError, match="indices must hold one whole number for each of 4 images"):
            by(net, x, y, 0.1, indices=indices)


def test_a_step_that_leaves_the_numbers_and_a_constant_are_refused(batch):
    x, y = batch
    with pytest.raises(InputError, match=r"step size must be from 0 to 1e\+06, got 1e\+39"):
        attacks.get("pgd", step_size=1e39)
    with (
        pytest.warns(UserWarning, match="gives the same logits for 4 different images"),
        pytest.raises(InputError, match="there is no gradient to climb"),
    ):
        attacks.get("pgd", steps=1)(lambda images: torch.zeros(len(images), 10), x, y, 0.1)


def test_a_target_that_the_classifier_lacks_is_named(quick, batch):
    for attack in (quick("pgd", target=12), quick("cw", target=12), quick("fgsm", target=10)):
        with pytest.raises(
            InputError, match=rf"target must be one of the classifier's 10 classes, 0 to 9, got {attack.target}"
        ):
            attack(Linear(), *batch, 0.1)


def test_a_classifier_that_gives_no_log_joints_is_named(batch):
    x, y = batch
    for wrong, words in (
        (lambda images: (Linear()(images),), r"the classifier must give log p\(x, y\), or logits, \[4, C\], got tuple"),
        (lambda images: Linear()(images)[:, 0], r"got torch.float32 of shape \[4\]"),
        (lambda images: Linear()(images)[:1], r"got torch.float32 of shape \[1, 10\]"),
        (lambda images: Linear()(images)[:, :1], r"the classifier must know at least two classes, got .* \[B, 1\]"),
    ):
        with pytest.raises(InputError, match=words):
            fgsm(wrong, x, y * 0, 0.1)
    for wrong, got in ((None, "NoneType"), ("gbz", "str"), (x, r"torch.float32 of shape \[4, 1, 7, 7\]")):
        for name in ("fgsm", "uniform"):
            with pytest.raises(
                InputError, match=f"classifier must be an nn.Module or a function of images .*, got {got}"
            ):
                attacks.get(name)(wrong, x, y, 0.1)


def test_images_of_inference_mode_are_attacked_and_weights_of_it_refused(make, batch):
    x, y = batch
    with torch.inference_mode():
        images = x + 0
        unusable = nn.Sequential(nn.Flatten(), nn.Linear(49, 10))
    assert torch.equal(fgsm(Linear(), images, y, 0.1), fgsm(Linear(), x, y, 0.1))
    with pytest.raises(InputError, match="the classifier was made in torch.inference_mode"):
        fgsm(unusable, x, y, 0.1)
