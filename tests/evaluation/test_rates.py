"""Intervals and tests of shares, against their formulas."""

import math

import pytest
import torch
from scipy.stats import norm

from pyrobayes.evaluation.rates import NORMAL_95, Rate, larger
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
