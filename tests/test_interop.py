"""A classifier in the hands of attack libraries: the same attacks give the same images."""

import pytest
import torch

from pyrobayes import BayesClassifier, attacks

foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed: pip install 'pyrobayes[attacks]'")
EPS = 0.1


@pytest.fixture
def victim(make):
    return BayesClassifier(make("gbz"), particles=3, noise="fixed").eval()


def adversarial_of(attack, victim, x, y):
    model = foolbox.PyTorchModel(victim.as_logits().eval(), bounds=(0, 1))
    return attack(model, x, y, epsilons=EPS)[1]


def test_logits_are_centred_and_have_the_same_posterior(victim, batch):
    x, _ = batch
    logits = victim.as_logits()(x)
    torch.testing.assert_close(logits.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(logits.softmax(1), victim(x).softmax(1))


def test_fgsm_equals_that_of_foolbox_pixel_for_pixel(victim, batch):
    expected = adversarial_of(foolbox.attacks.LinfFastGradientAttack(), victim, *batch)
    torch.testing.assert_close(attacks.fgsm(victim, *batch, EPS), expected, rtol=0, atol=1e-6)


def test_pgd_equals_that_of_foolbox_pixel_for_pixel(victim, batch):
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=0.02, steps=10, random_start=False)
    ours = attacks.get("pgd", step_size=0.02, steps=10, random_start=False)
    torch.testing.assert_close(ours(victim, *batch, EPS), adversarial_of(theirs, victim, *batch), rtol=0, atol=1e-6)


def test_pgd_in_l2_equals_that_of_foolbox(victim, batch):
    theirs = foolbox.attacks.L2PGD(abs_stepsize=0.02, steps=10, random_start=False)
    ours = attacks.get("pgd", norm="l2", step_size=0.02, steps=10, random_start=False)
    torch.testing.assert_close(ours(victim, *batch, EPS), adversarial_of(theirs, victim, *batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("noise", ["fixed", "fresh"])
def test_their_attacks_run_on_a_classifier_as_it_is(noise, make, batch):
    victim = BayesClassifier(make("gbz"), particles=3, noise=noise)
    found = adversarial_of(foolbox.attacks.L2CarliniWagnerAttack(steps=5, binary_search_steps=2), victim, *batch)
    assert found.shape == batch[0].shape and found.isfinite().all()
