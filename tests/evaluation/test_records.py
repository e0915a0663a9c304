"""Records of results refuse impossible values, and show themselves in few lines."""

import dataclasses
import math

import made_up
import pytest
from made_up import attack, detection, evaluation, verdict

from pyrobayes import BayesClassifier, InputError, assess, detect, fit_detector
from pyrobayes import attack as attack_images
from pyrobayes import evaluate as evaluate_images
from pyrobayes.codec import decode, encode
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.particles import Effect, Mean, effects
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.reproduction import Claim, Comparison, Spread
from pyrobayes.evaluation.robustness.checks import CHECKS
from pyrobayes.evaluation.robustness.verdict import IN_MOST, SHARE_OF_DRAWS, UPPER_BOUND, WORST

EFFECT = Effect("gbz", "iwae", "tiny", True, 10, 10, Rate(1, 2), Rate(0, 2), Mean(2.5, 0.1), None, [-7.0, -8.0])
CLAIM = Claim("success rate stays below", "gbz", "dfx", "holds", 0, 0.1, 0.2, 0.1)
COMPARISON = Comparison("gbz", 0.1, 0.4, Spread((0.5,), 30))
RECORDS = {
    "evaluation": evaluation("gbz"),
    "attack": attack("gbz"),
    "detection": detection("gbz"),
    "verdict": verdict("gbz"),
    "effect": EFFECT,
    "claim": CLAIM,
    "comparison": COMPARISON,
    "spread": COMPARISON.ours,
    "rate": Rate(1, 2),
}
PREDICTED = RECORDS["attack"].predictions
IMPOSSIBLE = [
    ("rate", {"count": 3}, "count of a share must be at most 2"),
    ("rate", {"count": -1}, "at least 0"),
    ("rate", {"total": 2.5}, "whole number"),
    ("evaluation", {"images": 61}, "61 images, but"),
    ("evaluation", {"accuracy": Rate(49, 61)}, "60 images, but"),
    ("evaluation", {"confusion": [[61, -1, 0], [0] * 3, [0] * 3]}, "counts from 0"),
    ("evaluation", {"confusion": [[20, 20, 20], [0, 0, 0]]}, "confusion"),
    ("evaluation", {"negative_log_likelihood": math.nan}, "negative_log_likelihood must be a finite number"),
    ("evaluation", {"calibration_error": 1.5}, "calibration_error"),
    ("attack", {"eps": (0.0, 0.3, 0.1)}, "rising order"),
    ("attack", {"eps": (0.0, 0.1)}, "predictions must have 2 entries, got 3"),
    ("attack", {"labels": [0] * 29}, "unmoved must be of 29 images"),
    ("attack", {"labels": [-5] + [0] * 29}, "labels must be classes from 0 to 2"),
    ("attack", {"predictions": [[99, *PREDICTED[0][1:]], *PREDICTED[1:]]}, "predictions must be classes from 0 to 2"),
    ("attack", {"predictions": [[0.5, *PREDICTED[0][1:]], *PREDICTED[1:]]}, "predictions must be classes"),
    ("attack", {"clean_predictions": [0] * 31}, "clean_predictions must have 30 entries"),
    ("attack", {"posteriors": [[7.0] * 30] * 3}, "posteriors must be from 0 to 1"),
    ("attack", {"posteriors": [[0.7] * 29] * 3}, "posteriors must have 30 entries, got 29"),
    ("attack", {"posteriors": [[math.nan] * 30] * 3}, "posteriors must be from 0 to 1"),
    ("attack", {"distances": [-0.5] * 30}, "distances"),
    ("attack", {"unmoved": Rate(2, 31)}, "unmoved must be of 30 images"),
    ("detection", {"detected": [Rate(5, 20), Rate(10, 40)]}, "don't agree"),
    ("detection", {"undetected": [Rate(14, 60), Rate(40, 60)]}, "don't agree"),
    ("detection", {"auc": [1.5, 0.5]}, "auc must be from 0 to 1"),
    ("detection", {"auc": [0.5]}, "auc must have 2 entries, got 1"),
    ("detection", {"roc": [[0.0, -0.5, 1.0]] * 2}, "roc must be from 0 to 1"),
    ("verdict", {"images": 21}, "clean_accuracy must be of 21 images, got 20"),
    ("verdict", {"worst": [Rate(12, 20), Rate(20, 20)]}, "more images than the worst case"),
    ("verdict", {"worst": [Rate(20, 20)]}, "worst must have 2 entries"),
    ("verdict", {"share_of_draws": [0.5, 1.5]}, "share_of_draws must be from 0 to 1"),
    ("verdict", {"kinds": dict.fromkeys(RECORDS["verdict"].kinds, "sighted")}, "kinds of attacks must be among"),
    ("verdict", {"kinds": {}}, "kinds must have 3 entries"),
    ("verdict", {"broken": {"fgsm": [[0], [1]]}}, "other broken images"),
    ("verdict", {"broken": {"fgsm": [list(range(12)), list(range(7, 21))]}}, "classes from 0 to 19"),
    ("verdict", {"resampled": [[0.5] * 20, [0.5] * 19]}, "resampled must have 20 entries, got 19"),
    ("evaluation", {"log_evidence": -math.inf}, "log_evidence must be a finite number"),
    ("attack", {"eps": (0.0, 0.1, math.inf)}, "eps must be a finite number"),
    ("attack", {"eps": (-0.1, 0.1, 0.2)}, "eps must be a finite number"),
    ("detection", {"success": [Rate(20, 60), Rate(50, 61)]}, "success must be of 60 images, got 61"),
    ("verdict", {"success": RECORDS["verdict"].success | {"fgsm": [Rate(1, 20)]}}, "success fgsm must have 2 entries"),
    ("effect", {"log_joint": [-7.0]}, "accuracy must be of 1 images"),
    ("effect", {"log_joint": [-7.0, math.inf]}, "log_joint must be a finite number"),
    ("effect", {"accuracy": Rate(1, 3)}, "accuracy must be of 2 images, got 3"),
    ("effect", {"effective_sample_size": Mean(11.0, 0.1)}, "effective_sample_size"),
    ("claim", {"outcome": "maybe"}, "outcome must be one of"),
    ("claim", {"gap": 3.0}, "gap"),
    ("comparison", {"published": 1.5}, "published"),
    ("spread", {"shares": (0.5, 1.2)}, "shares must be from 0 to 1"),
    ("spread", {"shares": ()}, "needs images and a seed"),
]


