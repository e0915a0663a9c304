"""The draws of randomized smoothing: noise on the pixels and of the classifier, fresh for each draw."""

import pytest
import torch

from pyrobayes import BayesClassifier, InputError
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.inference.smoothing import class_counts, gaussian_noise

PLACES = torch.tensor([7, 2, 40])


@pytest.fixture
def random(make):
    """A classifier whose own noise changes many of its predictions."""
    return BayesClassifier(make("gbz"), particles=1, seed=3)


def test_a_count_is_that_of_classifications_one_by_one(random, tiny_images):
    x, _ = tiny_images.batch(PLACES)
    expected = torch.zeros(3, 10, dtype=torch.long)
    for number in range(4, 10):
        noise = gaussian_noise(3, PLACES, torch.full((3,), number), x.shape[1:])
        drawn = random.unbounded().for_images(PLACES, NoiseStream.SMOOTHING).resampled(number)
        with torch.no_grad():
            expected[range(3), drawn(x + 0.5 * noise).argmax(1)] += 1
    assert torch.equal(class_counts(random, x, 0.5, range(4, 10), indices=PLACES), expected)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_counts_depend_neither_on_the_batch_nor_on_what_is_beside_an_image(batch_size, random, tiny_images):
    x, _ = tiny_images.batch(PLACES)
    whole = class_counts(random, x, 0.5, range(50), indices=PLACES)
    parts = [class_counts(random, x, 0.5, d, indices=PLACES, batch_size=batch_size) for d in (range(17), range(17, 50))]
    assert torch.equal(sum(parts), whole) and whole.sum(1).tolist() == [50] * 3
    alone = class_counts(random, x[1:2], 0.5, range(50), indices=PLACES[1:2], batch_size=batch_size)
    assert torch.equal(alone[0], whole[1])


def test_every_draw_has_noise_of_the_classifier_too(random, tiny_images):
    x, _ = tiny_images.batch(torch.arange(20))
    still = class_counts(random.replaced(noise="fixed"), x, 1e-6, range(40))
    assert (still.amax(1) == 40).all()  # nothing but the classifier's noise could change the class
    assert (class_counts(random, x, 1e-6, range(40)).amax(1) < 40).any()


def test_noise_is_normal_and_every_draw_and_image_has_its_own():
    shape, n = torch.Size([1, 5, 5]), torch.arange(2000)
    noise = gaussian_noise(0, n // 40, n % 40, shape)
    assert noise.shape == (2000, 1, 5, 5) and len(noise.unique()) > 49_900
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        values = noise.double() ** power
        assert abs(values.mean() - moment) < 5 * values.std() / values.numel() ** 0.5
    apart = torch.corrcoef(noise[:40].flatten(1)) - torch.eye(40)
    assert abs(apart.mean()) < 0.02 and torch.equal(noise[85], gaussian_noise(0, n[2:3], n[5:6], shape)[0])
    assert not torch.equal(noise[85], gaussian_noise(1, n[2:3], n[5:6], shape)[0])


def test_noisy_pixels_are_refused_elsewhere_and_what_is_not_finite_always(random, tiny_images):
    x, _ = tiny_images.batch(torch.arange(2))
    with pytest.raises(InputError, match=r"expected floats in \[0, 1\]"):
        random(x + 1)
    assert random.unbounded()(x + 1).isfinite().all()
    with pytest.raises(InputError, match="expected finite floats .*, got infinite values or NaN"):
        random.unbounded()(x * torch.nan)


def test_images_resampled_by_a_number_each_are_those_resampled_alone(random, tiny_images):
    x, _ = tiny_images.batch(PLACES)
    numbers, pinned = torch.tensor([5, 0, 2]), random.for_images(PLACES)
    together = pinned.resampled(numbers)(x)
    for i, number in enumerate(numbers.tolist()):
        torch.testing.assert_close(together[i], pinned.resampled(number)(x)[i])
    torch.testing.assert_close(together[1], pinned(x)[1])
    with pytest.raises(InputError, match="number must be a whole number of at least 0, got -1"):
        pinned.resampled(numbers - 1)
