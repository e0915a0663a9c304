"""The classifiers known to be broken are so, and a good suite breaks them."""

import dataclasses

import pytest
import torch
from torch import nn
from verdicts import QUICK, judged, run_of

from pyrobayes import (
    BayesClassifier,
    RobustnessOptions,
    attacks,
    load_data,
)
from pyrobayes.evaluation.robustness import known_broken
from pyrobayes.evaluation.robustness.checks import (
    CHECKS,
    FAIL,
    PASS,
)
from pyrobayes.evaluation.robustness.known_broken import attack_known_broken, known_broken_model
from pyrobayes.evaluation.robustness.suite import SINGLE_STEP


@pytest.fixture(scope="module")
def broken(mini):
    """A CNN trained in a single step, and, under True, one with saturated logits, for which three epochs are enough."""
    by_steps = known_broken_model(mini, saturated=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_broken, "TRAINING", dataclasses.replace(known_broken.TRAINING, epochs=3))
        return {False: by_steps, True: known_broken_model(mini, saturated=True)}


@pytest.mark.parametrize("saturated", [False, True])
def test_what_is_known_to_be_broken_is(saturated, broken):
    victim = BayesClassifier(broken[saturated], 1, noise="fixed")
    x, y = load_data("fashion-mnist-mini", "test").head(100).batch(slice(None))
    pgd, fgsm = (attacks.get(name)(victim, x, y, 0.3) for name in ("pgd", "fgsm"))
    assert (victim(pgd).argmax(1) != y).float().mean() > 0.9
    if saturated:
        inputs = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(victim(inputs), y, reduction="sum")
        assert (torch.autograd.grad(loss, inputs)[0] == 0).flatten(1).all(1).float().mean() > 0.5
    else:
        assert (victim(fgsm).argmax(1) != y).float().mean() < 0.7  # a single step is misled


@pytest.mark.parametrize(("weak", "status"), [(False, PASS), (True, FAIL)])
def test_a_suite_that_is_too_weak_is_found_out(weak, status, broken, mini, monkeypatch):
    monkeypatch.setattr(known_broken, "known_broken_model", lambda training, saturated, device: broken[saturated])
    few, options = load_data("fashion-mnist-mini", "test").head(60), dataclasses.replace(QUICK, checked_images=60)
    run = run_of(BayesClassifier(broken[False], 1, noise="fixed"), few, options, training=mini)
    if weak:
        for name in ("pgd", "apgd, margin"):
            attack = attacks.get("pgd", steps=2, step_size=1e-4)
            run.suite[name] = dataclasses.replace(run.suite[name], attack=attack)
    found = CHECKS[11].judge(attack_known_broken(run), 0.3)
    assert found.status == status and "FGSM" in found.finding and "plain gradient zero" in found.finding


def test_a_cnn_trained_in_a_single_step_is_called_masked(broken, mini, monkeypatch):
    monkeypatch.setattr(known_broken, "known_broken_model", lambda training, saturated, device: broken[saturated])
    test = load_data("fashion-mnist-mini", "test")
    options = RobustnessOptions(images=60, eps=(0.1, 0.2, 0.3), steps=8, redraws=1, checked_images=60, batch_size=60)
    victim = BayesClassifier(broken[False], 1, noise="fixed")
    found = judged(run_of(victim, test, options, training=mini), 5)
    assert found[5].status == FAIL and found[5].concerns == (SINGLE_STEP,)
    assert "its gradient is masked" in found[5].finding
