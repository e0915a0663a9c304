"""Reported figures against values known from elsewhere."""

import json
import math

import pytest
import torch

from pyrobayes import BayesClassifier, InputError, evaluation
from pyrobayes.codec import encode
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.clean import calibration_error
from pyrobayes.evaluation.rates import Rate
from pyrobayes.inference.noise import NoiseStream


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # Newcombe (1998), table I, and the closed forms at 0 and n.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval(count, total, low, high):
    assert Rate(count, total).interval == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_is_exact_at_both_ends():
    assert Rate(0, 1000).interval[0] == 0
    assert Rate(1000, 1000).interval[1] == 1


def test_rates_of_nothing_are_not_numbers():
    assert math.isnan(Rate(0, 0).share)
    assert encode(Rate(0, 0)) == {"count": 0, "total": 0, "share": None, "interval_95": None}


def test_calibration_error_of_a_known_case():
    posterior = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    labels = torch.tensor([0, 0, 1, 1, 1, 0])  # 50% right at confidence 0.9, 50% at 0.6
    assert calibration_error(posterior, labels) == pytest.approx((4 * 0.4 + 2 * 0.1) / 6, abs=1e-6)


def test_success_and_flipped_share_are_different_things():
    result = AttackResult.of(
        model="gbz", generative=True, attack="fgsm", options={}, data="tiny", eps=(0.1,), labels=[0, 1, 2, 3],
        clean_log_joint=torch.eye(4)[[0, 1, 2, 0]], log_joint=torch.eye(4)[None, [0, 2, 2, 0]],
        unmoved=Rate(0, 4), examples=torch.empty(1, 0, 1, 7, 7),
    )  # fmt: skip
    assert result.clean_accuracy == Rate(3, 4)
    assert result.success(0) == Rate(2, 4)  # the image that was wrong already counts
    assert result.flipped(0) == Rate(1, 3)  # here it doesn't


def test_evaluation_of_a_model(make, tiny_images):
    result = evaluation.evaluate(BayesClassifier(make("gfz"), particles=5), tiny_images, batch_size=64)
    indices = torch.arange(240)
    x, y = tiny_images.batch(indices)
    estimate = BayesClassifier(make("gfz"), particles=5).for_images(indices, NoiseStream.DEFENDER).estimate(x)
    right = (estimate.log_joint.argmax(1) == y).sum().item()
    assert result.accuracy == Rate(right, 240)
    assert sum(result.confusion[c][c] for c in range(10)) == right
    assert [sum(row) for row in result.confusion] == y.bincount(minlength=10).tolist()
    assert result.negative_log_likelihood == pytest.approx(
        torch.nn.functional.cross_entropy(estimate.log_joint, y).item(), rel=1e-4
    )
    assert result.log_evidence == pytest.approx(estimate.log_joint.logsumexp(1).mean().item(), rel=1e-4)
    assert result.effective_sample_size == pytest.approx(estimate.effective_sample_size.mean().item(), rel=1e-4)
    assert 0 < result.flipped_by_resampling.share < 1
    json.dumps(encode(result), allow_nan=False)


def test_fixed_noise_too_is_compared_with_another_draw(make, tiny_images):
    fixed = BayesClassifier(make("gfz"), particles=2, noise="fixed")
    fresh = fixed.replaced(noise="fresh")
    result = evaluation.evaluate(fixed, tiny_images, images=50)
    x, _ = tiny_images.batch(indices := torch.arange(50))
    changed = fixed(x).argmax(1) != fresh.for_images(indices, NoiseStream.SECOND_DRAW)(x).argmax(1)
    assert result.flipped_by_resampling == Rate.of(changed) and changed.any()


def test_models_of_labels_only_have_no_evidence(make, tiny_images):
    assert evaluation.evaluate(BayesClassifier(make("dbx")), tiny_images, images=20).log_evidence is None


def test_another_data_set_is_refused(make, mini):
    with pytest.raises(InputError, match=r"gbz classifies images \[1, 7, 7\] into 10 classes"):
        evaluation.evaluate(BayesClassifier(make("gbz")), mini)
