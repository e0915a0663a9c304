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
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.progress import Progress
from pyrobayes.results import figures
from pyrobayes.results.registry import ResultCommand, register
from pyrobayes.results.sections import attacks_section
from pyrobayes.results.store import ResultStore, is_drawn
from pyrobayes.tensor_files import save_tensors

EXAMPLES = 32  # adversarial images that are kept, among which figure 2 finds several classes


ATTACK = register(
    ResultCommand(
        "attack",
        "attack.json",
        AttackOptions,
        AttackResult,
        done="attacked",
        section=attacks_section,
        figures=("figure1.*", "figure2-*"),
        overview="figure1",
        beside="adversarial-*.safetensors",
    )
)


def attack(
    models: Sequence[str] = (),
    options: AttackOptions = AttackOptions(),
    context: Context = Context(),
    *,
    save_adversarial: bool = False,
    resume: bool = False,
) -> list[AttackResult]:
    """Attack trained models; writes `attack.json`, `figure1` and a `figure2-MODEL` each (PDF and PNG).

    With several attacks, figure 1 has a panel for each, and figure 2 is `figure2-MODEL-ATTACK`.

    Args:
        models: their names, in any case; every trained model where left out.
        options: see :class:`pyrobayes.AttackOptions`.
        context: where the models are, and where results go.
        save_adversarial: write all adversarial images to `adversarial-MODEL.safetensors` (`-MODEL-ATTACK`) too.
        resume: reuse results of an earlier run that have the same options, versions, data and weights. Attacks by transfer
            are made anew, since they depend on other models too.
    """
    if resume and save_adversarial:
        raise InputError("reused results have no adversarial images: leave resume or save-adversarial out")
    planned, test = planned_attacks(models, options, context)
    attacked, examples = attacker_of(test, options, context.progress), None if save_adversarial else EXAMPLES
    trained = context.provenance(classifier for _, classifier in planned)
    units = [(classifier.factorization.name, by.name) for by, classifier in planned]

    def is_reusable(result: AttackResult) -> bool:
        """Figure 2 shows images that the file lacks, so a result without it is made again."""
        figure2 = context.results / f"figure2-{options.file_suffix(result.model, result.attack)}"
        return result.attack != "transfer" and is_drawn(figure2)

    given = (ATTACK, context.results, options, test, trained, units)
    with ResultStore(*given, resume=resume, reusable=is_reusable, progress=context.progress) as store:
        for by, classifier in planned:
            name = classifier.factorization.name
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
        return store.results_of_named()


def planned_attacks(
    models: Sequence[str], options: AttackOptions, context: Context
) -> tuple[list[tuple[Attack, BayesClassifier]], Images]:
    """Pairs of an attack and the model that it attacks, and the test images."""
    context.join()
    classifiers, test = context.open(models, options)
    sources = context.open([options.source], options)[0] if options.source else classifiers
    planned = []
    for by, classifier in itertools.product(options.build_attacks(), classifiers):
        seen = classifier.replaced(**options.attacker)  # refused before anything is computed
        if by.term or by.matching:  # which not every model has
            x, y = test.head(1).batch(slice(None))
            Problem(by, seen, x, y, references=x).gradient(x)
        if by.name == "transfer":
            name = classifier.factorization.name
            others = tuple(source for source in sources if source.factorization.name != name)
            if not others and len(classifiers) > 1:
                continue  # the source is among those named
            if not others:
                raise InputError(
                    f"transfer needs another trained model than {name} itself to take its images from: name another "
                    "as source, or attack several models"
                )
            by = dataclasses.replace(by, sources=others)
        planned.append((by, classifier))
    return planned, test


def attacker_of(test: Images, options: AttackOptions, progress: Progress) -> Callable[..., AttackResult]:
    """Attacks a classifier with all options; what noise and approximations change of clean images is looked at once."""
    looked_at: dict[BayesClassifier, dict] = {}

    def attacked(classifier: BayesClassifier, by: Attack, examples: int | None) -> AttackResult:
        result = evaluation.attack(
            classifier,
            test,
            options.eps,
            by=by,
            attacker=options.attacker,
            images=options.images,
            batch_size=options.batch_size,
            examples=examples,
            progress=progress,
            checked=0 if classifier in looked_at else CHECKED,
        )
        once = looked_at.setdefault(classifier, {name: getattr(result, name) for name in DIAGNOSTICS})
        return dataclasses.replace(result, **once)

    return attacked
