"""Intervals and tests of shares, against their formulas."""

import math

import pytest
import torch
from scipy.stats import norm

from pyrobayes.evaluation.rates import NORMAL_95, Median, Rate, larger
from pyrobayes.evaluation.reproduction import student_95


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (8240, 10_000), (1, 1)])
def test_the_interval_is_wilsons(count, total):
    p, z = count / total, NORMAL_95
    centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    assert Rate(count, total).interval == pytest.approx((centre - half, centre + half), abs=1e-12)
    if count in (0, total):
        assert Rate(count, total).interval[count > 0] == float(count > 0)  # exactly
    assert all(type(end) is float for end in Rate(count, total).interval)


def test_the_interval_of_a_median_lies_between_two_of_the_numbers():
    # The median is below the second smallest of nine with probability (1 + 9) / 2^9, which is 2.0%; the third, 9.0%.
    numbers = [9.0, 1.0, math.inf, 4.0, 5.0, 3.0, 7.0, 2.0, 6.0]
    found = Median.of(numbers)
    assert (found.value, found.low, found.high) == (5.0, 2.0, 9.0) and str(found) == "5 [2, 9]"
    assert Median.of(numbers[:5]).low == -math.inf and Median.of(numbers[:5]).high == math.inf
    assert all(map(math.isnan, (Median.of([]).value, Median.of([]).low)))
    generator = torch.Generator().manual_seed(0)
    drawn = [Median.of(torch.randn(40, generator=generator).tolist()) for _ in range(500)]
    assert 0.93 < sum(each.low <= 0 <= each.high for each in drawn) / 500 < 0.99


def test_quantiles():
    assert NORMAL_95 == pytest.approx(norm.ppf(0.975), abs=1e-15)
    assert [round(student_95(seeds), 3) for seeds in (2, 3, 10, 1000)] == [12.706, 4.303, 2.262, 1.962]


@pytest.mark.parametrize(("more", "fewer"), [(6, 0), (5, 0), (9, 1), (8, 1), (30, 14), (30, 15)])
def test_the_exact_test_counts_coins(more, fewer):
    ours = torch.arange(100) < more
    theirs = (torch.arange(100) >= more) & (torch.arange(100) < more + fewer)
    p = 2 * sum(math.comb(more + fewer, k) for k in range(fewer + 1)) / 2 ** (more + fewer)
    assert larger(ours, theirs) == (p <= 0.05) and larger(ours, theirs, comparisons=3) == (3 * p <= 0.05)
    assert not larger(theirs, ours)
