"""What the number of particles does."""

import json
import math
import warnings

import pytest
import torch
from matplotlib.container import ErrorbarContainer

from pyrobayes import BayesClassifier, InputError
from pyrobayes.codec import decode, encode
from pyrobayes.evaluation import particles
from pyrobayes.evaluation.particles import Effect, Mean
from pyrobayes.evaluation.rates import Rate
from pyrobayes.inference.importance import pareto_shape
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.results import figures


def test_a_smaller_number_is_what_a_classifier_of_so_many_finds(make, tiny_images):
    few = tiny_images.head(30)
    indices = torch.arange(30)
    x, y = few.batch(indices)
    for estimator, shared in (("per-class", 1), ("mixture", 10)):
        classifier = BayesClassifier(make("gbz"), particles=3, noise="fixed", estimator=estimator)
        found = particles.effects(classifier, few, (4, 1, 25, 4), batch_size=7)
        assert [(each.particles, each.serving) for each in found] == [(k, k * shared) for k in (1, 4, 25)]
        for each in found:
            alone = BayesClassifier(make("gbz"), particles=each.particles, noise="fresh", estimator=estimator)
            with torch.no_grad():
                ours, others = (
                    alone.for_images(indices, draw).estimate(x)
                    for draw in (NoiseStream.DEFENDER, NoiseStream.SECOND_DRAW)
                )
            predicted = ours.log_joint.argmax(1)
            assert each.accuracy == Rate.of(predicted == y)
            assert each.flipped_by_resampling == Rate.of(predicted != others.log_joint.argmax(1))
            torch.testing.assert_close(torch.tensor(each.log_joint), ours.log_joint.gather(1, y[:, None])[:, 0])
            assert each.effective_sample_size.value == pytest.approx(ours.effective_sample_size.mean().item(), rel=1e-4)
            assert (each.pareto_k is None) == (each.serving < 21)
            if each.pareto_k:
                assert each.pareto_k[1] == pytest.approx(ours.pareto_k.flatten().median().item(), abs=1e-2)


def test_a_bias_is_told_image_by_image(make, tiny_images):
    one, many = particles.effects(BayesClassifier(make("gfz")), tiny_images, (1, 50))
    bias = one.bias(many)
    gaps = torch.tensor(one.log_joint) - torch.tensor(many.log_joint)
    assert bias.value == pytest.approx(gaps.mean().item()) and bias.interval[1] < 0
    assert bias.half == pytest.approx(1.96 * gaps.std().item() / math.sqrt(240), rel=1e-3)
    assert many.bias(many) == Mean(0.0, 0.0)
    assert one.accuracy.total == 240 and one.effective_sample_size.value == pytest.approx(1)


def test_what_was_measured_is_read_back_and_drawn(make, tiny_images):
    found = []
    for name, estimator in (("gfz", "per-class"), ("gbz", "per-class"), ("gbz", "mixture")):
        found += particles.effects(BayesClassifier(make(name), estimator=estimator), tiny_images.head(20), (1, 30))
    again = decode(list[Effect], json.loads(json.dumps(encode(found), allow_nan=False)))
    assert encode(again) == encode(found)
    drawn = figures.particles(again)
    correct, _, sizes, biases, tails, _ = drawn.axes
    assert all(isinstance(each, ErrorbarContainer) for each in correct.containers)
    assert len(correct.containers) == len(tails.containers) == 3
    assert list(sizes.containers[2].lines[0].get_ydata()) == [each.effective_sample_size.value for each in again[4:]]
    best = again[5]  # of GBZ 300 serve there
    assert biases.containers[1].lines[0].get_ydata()[1] == pytest.approx(again[3].bias(best).value)
    assert biases.containers[0].lines[0].get_ydata()[1] == biases.containers[2].lines[0].get_ydata()[1] == 0


@pytest.mark.parametrize(
    ("counts", "images", "message"),
    [((0,), 20, "counts must be a whole number"), ((), 20, "are needed, got counts"), ((1,), 1, "and 1 images")],
)
def test_what_can_not_be_measured_is_refused(make, tiny_images, counts, images, message):
    with pytest.raises(InputError, match=message):
        particles.effects(BayesClassifier(make("gfz")), tiny_images.head(images), counts)


def test_pareto_k_is_that_of_arviz():
    """ArviZ takes the same tail and the same prior on k."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    for count in (50, 1000, 5000):
        log_weights = 3 * torch.randn(count, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        theirs = arviz.psislw(log_weights.T.numpy())[1]
        assert pareto_shape(log_weights).tolist() == pytest.approx(theirs.tolist(), abs=1e-3)
