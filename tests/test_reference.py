"""The plain reference of the benchmark computes the same numbers."""

import sys
from pathlib import Path

import pytest
import torch

from pyrobayes import BayesClassifier

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from reference import Reference  # noqa: E402

SEVEN = ("gfz", "gfy", "gbz", "gby", "dfx", "dfz", "dbx")


@pytest.mark.parametrize("name", SEVEN)
def test_reference_gives_the_same_log_joint_on_the_same_noise(name, make, batch):
    factorization, x = make(name, double=True), batch[0].double()
    classifier = BayesClassifier(factorization, particles=3).for_images(range(4))
    noise = classifier._base_noise(classifier._keys(4), 0, 3).double()
    expected = Reference(factorization).log_joint(x, noise)
    torch.testing.assert_close(classifier(x), expected, rtol=1e-9, atol=1e-9)
