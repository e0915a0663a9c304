"""A classifier in the hands of attack libraries: the same attacks give the same images."""

import importlib

import pytest
import torch

from pyrobayes import BayesClassifier, attacks

EPS = 0.1


@pytest.fixture
def foolbox():
    return pytest.importorskip("foolbox", reason="foolbox is not installed: pip install 'pyrobayes[attacks]'")


@pytest.fixture
def victim(make):
    return BayesClassifier(make("gbz"), particles=3, noise="fixed").eval()


def adversarial_of(foolbox, attack, victim, x, y):
    model = foolbox.PyTorchModel(victim.as_logits().eval(), bounds=(0, 1))
    return attack(model, x, y, epsilons=EPS)[1]


def test_logits_are_centred_and_have_the_same_posterior(victim, batch):
    x, _ = batch
    logits = victim.as_logits()(x)
    torch.testing.assert_close(logits.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(logits.softmax(1), victim(x).softmax(1))


def test_fgsm_equals_that_of_foolbox_pixel_for_pixel(foolbox, victim, batch):
    expected = adversarial_of(foolbox, foolbox.attacks.LinfFastGradientAttack(), victim, *batch)
    torch.testing.assert_close(attacks.fgsm(victim, *batch, EPS), expected, rtol=0, atol=1e-6)


def test_pgd_equals_that_of_foolbox_pixel_for_pixel(foolbox, victim, batch):
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=0.02, steps=10, random_start=False)
    ours = attacks.get("pgd", step_size=0.02, steps=10, random_start=False)
    torch.testing.assert_close(
        ours(victim, *batch, EPS), adversarial_of(foolbox, theirs, victim, *batch), rtol=0, atol=1e-6
    )


def test_pgd_in_l2_equals_that_of_foolbox(foolbox, victim, batch):
    theirs = foolbox.attacks.L2PGD(abs_stepsize=0.02, steps=10, random_start=False)
    ours = attacks.get("pgd", norm="l2", step_size=0.02, steps=10, random_start=False)
    torch.testing.assert_close(
        ours(victim, *batch, EPS), adversarial_of(foolbox, theirs, victim, *batch), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("noise", ["fixed", "fresh"])
def test_their_attacks_run_on_a_classifier_as_it_is(noise, foolbox, make, batch):
    victim = BayesClassifier(make("gbz"), particles=3, noise=noise)
    found = adversarial_of(
        foolbox, foolbox.attacks.L2CarliniWagnerAttack(steps=5, binary_search_steps=2), victim, *batch
    )
    assert found.shape == batch[0].shape and found.isfinite().all()


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("noise", ["fixed", "fresh"])
@pytest.mark.parametrize(
    ("attack", "options"),
    [
        ("FastGradientMethod", {"eps": EPS}),
        ("ProjectedGradientDescent", {"eps": EPS, "eps_step": 0.02, "max_iter": 3, "verbose": False}),
        ("SquareAttack", {"eps": EPS, "max_iter": 3, "verbose": False}),
        ("AutoProjectedGradientDescent", {"eps": EPS, "max_iter": 3, "nb_random_init": 1, "verbose": False}),
    ],
)
def test_attacks_of_art_run_on_a_classifier_as_it_is(attack, options, noise, make, batch):
    pytest.importorskip("art", reason="ART is not installed: pip install adversarial-robustness-toolbox")
    (x, y), evasion = batch, importlib.import_module("art.attacks.evasion")
    estimator = importlib.import_module("art.estimators.classification").PyTorchClassifier(
        model=BayesClassifier(make("gbz"), particles=3, noise=noise).as_logits().eval(),
        loss=torch.nn.CrossEntropyLoss(), input_shape=(1, 7, 7), nb_classes=10, clip_values=(0, 1), device_type="cpu",
    )  # fmt: skip
    found = torch.from_numpy(getattr(evasion, attack)(estimator, **options).generate(x.numpy(), y.numpy()))
    assert found.shape == x.shape and (found - x).abs().max() <= EPS + 1e-6


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("noise", ["fixed", "fresh"])
@pytest.mark.parametrize(
    ("attack", "options"), [("FGSM", {}), ("PGD", {"steps": 3}), ("APGD", {"steps": 3}), ("Square", {"n_queries": 3})]
)
def test_attacks_of_torchattacks_run_on_a_classifier_as_it_is(attack, options, noise, make, batch):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    (x, y), logits = batch, BayesClassifier(make("gbz"), particles=3, noise=noise).as_logits().eval()
    found = getattr(torchattacks, attack)(logits, eps=EPS, **options)(x, y)
    assert found.shape == x.shape and (found - x).abs().max() <= EPS + 1e-6
