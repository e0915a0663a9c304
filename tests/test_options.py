"""Records of options: their fields declare choices and checks, and one function holds all records to them."""

import dataclasses

import pytest

from pyrobayes import (
    AttackOptions,
    CertificationOptions,
    ClassifierOptions,
    DetectionOptions,
    EvaluationOptions,
    InputError,
    Networks,
    RobustnessOptions,
    TrainingOptions,
    attacks,
)
from pyrobayes.errors import check_count
from pyrobayes.options import declaration, option, parse_eps

RECORDS = [
    Networks,
    TrainingOptions,
    ClassifierOptions,
    EvaluationOptions,
    RobustnessOptions,
    AttackOptions,
    DetectionOptions,
    CertificationOptions,
]
FIELDS = [(record, field) for record in RECORDS for field in dataclasses.fields(record)]


@pytest.mark.parametrize(("record", "field"), FIELDS, ids=[f"{r.__name__}-{f.name}" for r, f in FIELDS])
def test_every_field_refuses_what_it_can_not_be(record, field):
    given = {"attack": attacks.names()} if issubclass(record, AttackOptions) else {}
    if field.name == "source":
        given["attack"] = "fgsm"  # transfer takes any name
    bad = {"target": -1, "source": "gbz"}.get(field.name, object())
    with pytest.raises(InputError, match=field.name.replace("_", " ")):
        record(**given | {field.name: bad})


@dataclasses.dataclass(frozen=True)
class Base:
    number: int = option(1, "a number", check=check_count)


@dataclasses.dataclass(frozen=True)
class Other(Base):
    number: int = 2


def test_a_field_that_changes_its_default_keeps_what_was_declared():
    assert declaration(Other, "number") == declaration(Base, "number") == {"help": "a number", "check": check_count}
    assert Other().number == 2 and declaration(Other, "unknown") == {}


def test_fields_whose_type_has_none_may_be_none():
    assert RobustnessOptions(images=None).images is None
    with pytest.raises(InputError, match="particles must be a whole number of at least 1, got None"):
        RobustnessOptions(particles=None)


def test_choices_are_spelled_as_they_are_known():
    assert TrainingOptions(schedule="COSINE").schedule == "cosine"
    assert TrainingOptions(bound="elbo", antithetic=False) == TrainingOptions()
    assert ClassifierOptions(noise="Fixed").noise == "fixed"


def test_sigmas_are_sorted_and_each_there_once():
    assert CertificationOptions(sigma=[0.5, 0.25, 0.5]).sigma == (0.25, 0.5)
    assert CertificationOptions(sigma=1).sigma == (1.0,)
    with pytest.raises(InputError, match="sigma is empty"):
        CertificationOptions(sigma=())


def test_noise_in_training_has_a_sigma_and_sigma_has_noise():
    assert TrainingOptions(augmentation="gaussian").sigma == 0.25
    assert TrainingOptions(augmentation="gaussian", sigma=0.5).sigma == 0.5
    with pytest.raises(InputError, match="sigma is of augmentation gaussian, and the augmentation is shift"):
        TrainingOptions(augmentation="shift", sigma=0.5)


@pytest.mark.parametrize("text", [None, 0.1, (0.1, 0.2), "0:1", "a,b", ""])
def test_an_eps_range_that_is_none_is_named(text):
    with pytest.raises(InputError, match="can't read the eps range .*: expected START:STOP:STEP"):
        parse_eps(text)
