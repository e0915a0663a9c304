"""The options of commands that attack are those that the attacks declare."""

import dataclasses
import re
import subprocess
import sys

import pytest

from pyrobayes import AttackOptions, DetectionOptions, InputError, attacks
from pyrobayes.attacks import base
from pyrobayes.options import declaration

NEW_ATTACK = """
from __future__ import annotations

from dataclasses import dataclass

from pyrobayes.attacks import Attack, register
from pyrobayes.errors import check_fraction
from pyrobayes.options import option


@register("r-fgsm")
@dataclass(frozen=True)
class RandomStartFGSM(Attack):
    start: float = option(0.5, "part of eps that is drawn", check=check_fraction)
    quietly: bool = False

    def perturb(self, problem, eps):
        start = problem.project(problem.in_ball(0, self.start * eps), eps)
        _, gradient = problem.gradient(start)
        return start + (1 - self.start) * eps * problem.ascend(gradient)
"""
USED = """
import new_attack
from pyrobayes import AttackOptions, InputError, attacks

assert "r-fgsm" in attacks.names() and {"start", "quietly"} < attacks.options("r-fgsm")
(attack,) = AttackOptions(attack="R-FGSM", start=0.25, norm="L2").build_attacks()
assert attack == attacks.get("r-fgsm", start=0.25, norm="l2"), attack
assert attacks.get("r-fgsm").start == 0.5 and AttackOptions(attack="r-fgsm").start is None
for given in ({"attack": "r-fgsm", "start": 2}, {"start": 0.5}):
    try:
        AttackOptions(**given)
    except InputError as error:
        print(error)
from pyrobayes_cli.main import main
main(["attack", "--help"])
"""


def test_an_option_of_a_new_attack_is_one_line(tmp_path):
    (tmp_path / "new_attack.py").write_text(NEW_ATTACK)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{USED}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    told = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stderr
    assert "start must be a share above 0 and below 1, got 2 fgsm has no option start, only r-fgsm" in told
    assert "|gaussian|r-fgsm]" in told and "--quietly" not in told
    assert "--start FLOAT part of eps that is drawn (r-fgsm) [default: 0.5]" in told


def test_an_attack_that_comes_later_is_offered_by_name(monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))

    @attacks.register("later")
    @dataclasses.dataclass(frozen=True)
    class Later(attacks.Attack):
        pass

    assert AttackOptions(attack="later").build_attacks() == [Later()]


def test_every_option_of_an_attack_with_help_reaches_it():
    other = {int: 3, float: 0.5, str: "dfx", bool: True}
    for name in attacks.names():
        cls = type(attacks.get(name))
        fields = [field for field in dataclasses.fields(cls) if field.init and "help" in declaration(cls, field.name)]
        assert {"norm", "loss", "term", "snapshot", "target", "eot"} <= {field.name for field in fields}
        for field in fields:
            choices = declaration(cls, field.name).get("choices")
            allowed = cls.norms if field.name == "norm" else choices
            kind = next(kind for kind in other if kind.__name__ in str(field.type))
            value = 3 if field.name == "target" else allowed[-1] if allowed else other[kind]
            if name == "autoattack" and field.name in ("loss", "snapshot", "target"):
                with pytest.raises(InputError, match=f"losses and targets of its own: leave {field.name} out"):
                    attacks.get(name, **{field.name: value})
                continue
            (attack,) = AttackOptions(attack=name, **{field.name: value}).build_attacks()
            assert getattr(attack, field.name) == value


def test_what_is_left_out_is_as_each_attack_has_it():
    assert AttackOptions(attack=attacks.names()).build_attacks() == [attacks.get(name) for name in attacks.names()]
    pgd, square = AttackOptions(attack=("pgd", "square"), seed=7).build_attacks()
    assert (pgd.steps, square.steps, pgd.loss, square.loss) == (40, 1000, "cross-entropy", "margin")
    assert (pgd.seed, square.seed) == (7, 7)


