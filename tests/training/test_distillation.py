"""Substitutes that learn a classifier's answers."""

import pytest
import torch
from support import TINY

from pyrobayes import BayesClassifier, InputError, build
from pyrobayes.inference.noise import NoiseStream
from pyrobayes.training.distillation import asked, distill, moved

FEW = {"networks": TINY, "batch_size": 32, "lr": 0.01}


@pytest.fixture
def victim(make):
    """A network without training: its answers have nothing to do with the labels."""
    return BayesClassifier(make("cnn"))


def test_a_substitute_gives_the_answers_that_it_saw(victim, tiny_images):
    x = tiny_images.batch(slice(None))[0]
    state = torch.get_rng_state()
    substitute = distill(victim, tiny_images, epochs=15, **FEW)
    assert torch.equal(torch.get_rng_state(), state)
    wanted, got = (classifier(x).log_softmax(1) for classifier in (victim, substitute))
    assert ((wanted.exp() * (wanted - got)).sum(1).mean() < 0.01) and (wanted.exp() > 0.05).float().sum(1).mean() > 1.5
    assert substitute.factorization.name == "cnn" and not any(w.requires_grad for w in substitute.parameters())


def test_every_round_doubles_the_queries_and_moves_along_the_gradient(make, tiny_images, monkeypatch):
    victim, few = BayesClassifier(make("gbz"), particles=2), tiny_images.head(10)
    queries, for_images = [], BayesClassifier.for_images
    monkeypatch.setattr(
        BayesClassifier,
        "for_images",
        lambda self, at, draw: queries.append((at.tolist(), draw)) or for_images(self, at, draw),
    )
    first, again, other = (distill(victim, few, epochs=1, rounds=2, seed=seed, **FEW) for seed in (0, 0, 1))
    places = [place for at, _ in queries[: len(queries) // 3] for place in at]
    assert places == list(range(40)) and {draw for _, draw in queries} == {NoiseStream.ATTACKER}
    x = few.batch(slice(None))[0]
    assert torch.equal(first(x), again(x)) and not torch.equal(first(x), other(x))
    y = first(x).argmax(1)
    inside = moved(first.factorization, x.clamp(0.2, 0.8), y, 0.01, 4)
    assert ((inside - x.clamp(0.2, 0.8)).abs() - 0.01).abs().max() < 1e-6
    likely, likelier = (first(images).log_softmax(1).gather(1, y[:, None]) for images in (x.clamp(0.2, 0.8), inside))
    assert (likelier > likely).all()


def test_a_random_victim_answers_each_query_with_one_draw(make, tiny_images):
    victim = BayesClassifier(make("gfz"), particles=2)
    x = tiny_images.head(5).batch(slice(None))[0]
    same, later = asked(victim, x, 0, 2), asked(victim, x, 5, 2)
    torch.testing.assert_close(same, asked(victim, x, 0, 5))
    torch.testing.assert_close(same, victim.for_images(range(5), NoiseStream.ATTACKER)(x).softmax(1))
    assert not torch.allclose(same, later)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"epochs": 0}, "epochs"), ({"rounds": -1}, "rounds"), ({"step": 0}, "step"), ({"networks": "huge"}, "networks")],
)
def test_bad_arguments_are_named(arguments, words, victim, tiny_images):
    with pytest.raises(InputError, match=words):
        distill(victim, tiny_images, **arguments)
    with pytest.raises(InputError, match="distill takes a classifier"):
        distill(build("cnn", TINY), tiny_images)
