"""The options of the commands that attack, made from what the attacks declare."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from pyrobayes import errors
from pyrobayes.attacks import base
from pyrobayes.attacks.base import EACH, Attack
from pyrobayes.errors import InputError
from pyrobayes.options import EPS, EPS_OF_NORM, ESTIMATORS, EvaluationOptions, declaration, option

PLAIN_TYPES = (bool, int, float, str)


def with_options_of_attacks(record: type) -> type:
    """Class decorator: add a field for each option with a help text that a registered attack declares.

    The default is that of the attacks if all have the option and agree. Otherwise it is None: each attack has its own.
    """
    fields = []
    for name, attacks in base.offered().items():
        first = next(iter(attacks.values()))
        declared, kind = declaration(first, name), plain_type(first, name)
        defaults = {getattr(cls, name) for cls in attacks.values()}
        default = defaults.pop() if len(defaults) == 1 and len(attacks) == len(base.names()) else None
        text = help_text(name, attacks, with_default=default is None)
        check = None if default is None else declared.get("check")  # attacks with other defaults may have other checks
        field = option(default, text, declared.get("choices"), check=check)
        fields.append((name, kind | None if default is None else kind, field))
    namespace = {"__doc__": record.__doc__, "__module__": record.__module__}
    return dataclasses.make_dataclass(record.__name__, fields, bases=(record,), namespace=namespace, frozen=True)


def plain_type(attack: type[Attack], name: str) -> type:
    """The type of an option, which a command line can read: plain types and None."""
    kind = typing.get_type_hints(attack)[name]
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if not {*kinds} <= {*PLAIN_TYPES, types.NoneType}:
        known = ", ".join(plain.__name__ for plain in PLAIN_TYPES)
        raise TypeError(
            f"option {name} of {attack.name} must have a plain type ({known}) to have a help text, not {kind}"
        )
    return kind


def help_text(name: str, attacks: Mapping[str, type[Attack]], *, with_default: bool) -> str:
    """The help of an option, with the attacks that have it unless all do, and with their defaults."""
    everyone = len(attacks) == len(base.names())
    texts, defaults = {}, {}
    for attack, cls in attacks.items():
        declared, default = declaration(cls, name), getattr(cls, name)
        texts.setdefault(declared["help"], []).append(attack)
        shown = (
            declared.get("none_means") if default is None else f"{default:g}" if errors.is_number(default) else default
        )
        defaults.setdefault(shown, []).append(attack)
    text = "; ".join(t if everyone and len(texts) == 1 else f"{t} ({', '.join(names)})" for t, names in texts.items())
    if not with_default or set(defaults) == {None}:
        return text
    common = max(defaults, key=lambda shown: len(defaults[shown])) if everyone or len(defaults) == 1 else None
    hints = [shown if shown == common else f"{shown} for {', '.join(names)}" for shown, names in defaults.items()]
    return f"{text}  [default: {'; '.join(hints)}]"


def as_tuple(name: str, value) -> tuple:
    """The values of an option that may be given several times; a name or a number alone is one value."""
    if isinstance(value, str) or errors.is_number(value):
        return (value,)
    try:
        return tuple(value or ())
    except TypeError:
        raise InputError(f"{name} must be one value, or a list of values, got {value!r}") from None


@with_options_of_attacks
@dataclass(frozen=True)
class AttackOptions(EvaluationOptions):
    """How a trained model is attacked: see :class:`pyrobayes.attacks.Attack`. An option that is None is each attack's own."""

    attack: tuple[str, ...] = option(("fgsm",), "the attack; may be given several times", tuple(base.names()))
    eps: tuple[float, ...] | None = option(
        None,
        "sizes of the perturbation, STOP included where the steps reach it; or a comma list  [default: 0:0.3:0.05, in L2 "
        "0:3:0.5, in L1 and L0 from 0 to 60 and 80]",
    )
    attack_particles: int | None = option(
        None, "the attacker's particles  [default: --particles]", check=errors.check_count
    )
    attack_estimator: str | None = option(None, "estimator of the attacker  [default: --estimator]", ESTIMATORS)

    def __post_init__(self):
        super().__post_init__()
        names = as_tuple("attack", self.attack)
        if not names:
            raise InputError(f"no attack given: known are {', '.join(base.names())}")
        names = tuple(dict.fromkeys(errors.choice("attack", name, base.names()) for name in names))
        object.__setattr__(self, "attack", names)
        if self.target is not None:
            target = str(self.target).lower()
            if target != EACH and not target.isdecimal():
                raise InputError(f"target must be the number of a class, or 'each', got '{self.target}'")
            object.__setattr__(self, "target", int(target) if target.isdecimal() else target)
        for name, able in base.offered().items():
            if getattr(self, name, None) is not None and not able.keys() & set(names):
                raise InputError(f"{', '.join(names)} has no option {name}, only {', '.join(able)}")
        attacks = self.build_attacks()  # which refuses bad values, and spells the good ones as they are known
        for attack in attacks:
            for name in self._given(attack.name):
                object.__setattr__(self, name, getattr(attack, name))
        norms = {attack.norm for attack in attacks}
        default = EPS_OF_NORM.get(next(iter(norms)), EPS) if len(norms) == 1 else EPS
        eps = self.eps if self.eps is not None else default
        for norm in norms:
            object.__setattr__(self, "eps", errors.check_eps(eps, norm))

    def _given(self, attack: str) -> dict:
        """The options of one attack that are not left to it."""
        names = ["seed", *(name for name, able in base.offered().items() if attack in able)]
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}

    def build_attacks(self) -> list[Attack]:
        """The attacks, each with those of the options that it has."""
        return [base.get(name, **self._given(name)) for name in self.attack]

    def file_suffix(self, model: str, attack: str) -> str:
        """The end of the names of the files for a model and an attack."""
        return model if len(self.attack) == 1 else f"{model}-{attack}"

    @property
    def attacker(self) -> dict:
        """Classifier options that the attacker overrides."""
        given = {"particles": self.attack_particles, "estimator": self.attack_estimator}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class DetectionOptions(AttackOptions):
    """How tests are fitted that reject adversarial images, and attacked: see :mod:`pyrobayes.evaluation.detection`."""

    false_alarms: float = option(0.05, "share of training images that a test may reject", check=errors.check_fraction)
    train_images: int = option(
        5000, "first training images, to which the tests are fitted", check=partial(errors.check_integer, least=2)
    )
    evade_weight: tuple[float, ...] = option(
        (),
        "attack every particle and the test at once too: this weight times the statistic of the test is taken off the "
        "loss; may be given several times",
    )

    def __post_init__(self):
        super().__post_init__()
        weights = as_tuple("evade weight", self.evade_weight)
        for weight in weights:
            errors.check_positive("evade weight", weight)
        object.__setattr__(self, "evade_weight", tuple(sorted(set(weights))))
        for attack in self.build_attacks() if weights else ():
            dataclasses.replace(attack, snapshot=True, evade=len)  # refuses what can't evade a test
        if weights and self.prune is not None:
            raise InputError("evade weight attacks all particles of every class: leave prune out")
