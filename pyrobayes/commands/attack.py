"""`pyrobayes attack`: attack trained models."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence

import torch

from pyrobayes import distributed, evaluation, factorizations
from pyrobayes.attacks import Attack
from pyrobayes.attacks.attack_options import AttackOptions
from pyrobayes.attacks.problem import Problem
from pyrobayes.commands.context import open_runs, read_provenance
from pyrobayes.commands.writing import draw, is_drawn, results_in, reusable_results, writing
from pyrobayes.data.images import Images
from pyrobayes.errors import InputError
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.diagnostics import CHECKED, DIAGNOSTICS
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.progress import Progress, silent
from pyrobayes.results import figures
from pyrobayes.results.store import ResultsFile
from pyrobayes.tensor_files import save_tensors
from pyrobayes.training.checkpoint import choose_device

EXAMPLES = 32  # adversarial images that are kept, among which figure 2 finds several classes


def attack(
    models: Sequence[str] = (),
    options: AttackOptions = AttackOptions(),
    *,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    out: str | os.PathLike | None = None,
    device: str = "auto",
    save_adversarial: bool = False,
    resume: bool = False,
    progress: Progress = silent,
) -> list[AttackResult]:
    """Attack trained models; writes `attack.json`, `figure1` and one `figure2-MODEL` each (PDF and PNG) to `out`.

    With several attacks, figure 1 has a panel for each, and figure 2 is `figure2-MODEL-ATTACK`. An earlier `attack.json`, of other models, weights,
    data or options, is kept there as `attack.1.json` and so on; so it is with the results of the other commands.

    Args:
        models: their names, in any case; every trained model under `runs` where left out.
        options: see :class:`pyrobayes.AttackOptions`.
        data: the data set to attack on: the one that the models were trained on, or a subset of it. Where left out, the
            former, and the embedded subset for those that come with the package.
        runs: the folder of the trained models; `pyrobayes.options.PRETRAINED` for those that come with the package.
        out: folder for the results; where left out `runs`, also for those that come with the package.
        save_adversarial: write all adversarial images to `adversarial-MODEL.safetensors` (`-MODEL-ATTACK`) too.
        resume: keep the results that an earlier, interrupted run left there, if they are of the same options, versions,
            data and weights, those of other models too; attacks by transfer are made anew.
    """
    if resume and save_adversarial:
        raise InputError(
            "results that are kept have no adversarial images any more: leave resume or save-adversarial out"
        )
    planned, test = planned_attacks(models, options, data=data, data_dir=data_dir, runs=runs, device=device)
    named = read_provenance((each for _, each in planned), runs)
    with writing("attack", out, runs) as folder:
        kept, beside = reusable_results("attack", options, test, named, results_in(out, runs)) if resume else ([], {})
        trained = named | beside
        found = dict.fromkeys((by.name, classifier.factorization.name) for by, classifier in planned)
        # What transfers is of the other models too, which may be others now.
        found |= {
            (each.attack, each.model): each
            for each in kept
            if each.model in beside
            or each.attack != "transfer"
            and is_drawn(results_in(out, runs) / f"figure2-{options.file_suffix(each.model, each.attack)}")
        }
        file = ResultsFile(folder, "attack", options, test, trained, resume) if folder else None
        attacked, examples = attacker_of(test, options, progress), None if save_adversarial else EXAMPLES
        for by, classifier in planned:
            if found[by.name, classifier.factorization.name]:
                continue
            result = attacked(classifier, by, examples)
            suffix = options.file_suffix(result.model, result.attack)
            found[result.attack, result.model] = dataclasses.replace(
                result, examples=result.examples[:, :EXAMPLES].clone()
            )
            if file:
                file.write(filter(None, found.values()))
                figures.remove(folder / "figure1")  # until it is drawn of all that there are now
                draw(folder / f"figure2-{suffix}", figures.adversarial_examples, result, test.classes)
            if folder and save_adversarial:
                labels = test.head(options.images).labels
                tensors = {"adversarial": result.examples, "labels": labels, "eps": torch.tensor(result.eps)}
                save_tensors(folder / f"adversarial-{suffix}.safetensors", tensors, {"attack": result.attack})
        results = list(found.values())
        if folder:
            place = {name: i for i, name in enumerate(factorizations.names(comparators=True))}
            # What was kept may be of a model that isn't registered here.
            drawn = sorted(results, key=lambda result: place.get(result.model, len(place)))
            figures.save(figures.success_rates(drawn), folder / "figure1")
        return [result for result in results if result.model in named]


def planned_attacks(
    models: Sequence[str], options: AttackOptions, **where
) -> tuple[list[tuple[Attack, BayesClassifier]], Images]:
    """Which attack on which model, and the test images; `where` is of :func:`open_runs`."""
    distributed.join(choose_device(where["device"]))
    classifiers, test = open_runs(models, options, **where)
    sources = open_runs([options.source], options, **where)[0] if options.source else classifiers
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