def test_options_go_to_the_attacks_that_have_them():
    fgsm, pgd, cw = AttackOptions(attack=("fgsm", "pgd", "cw"), steps=5, confidence=1.0, eps=0.1).build_attacks()
    assert fgsm == attacks.get("fgsm")
    assert pgd == attacks.get("pgd", steps=5) and cw == attacks.get("cw", steps=5, confidence=1.0)
    fgsm, square = AttackOptions(attack=("fgsm", "square"), gradient="Fisher").build_attacks()
    assert fgsm == attacks.get("fgsm", gradient="fisher") and square == attacks.get("square")


def test_a_default_that_attacks_share_is_told_once_and_others_by_attack():
    texts = {field.name: field.metadata.get("help", "") for field in dataclasses.fields(AttackOptions)}
    assert texts["norm"].endswith("  [default: linf; l2 for cw, ddn, boundary; area for patch]")
    assert texts["draws"].endswith("(uniform, gaussian)  [default: 100]")
    assert texts["steps"].endswith(
        "  [default: 40 for pgd, pgd-stop, transfer, patch; 10 for mim, hop-skip-jump; 100 for eot-mim, apgd, cw, fmn, ddn, fab, "
        "autoattack; 1000 for square, simba, boundary]"
    )
    assert texts["step_size"].endswith(
        "2.5 eps / steps for pgd, mim, pgd-stop, transfer; from eps down to 0.02 eps for eot-mim; 0.05 for cw; "
        "eps; in L2 0.2, or eps if less for simba; 2.5 / steps for patch]"
    )
    assert AttackOptions.eot == 1 and "[default" not in texts["eot"]  # the command line adds it


def test_options_are_spelled_as_they_are_known():
    options = AttackOptions(attack="PGD", loss="Margin", norm="L2", term="Y", target="3")
    assert (options.attack, options.loss, options.norm, options.term) == (("pgd",), "margin", "l2", "y")
    assert options.target == 3 and AttackOptions(target="EACH").target == "each"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attack": "pdg"}, "unknown attack 'pdg': did you mean 'pgd'?"),
        ({"attack": ()}, "no attack given: known are fgsm, pgd"),
        (
            {"steps": 3},
            "fgsm has no option steps, only pgd, mim, pgd-stop, eot-mim, apgd, cw, square, simba, transfer, patch",
        ),
        ({"attack": "pgd", "steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"attack": ("fgsm", "cw"), "norm": "linf"}, "cw is bounded in l2, not in linf"),
        ({"attack": "cw", "target": "each"}, "nearest class: leave target out"),
        ({"target": "first"}, "target must be the number of a class, or 'each', got 'first'"),
        ({"snapshot": "no"}, "snapshot must be True or False, got 'no'"),
        ({"snapshot": None}, "snapshot must be True or False, got None"),
        ({"eot": None}, "eot must be a whole number of at least 1, got None"),
        ({"attack_particles": 0}, "attack particles must be a whole number of at least 1, got 0"),
        ({"attack_estimator": "best"}, "unknown attack estimator 'best'"),
        ({"attack": "square", "gradient": "fisher"}, "square has no option gradient, only fgsm, pgd, mim"),
        ({"gradient": "fisher", "term": "x"}, "leave term or gradient out"),
        ({"eps": True}, "eps must be a number, or a list of numbers, got True"),
    ],
)
def test_bad_options_are_named(options, words):
    for record in (AttackOptions, DetectionOptions):
        with pytest.raises(InputError, match=re.escape(words)):
            record(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "logit-matching"}, "logit-matching goes towards another image, and has no snapshot: leave it out"),
        ({"attack": "cw"}, "can't evade a test: leave evade out"),
        ({"term": "x"}, "leave term out"),
        ({"prune": 1.0}, "leave prune out"),
    ],
)
def test_what_cannot_evade_a_test_is_named(options, words):
    DetectionOptions(**options)
    with pytest.raises(InputError, match=words):
        DetectionOptions(evade_weight=0.5, **options)


def test_an_option_with_help_has_a_plain_type(monkeypatch):
    from pyrobayes.attacks import attack_options

    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))

    @attacks.register("listing")
    @dataclasses.dataclass(frozen=True)
    class Listing(attacks.Attack):
        sizes: list | None = attack_options.option(None, "sizes")

    with pytest.raises(TypeError, match="option sizes of listing must have a plain type .bool, int, float, str."):
        attack_options.with_options_of_attacks(attack_options.EvaluationOptions)
