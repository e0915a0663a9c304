"""`pyrobayes attack`: attack trained models."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch

from pyrobayes import evaluation, factorizations
from pyrobayes.attacks import Attack
from pyrobayes.attacks.attack_options import AttackOptions
from pyrobayes.attacks.problem import Problem
from pyrobayes.commands.context import Context
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.images import CHECKED, DIAGNOSTICS
from pyrobayes.inference.interface import Classifier
from pyrobayes.progress import Progress
from pyrobayes.results import figures, sections
from pyrobayes.results.registry import ResultCommand, register
from pyrobayes.results.store import is_drawn
from pyrobayes.tensor_files import save_tensors

EXAMPLES = 32  # adversarial images that are kept, among which figure 2 finds several classes

ATTACK = ResultCommand(
    "attack",
    "attack.json",
    AttackOptions,
    AttackResult,
    done="attacked",
    section=sections.attacks_section,
    sentences=sections.attack_sentences,
    figures=("figure1.*", "figure2-*", "distances.*"),
    overview="figure1",
    beside="adversarial-*.safetensors",
)
register(ATTACK)


def attack(
    models: Sequence[str] = (),
    options: AttackOptions = AttackOptions(),
    context: Context = Context(),
    *,
    save_adversarial: bool = False,
    resume: bool = False,
) -> list[AttackResult]:
    """Attack trained models; writes `attack.json`, `figure1` and a `figure2-MODEL` each.

    Attacks that look for the least distance get a figure `distances`: accuracy against distance.

    With several attacks, figure 1 has a panel for each, and figure 2 is `figure2-MODEL-ATTACK`. Attacks by transfer are
    never reused, since they depend on other models too.

    Args:
        save_adversarial: write all adversarial images to `adversarial-MODEL.safetensors` (`-MODEL-ATTACK`) too.
    """
    if resume and save_adversarial:
        raise InputError("reused results have no adversarial images: leave resume or save-adversarial out")
    options = context.settled(options)
    planned, test = planned_attacks(models, options, context)
    attacked, examples = attacker_of(test, options, context.progress), None if save_adversarial else EXAMPLES

    def is_reusable(result: AttackResult) -> bool:
        """Figure 2 shows images that the file lacks, so a result without it is made again."""
        figure2 = context.results / f"figure2-{options.file_suffix(result.model, result.attack)}"
        return result.attack != "transfer" and is_drawn(figure2)

    with context.store(ATTACK, options, test, planned, resume=resume, reusable=is_reusable) as store:
        for classifier, by in planned:
            name = classifier.name
            if store.has(name, by.name):
                continue
            result = attacked(classifier, by, examples)
            few = dataclasses.replace(result, examples=result.examples[:, :EXAMPLES].clone())
            store.get(name, lambda few=few: [few], by.name)
            suffix = options.file_suffix(name, by.name)
            store.draw(f"figure2-{suffix}", True, figures.adversarial_examples, few, test.classes)
            if store.writes and save_adversarial:
                labels = test.head(options.images).labels
                tensors = {"adversarial": result.examples, "labels": labels, "eps": torch.tensor(result.eps)}
                save_tensors(store.folder / f"adversarial-{suffix}.safetensors", tensors, {"attack": by.name})
        place = {name: i for i, name in enumerate(factorizations.names(comparators=True))}
        # Reused results may be of a model that isn't registered here.
        drawn = sorted(store.results, key=lambda result: place.get(result.model, len(place)))
        store.draw("figure1", True, figures.success_rates, drawn)
        if measured := [result for result in drawn if result.distances is not None]:
            store.draw("distances", True, figures.distances, measured)
        return store.results_of_named()


def planned_attacks(
    models: Sequence[str], options: AttackOptions, context: Context
) -> tuple[list[tuple[Classifier, Attack]], Images]:
    """Pairs of a model and an attack on it, and the test images."""
    context.join()
    classifiers, test = context.open(models, options)
    sources = context.without_module().open([options.source], options)[0] if options.source else classifiers
    planned = []
    for by, classifier in itertools.product(options.build_attacks(), classifiers):
        seen = classifier.replaced(**options.attacker)  # refused before anything is computed
        if by.term or by.matching:  # which not every model has
            x, y = test.head(1).batch(slice(None))
            Problem(by, seen, x, y, references=x).gradient(x)
        if by.name == "transfer":
            name = classifier.name
            others = tuple(source for source in sources if source.name != name)
            if not others and len(classifiers) > 1:
                continue  # the source is among those named
            if not others:
                raise InputError(
                    f"transfer needs another trained model than {name} itself to take its images from: name another "
                    "as source, or attack several models"
                )
            by = dataclasses.replace(by, sources=others)
        planned.append((classifier, by))
    return planned, test


def attacker_of(test: Images, options: AttackOptions, progress: Progress) -> Callable[..., AttackResult]:
    """A function that attacks a classifier with all options; it diagnoses the clean images of each classifier once."""
    diagnosed: dict[Classifier, dict] = {}
    shared = {"attacker": options.attacker, "images": options.images, "batch_size": options.batch_size}
    shared["progress"] = progress

    def attacked(classifier: Classifier, by: Attack, examples: int | None) -> AttackResult:
        checked = 0 if classifier in diagnosed else CHECKED
        result = evaluation.attack(classifier, test, options.eps, by=by, examples=examples, checked=checked, **shared)
        once = diagnosed.setdefault(classifier, {name: getattr(result, name) for name in DIAGNOSTICS})
        return dataclasses.replace(result, **once)

    return attacked
