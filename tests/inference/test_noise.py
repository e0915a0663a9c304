"""Random numbers that a counter gives."""

import torch

from pyrobayes.inference.noise import splitmix, standard_normals


def test_splitmix_gives_the_published_sequence():
    # The reference program of Vigna (2015), prng.di.unimi.it/splitmix64.c, seeded with 1234567.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [value % 2**64 for value in splitmix(1234567, torch.arange(5)).tolist()] == expected


def test_normals_have_the_moments_and_the_tails_of_a_standard_normal():
    numbers = standard_normals(torch.tensor(7), torch.arange(500_000)).flatten().double()
    for power, moment in [(1, 0), (2, 1), (3, 0), (4, 3), (6, 15)]:
        values = numbers**power
        assert abs(values.mean() - moment) < 5 * values.std() / len(values) ** 0.5
    assert 4.4 < numbers.abs().max() < 6.8
    pairs = numbers.unflatten(0, (-1, 2))
    assert abs(torch.corrcoef(pairs.T)[0, 1]) < 5 / len(pairs) ** 0.5
    assert abs(torch.corrcoef(pairs.T.square())[0, 1]) < 5 / len(pairs) ** 0.5
