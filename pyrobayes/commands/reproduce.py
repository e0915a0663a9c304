"""`pyrobayes reproduce`: train, evaluate, attack and judge all seven models, and compare with what is published."""

import dataclasses
import os
from pathlib import Path

from pyrobayes import distributed, factorizations
from pyrobayes.attacks.attack_options import AttackOptions
from pyrobayes.commands import context
from pyrobayes.commands.attack import attack
from pyrobayes.commands.context import open_runs
from pyrobayes.commands.evaluate import evaluate
from pyrobayes.commands.generate import draw_samples
from pyrobayes.commands.robustness import run_verdicts
from pyrobayes.commands.train import train
from pyrobayes.commands.writing import result_folder
from pyrobayes.errors import InputError, check_integer, choice
from pyrobayes.evaluation.reproduction import Reproduction, claims, compare
from pyrobayes.factorizations import parse_formula
from pyrobayes.options import (
    NETWORKS,
    RECIPES,
    EvaluationOptions,
    Networks,
    Recipe,
    RobustnessOptions,
    TrainingOptions,
)
from pyrobayes.progress import Progress, silent
from pyrobayes.results import figures, report
from pyrobayes.results.store import SavedReproduction, write_reproduction
from pyrobayes.training.checkpoint import CONFIG, choose_device, versions
from pyrobayes.training.run_folder import check_same_config, has_run, saved_config


def reproduce(
    recipe: str | Recipe = "own",
    *,
    networks: str | None = None,
    seeds: int = 1,
    seed: int = 0,
    particles: int = 10,
    images: int | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    device: str = "auto",
    progress: Progress = silent,
) -> Reproduction:
    """Train, evaluate, attack and judge all seven models, draw every figure, and compare with what is published.

    Writes what :func:`train`, :func:`evaluate`, :func:`attack`, :func:`robustness` and :func:`draw_samples` write, and a report, into `runs`, or
    with several seeds into `runs/seed-N` each; and into `runs`, where the recipe takes the published images,
    `reproduction.json` and `reproduction` (PDF and PNG): success rates of FGSM with the published ones and the worst cases, and
    a report of them. What an earlier run left, of the same options, versions, data and weights, is not made again.

    Args:
        recipe: of :data:`pyrobayes.options.RECIPES`, or one of your own.
        networks: `paper` or `small`; the recipe's where left out.
        seeds: how many trainings, with seeds that count up from `seed`.
        particles: K per class, of evaluation, attack and verdict.
        images: how many test images FGSM attacks; as many as the recipe says where left out.
    """
    recipe = recipe if isinstance(recipe, Recipe) else RECIPES[choice("recipe", recipe, RECIPES)]
    check_integer("seeds", seeds, least=1)
    recipe = recipe if images is None else dataclasses.replace(recipe, attacked=images)
    counted = range(seed, seed + seeds)
    evaluated = [EvaluationOptions(particles=particles, images=recipe.evaluated, seed=each) for each in counted]
    attacked = [
        AttackOptions(particles=particles, images=recipe.attacked, seed=each, eps=recipe.eps) for each in counted
    ]
    judged = [RobustnessOptions(particles=particles, seed=each, **recipe.verdict) for each in counted]
    where = {"data_dir": data_dir, "device": device}
    folders = [Path(runs) / f"seed-{each}" if seeds > 1 else Path(runs) for each in counted]
    names, preset = factorizations.names(), choice("networks", networks or recipe.networks, NETWORKS)
    elsewhere = "asked for: give another folder (--runs)"
    if seeds > 1 and any(has_run(Path(runs) / name) for name in names):
        raise InputError(f"{runs} holds one training of the models, and several {elsewhere}")
    if seeds == 1 and any(Path(runs).glob(f"seed-*/*/{CONFIG}")):
        raise InputError(f"{runs} holds several trainings, in seed-N each, of the models, and one {elsewhere}")
    known = recipe.data == "fashion-mnist"  # what is published is of it
    distributed.join(choose_device(device))
    test = context.load_split(recipe.data, "test", data_dir)
    for few in (recipe.evaluated, recipe.attacked, judged[0].images):
        test.head(few)
    for each, folder in zip(counted, folders):  # refuse before the first is trained, not after hours
        here = ("reproduce",) if known and seeds == 1 else ()
        report.refuse_damaged(folder, written=("evaluate", "attack", "robustness", *here))
        for name in names:
            if has_run(folder / name):
                wanted = dataclasses.replace(
                    saved := saved_config(folder / name),
                    data=recipe.data,
                    networks=dataclasses.replace(NETWORKS[preset], **recipe.changes(name, Networks)),
                    training=TrainingOptions.of(name, **recipe.changes(name, TrainingOptions) | {"seed": each}),
                )
                check_same_config(saved, wanted, folder / name)
    trained = [
        {
            name: train(
                [name],
                networks=preset,
                network_changes=recipe.changes(name, Networks),
                training_changes=recipe.changes(name, TrainingOptions) | {"seed": each},
                data=recipe.data,
                runs=folder,
                resume=True,
                progress=progress,
                **where,
            )[name]
            for name in names
        }
        for each, folder in zip(counted, folders)
    ]
    where |= {"data": recipe.data, "resume": True, "progress": progress}
    evaluations = [evaluate(["all"], options, runs=folder, **where) for options, folder in zip(evaluated, folders)]
    attacks = [attack(["all"], options, runs=folder, **where) for options, folder in zip(attacked, folders)]
    verdicts = []
    for options, folder in zip(judged, folders):
        opened = open_runs(["all"], options, data=recipe.data, data_dir=data_dir, runs=folder, device=device)
        verdicts.append(run_verdicts(*opened, options, data_dir, folder, None, device, progress, resume=True))
    for each, folder in zip(counted, folders):
        for name in names:
            if parse_formula(factorizations.get(name).formula())["x"]:
                draw_samples(name, seed=each, runs=folder, data_dir=data_dir, device=device)
    result = Reproduction(
        list(counted),
        folders,
        trained,
        evaluations,
        attacks,
        verdicts,
        compare(attacks, verdicts) if known else [],
        claims(attacks, counted) if known else [],
    )
    if known and (folder := result_folder(runs)):
        how = dataclasses.asdict(recipe) | {"networks": preset}
        saved = SavedReproduction(recipe=how, particles=particles, versions=versions(), **result.summary())
        write_reproduction(folder, saved)
        figures.save(figures.reproduction(saved), folder / "reproduction")
    for folder in dict.fromkeys([*folders, *([Path(runs)] if known else [])]):
        report.write(folder)
    return result