@pytest.mark.parametrize(("name", "changes", "message"), IMPOSSIBLE)
def test_a_record_refuses_what_is_impossible(name, changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(RECORDS[name], **changes)


def test_classes_are_kept_with_a_result():
    written = encode(RECORDS["attack"])
    assert written["classes"] == 3 and decode(AttackResult, written).classes == 3
    written["predictions"][0][0] = 99
    with pytest.raises(ValueError, match="predictions must be classes from 0 to 2"):
        decode(AttackResult, written)
    before = {key: value for key, value in written.items() if key != "classes"}  # as earlier versions wrote it
    assert decode(AttackResult, before).predictions[0][0] == 99


@pytest.mark.parametrize(("name", "shown"), [
    ("evaluation", "gbz on 60 images of fashion-mnist"),
    ("attack", "fgsm on gbz, 30 images of fashion-mnist, clean accuracy 83.3%"),
    ("detection", "kl test of gbz against pgd, 60 images"),
    ("verdict", f"gbz on 20 images of fashion-mnist, 2 of {len(CHECKS)} checks failed"),
])  # fmt: skip
def test_a_record_shows_a_title_and_a_table(name, shown):
    record = RECORDS[name]
    first, header, *lines = repr(record).splitlines()
    assert first.startswith(f"{type(record).__name__}: {shown}") and 1 <= len(lines) <= 6
    html = record._repr_html_()
    assert shown in html and html.count("<tr>") == len(lines) + 1
    for cell in record._summary()[1][-1]:
        assert cell in lines[-1] and f"<td>{cell}</td>" in html
    hostile = dataclasses.replace(record, model="<script>")
    assert "<script>" not in hostile._repr_html_() and "&lt;script&gt;" in hostile._repr_html_()


def test_a_verdict_shows_the_headline_before_the_upper_bound():
    shown = {line[0]: line[1:] for line in RECORDS["verdict"]._summary()[1]}
    assert list(shown)[-3:] == [IN_MOST, SHARE_OF_DRAWS, UPPER_BOUND]
    assert shown[IN_MOST] == ["55.0 [34.2, 74.2]", "90.0 [69.9, 97.2]", "4, 10"]
    assert shown[SHARE_OF_DRAWS][:2] == ["60.0", "90.0"] and shown[UPPER_BOUND][0] == "75.0 [53.1, 88.8]"
    steady = dataclasses.replace(RECORDS["verdict"], broken_in_most=None, share_of_draws=None, resampled=None)
    assert steady._summary()[1][-1][:2] == [WORST, "75.0 [53.1, 88.8]"] and IN_MOST not in repr(steady)


@pytest.mark.parametrize("wrong", [None, 5, "gbz", [1]])
def test_wrong_kinds_of_arguments_are_named(wrong, make, tiny_images):
    classifier, few = BayesClassifier(make("gbz"), particles=1), tiny_images.head(4)
    calls = {
        "data": [
            lambda: evaluate_images(classifier, wrong),
            lambda: attack_images(classifier, wrong),
            lambda: assess(classifier, wrong, few),
            lambda: fit_detector(classifier, wrong),
            lambda: effects(classifier, wrong),
        ],
        "classifier": [
            lambda: evaluate_images(wrong, few),
            lambda: attack_images(wrong, few),
            lambda: assess(wrong, few, few),
            lambda: fit_detector(wrong, few),
            lambda: effects(wrong, few),
        ],
        "training images": [lambda: assess(classifier, few, wrong)],
        "options": [lambda: assess(classifier, few, few, wrong)],
        "source": [lambda: assess(classifier, few, few, sources=wrong)],
        "attacker": [lambda: attack_images(classifier, few, attacker=wrong)],
        "detector": [lambda: detect(wrong, made_up.attack("gbz"), "kl")],
    }
    if wrong != "gbz":
        calls["attack"] = [lambda: attack_images(classifier, few, by=wrong)]
    for argument, each in calls.items():
        for call in each:
            with pytest.raises(InputError, match=f"{argument}s? must be"):
                call()
