"""The attacks of a verdict: several kinds of gradients, and attacks that need none."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyrobayes import attacks
from pyrobayes.attacks import Attack
from pyrobayes.attacks.libraries import AutoAttack, library
from pyrobayes.inference.interface import Classifier
from pyrobayes.options import RobustnessOptions

# Kinds of attacks: one step along a gradient of the classifier attacked, many steps, or none of its gradients.
SINGLE_STEP, ITERATIVE, GRADIENT_FREE = "single-step", "iterative", "blind"
EOT_MIM = "eot-mim"
CLIMBING = (EOT_MIM, "pgd", "apgd, margin")  # the iterative attacks among which the strongest is checked
LABEL_ALONE = "p(y|...) alone"


@dataclass(frozen=True)
class SuiteEntry:
    """One attack of a suite.

    Attributes:
        attack: the attack.
        attacker: options of the classifier that the attacker overrides.
        kind: SINGLE_STEP, ITERATIVE or GRADIENT_FREE.
    """

    attack: Attack
    attacker: Mapping = dataclasses.field(default_factory=dict)
    kind: str = ITERATIVE

    def with_options(self, **options) -> "SuiteEntry":
        """A copy whose attack has other options."""
        return dataclasses.replace(self, attack=dataclasses.replace(self.attack, **options))

    def gradients(self, particles: int, classes: int) -> int:
        """As :meth:`pyrobayes.attacks.Attack.gradients` has it, of a defender with so many of both."""
        return self.attack.gradients(self.attacker.get("particles", particles), classes)

    def passes(self, particles: int, classes: int) -> float:
        """Roughly how many times the classifier computes one image at one eps."""
        if self.attack.follows_gradient:
            whole = particles * classes
            return 3 * self.gradients(particles, classes) / whole  # a backward pass is as long as two forward ones
        several = math.prod(getattr(self.attack, name, 1) for name in ("steps", "restarts", "eot", "draws"))
        return several * (3 * len(self.attack.sources) if hasattr(self.attack, "sources") else 1)


def suite(classifier: Classifier, options: RobustnessOptions, sources: Sequence[Classifier]) -> dict[str, SuiteEntry]:
    """The attacks of the suite, by the names of their rows. docs/robustness.md says what others would add."""
    steps = {"steps": options.steps}
    entries = {"fgsm": SuiteEntry(attacks.get("fgsm"), kind=SINGLE_STEP)}
    if classifier.random:
        first, second, selection = -(-5 * options.steps // 2), 5 * options.steps, -(-options.redraws // 2)
        more = {"steps": first, "second_steps": second, "selection": selection}
        entries[EOT_MIM] = SuiteEntry(attacks.get("eot-mim", **more), {"prune": None})
    else:
        entries["pgd"] = SuiteEntry(attacks.get("pgd", **steps))
        entries["apgd, margin"] = SuiteEntry(attacks.get("apgd", loss="margin", **steps))
    if not options.brief:
        entries |= _of_the_label_alone(classifier, options)
    if not classifier.random:
        entries["uniform noise"] = SuiteEntry(uniform(options), kind=GRADIENT_FREE)
        entries["square"] = SuiteEntry(square(options), kind=GRADIENT_FREE)
    if options.autoattack:
        library(AutoAttack.package, "autoattack")  # refused before anything is computed
        variant, steps = "rand" if classifier.random else "standard", options.autoattack
        entries["autoattack"] = SuiteEntry(attacks.get("autoattack", variant=variant, steps=steps, queries=50 * steps))
    if sources:
        transfer = attacks.get("transfer", sources=tuple(sources), **steps)
        entries["transfer"] = SuiteEntry(transfer, kind=GRADIENT_FREE)
    return entries


def resized(entry: SuiteEntry, times: float) -> SuiteEntry:
    """An iterative attack with so many times its steps, at least one."""
    steps = {name: getattr(entry.attack, name) for name in ("steps", "second_steps") if hasattr(entry.attack, name)}
    return entry.with_options(**{name: max(1, round(times * n)) if n else 0 for name, n in steps.items()})


def uniform(options: RobustnessOptions) -> Attack:
    """Noise, with as many draws as the others have steps."""
    return attacks.get("uniform", draws=options.steps)


def square(options: RobustnessOptions, eot: int = 1) -> Attack:
    """The attack without any gradient, with ten times as many queries as the others have steps."""
    return attacks.get("square", steps=10 * options.steps, eot=eot)


def _of_the_label_alone(classifier: Classifier, options: RobustnessOptions) -> dict[str, SuiteEntry]:
    """An attack on p(y|...) alone, as Tramer et al. (2020) had it, where latent variables alone decide the class.

    Nothing is decoded for it. Against a random classifier many steps take the place of their many particles.
    """
    structure = classifier.structure
    if not structure.parents["y"] or not set(structure.parents["y"]) <= set(structure.latent):
        return {}
    if classifier.random:
        attack = attacks.get("eot-mim", term="y", steps=5 * options.steps, rivals=0)
        return {f"{EOT_MIM}, {LABEL_ALONE}": SuiteEntry(attack, {"prune": None})}
    return {f"pgd, {LABEL_ALONE}": SuiteEntry(attacks.get("pgd", term="y", steps=options.steps))}
