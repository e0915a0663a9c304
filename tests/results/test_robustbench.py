"""RobustBench's record of a result."""

import dataclasses

import made_up
import pytest
from torch import nn

from pyrobayes import InputError, RobustnessOptions, attacks
from pyrobayes.evaluation.images import opened
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.robustness.suite import ITERATIVE, suite
from pyrobayes.results.robustbench import _fraction, robustbench_record


def test_a_verdict_with_a_row_of_autoattack_becomes_a_record(tiny_images):
    pytest.importorskip("pyautoattack", reason="pyautoattack is not installed: pip install 'pyrobayes[attacks]'")
    cnn = opened(nn.Sequential(nn.Flatten(), nn.Linear(49, 10)), tiny_images)
    assert "autoattack" not in suite(cnn, RobustnessOptions(), ())
    attack = suite(cnn, RobustnessOptions(autoattack=2), ())["autoattack"].attack
    assert (attack.variant, attack.steps, attack.queries) == ("standard", 2, 100)
    plain = made_up.verdict("cnn")
    added = {"success": [Rate(12, 20), Rate(15, 20)], "options": attack.described(), "kinds": ITERATIVE}
    rows = {name: getattr(plain, name) | {"autoattack": value} for name, value in added.items()}
    record = robustbench_record(dataclasses.replace(plain, **rows), 0.1, architecture="linear", additional_data=False)
    assert (record["clean_acc"], record["autoattack_acc"], record["external"]) == ("80.00", "40.00", "45.00")
    assert (record["architecture"], record["dataset"], record["additional_data"]) == ("linear", "fashion-mnist", False)
    assert "AutoAttack with steps 2, queries 100; checks 4, 10 of the verdict failed" in record["footnote"]


@pytest.mark.parametrize(("eps", "shown"), [(8 / 255, "8/255"), (0.1, "0.1"), (0.5, "0.5")])
def test_an_eps_of_whole_grey_values_is_a_fraction(eps, shown):
    assert _fraction(eps) == shown


def test_autoattacks_own_result_becomes_a_record_and_a_random_classifier_is_unreliable():
    options = attacks.get("autoattack", variant="rand").described()
    result = dataclasses.replace(made_up.attack("gbz", "autoattack"), options=options)
    record = robustbench_record(result, 0.3)
    assert record == {
        "dataset": "fashion-mnist",
        "architecture": "gbz",
        "eps": "0.3",
        "clean_acc": "83.33",
        "autoattack_acc": "43.33",
        "footnote": "30 images; its predictions are random",
        "unreliable": True,
    }
    with pytest.raises(InputError, match="no eps 0.2, it has 0, 0.1, 0.3"):
        robustbench_record(result, 0.2)
    with pytest.raises(InputError, match="record has no paper"):
        robustbench_record(result, 0.1, paper="x")
    with pytest.raises(InputError, match="autoattack_acc needs AutoAttack"):
        robustbench_record(made_up.attack("gbz"), 0.1)
