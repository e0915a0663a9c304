"""Results of every kind, made up, as tests of files, tables and the report take them."""

import math

import torch
from torch.nn.functional import one_hot

from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.certification import Certification
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.evaluation.detection import Detection
from pyrobayes.evaluation.rates import Rate
from pyrobayes.evaluation.robustness.checks import CHECKS, FAIL, PASS, CheckResult
from pyrobayes.evaluation.robustness.suite import GRADIENT_FREE, ITERATIVE, SINGLE_STEP
from pyrobayes.evaluation.robustness.verdict import Verdict

EPS = (0.0, 0.1, 0.3)
CLASSES = ("T-shirt", "Trouser", "Bag & <b>more</b>")
FAILED = (4, 10)


def evaluation(model):
    return Evaluation(
        model, "fashion-mnist", 60, Rate(49, 60), Rate(3, 60), 0.5, 0.04, None, 2.5, [[20, 0, 0]] * 3, Rate(1, 60)
    )


def attack(model, name="fgsm", norm="linf", wrong=(5, 11, 17)):
    labels = torch.arange(30) % 3
    at = [torch.where(torch.arange(30) < number, (labels + 1) % 3, labels) for number in wrong]
    log_joint = torch.stack([one_hot(each, 3).float() for each in at])
    return AttackResult.of(
        model=model, generative=model.startswith("g"), attack=name, options={"norm": norm, "steps": 7},
        data="fashion-mnist", eps=EPS, labels=labels.tolist(), clean_log_joint=log_joint[0], log_joint=log_joint,
        unmoved=Rate(2, 30), examples=torch.rand(3, 2, 1, 7, 7), distances=[0.5] * 30 if name == "cw" else None,
    )  # fmt: skip


def certification(model, sigma=0.25):
    """Four images: certified for the true class, for another one, and twice not; of these PREDICT abstains on one."""
    counts = [[995, 5, 0], [0, 900, 100], [500, 490, 10], [100, 520, 380]]
    return Certification(model, "fashion-mnist", sigma, 1000, 10, 0.001, [0, 2, 0, 1], [0, 1, 0, 1], counts, Rate(3, 4))


def detection(model, test="kl", evade=None, meaningful=True):
    return Detection(
        model, "pgd", {"norm": "linf", "evade": evade, "evade_weight": 0.5}, "fashion-mnist", (0.1, 0.2), test, meaningful, Rate(3, 60),
        [Rate(20, 60), Rate(50, 60)], [Rate(5, 20), Rate(10, 50)], [Rate(15, 60), Rate(40, 60)],
        [Rate(37, 50), Rate(8, 46)], [0.71, math.nan], [[0.0, 0.5, 1.0]] * 2,
    )  # fmt: skip


def verdict(model):
    sheet = [
        CheckResult(
            n,
            f"holds | {n}",
            FAIL if n in FAILED else PASS,
            f"found {n} < *7*",
            "all",
            CHECKS[n].concerns,
        )
        for n in CHECKS
    ]
    rates = {"fgsm": [Rate(12, 20), Rate(14, 20)], "pgd, margin": [Rate(13, 20), Rate(19, 20)]}
    rates["uniform noise"] = [Rate(4, 20), Rate(5, 20)]
    return Verdict(
        model, True, "fashion-mnist", 20, (0.1, 0.2), Rate(16, 20), rates, [Rate(15, 20), Rate(20, 20)], [0.6, 0.9],
        [Rate(11, 20), Rate(18, 20)], {name: {"norm": "linf", "seed": 0, "eot": 1} for name in rates},
        dict(zip(rates, (SINGLE_STEP, ITERATIVE, GRADIENT_FREE))), sheet, gradient_signs=Rate(3, 100),
    )  # fmt: skip
