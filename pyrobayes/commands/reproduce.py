"""`pyrobayes reproduce`: train, evaluate, attack and judge all seven models, and compare with what is published."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pyrobayes import distributed, factorizations
from pyrobayes.attacks.attack_options import AttackOptions
from pyrobayes.commands.attack import attack
from pyrobayes.commands.context import Context
from pyrobayes.commands.evaluate import evaluate
from pyrobayes.commands.generate import draw_samples
from pyrobayes.commands.robustness import run_verdicts
from pyrobayes.commands.train import train
from pyrobayes.errors import InputError, check_integer, choice
from pyrobayes.evaluation.reproduction import Reproduction, claims, compare
from pyrobayes.factorizations import Structure
from pyrobayes.files import writable_folder
from pyrobayes.options import (
    NETWORKS,
    RECIPES,
    EvaluationOptions,
    Networks,
    Recipe,
    RobustnessOptions,
    TrainingOptions,
)
from pyrobayes.results import figures, report
from pyrobayes.results.store import SavedReproduction, write_reproduction
from pyrobayes.training.checkpoint import CONFIG, versions
from pyrobayes.training.metrics import Epoch
from pyrobayes.training.run_folder import check_same_config, has_run, saved_config


@dataclass(frozen=True)
class _Plan:
    """A recipe to train and measure, for every seed in a folder of its own."""

    recipe: Recipe
    preset: str
    particles: int
    seeds: range
    context: Context

    @property
    def folders(self) -> list[Path]:
        runs = Path(self.context.runs)
        return [runs / f"seed-{seed}" if len(self.seeds) > 1 else runs for seed in self.seeds]

    @property
    def contexts(self) -> list[Context]:
        """The context of each seed."""
        changes = {"data": self.recipe.data, "out": None}
        return [dataclasses.replace(self.context, runs=folder, **changes) for folder in self.folders]

    @property
    def published(self) -> bool:
        """True if there are published results to compare with."""
        return self.recipe.data == "fashion-mnist"

    def options(self, kind: type, **fields) -> list:
        """Options of a command for each seed."""
        return [kind(particles=self.particles, seed=seed, **fields) for seed in self.seeds]

    def networks(self, name: str) -> Networks:
        return dataclasses.replace(NETWORKS[self.preset], **self.recipe.changes(name, Networks))

    def training(self, name: str, seed: int) -> dict:
        """Fields of a model's training options that differ from its own."""
        return self.recipe.changes(name, TrainingOptions) | {"seed": seed}


def reproduce(
    recipe: str | Recipe = "own",
    context: Context = Context(),
    *,
    networks: str | None = None,
    seeds: int = 1,
    seed: int = 0,
    particles: int = 10,
    images: int | None = None,
    resume: bool = True,
) -> Reproduction:
    """Train, evaluate, attack and judge all seven models, draw every figure, and compare with what is published.

    Writes what the commands `train`, `evaluate`, `attack`, `robustness`, `generate` and `report` write into the folder of
    runs, or with several seeds into `seed-N` there. Where the recipe takes the published images, `reproduction.json` and
    `reproduction` (PDF and PNG) compare FGSM's success rates with the published ones and the worst cases.

    Args:
        recipe: of :data:`pyrobayes.options.RECIPES`, or one of your own.
        context: the folder of runs, the cache of data sets and the device.
        networks: `paper` or `small`; the recipe's where left out.
        seeds: how many trainings, with seeds that count up from `seed`.
        particles: K per class, of evaluation, attack and verdict.
        images: how many test images FGSM attacks; as many as the recipe says where left out.
        resume: reuse results of an earlier run that have the same options, versions, data and weights. Trainings that were
            begun go on in any case.
    """
    recipe = recipe if isinstance(recipe, Recipe) else RECIPES[choice("recipe", recipe, RECIPES)]
    check_integer("seeds", seeds, least=1)
    recipe = recipe if images is None else dataclasses.replace(recipe, attacked=images)
    preset = choice("networks", networks or recipe.networks, NETWORKS)
    plan = _Plan(recipe, preset, particles, range(seed, seed + seeds), context)
    judged = plan.options(RobustnessOptions, **recipe.verdict)
    context.join()
    test = context.images(recipe.data, "test")
    for few in (recipe.evaluated, recipe.attacked, judged[0].images):
        test.head(few)
    _refuse_what_is_there(plan)
    trained = [_train(plan, *each) for each in zip(plan.contexts, plan.seeds)]
    evaluated = zip(plan.options(EvaluationOptions, images=recipe.evaluated), plan.contexts)
    evaluations = [evaluate(["all"], *each, resume=resume) for each in evaluated]
    attacked = zip(plan.options(AttackOptions, images=recipe.attacked, eps=recipe.eps), plan.contexts)
    attacks = [attack(["all"], *each, resume=resume) for each in attacked]
    verdicts = [
        run_verdicts(*where.open(["all"], options), options, where, resume=resume)
        for options, where in zip(judged, plan.contexts)
    ]
    for where, each in zip(plan.contexts, plan.seeds):
        for name in factorizations.names():
            if Structure.of_formula(factorizations.get(name).formula()).models_images:
                draw_samples(name, where, seed=each)
    compared = (compare(attacks, verdicts), claims(attacks, plan.seeds)) if plan.published else ([], [])
    result = Reproduction(list(plan.seeds), plan.folders, trained, evaluations, attacks, verdicts, *compared)
    _write(plan, result)
    return result


def _refuse_what_is_there(plan: _Plan) -> None:
    """Refuse folders that hold something else, before the first model is trained."""
    runs, names = Path(plan.context.runs), factorizations.names()
    elsewhere = "asked for: give another folder (--runs)"
    if len(plan.seeds) > 1 and any(has_run(runs / name) for name in names):
        raise InputError(f"{runs} holds one training of the models, and several {elsewhere}")
    if len(plan.seeds) == 1 and any(runs.glob(f"seed-*/*/{CONFIG}")):
        raise InputError(f"{runs} holds several trainings, in seed-N each, of the models, and one {elsewhere}")
    for seed, folder in zip(plan.seeds, plan.folders):
        here = ("reproduce",) if plan.published and len(plan.seeds) == 1 else ()
        report.refuse_damaged(folder, written=("evaluate", "attack", "robustness", *here))
        for name in filter(lambda name: has_run(folder / name), names):
            saved = saved_config(folder / name)
            training = TrainingOptions.of(name, **plan.training(name, seed))
            changes = {"data": plan.recipe.data, "networks": plan.networks(name), "training": training}
            check_same_config(saved, dataclasses.replace(saved, **changes), folder / name)


def _train(plan: _Plan, context: Context, seed: int) -> dict[str, list[Epoch]]:
    """Train all models for a seed, or go on with their trainings."""
    trained = {}
    for name in factorizations.names():
        trained |= train(
            [name],
            context,
            networks=plan.preset,
            network_changes=plan.recipe.changes(name, Networks),
            training_changes=plan.training(name, seed),
            resume=True,
        )
    return trained


def _write(plan: _Plan, result: Reproduction) -> None:
    """Write the comparison with what is published, and the reports."""
    runs = Path(plan.context.runs)
    if plan.published and not distributed.rank():
        how = dataclasses.asdict(plan.recipe) | {"networks": plan.preset}
        saved = SavedReproduction(recipe=how, particles=plan.particles, versions=versions(), **result.summary())
        write_reproduction(writable_folder(runs), saved)
        figures.save(figures.reproduction(saved), runs / "reproduction")
    for folder in dict.fromkeys([*plan.folders, *([runs] if plan.published else [])]):
        report.write(folder)
