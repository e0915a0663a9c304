"""`pyrobayes reproduce`: train, evaluate, attack and judge all seven models, and compare with what is published."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

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
from pyrobayes.options import NETWORKS, RECIPES, EvaluationOptions, Networks, Recipe, RobustnessOptions, TrainingOptions
from pyrobayes.results import figures, report
from pyrobayes.results.store import SavedReproduction, write_reproduction
from pyrobayes.training.checkpoint import CONFIG, versions
from pyrobayes.training.run_folder import check_same_config, has_run, saved_config


@dataclass(frozen=True)
class _Run:
    """A recipe for one seed, in a folder of its own."""

    recipe: Recipe
    particles: int
    seed: int
    context: Context

    @property
    def folder(self) -> Path:
        return Path(self.context.runs)

    @property
    def options(self) -> tuple[AttackOptions, EvaluationOptions, RobustnessOptions]:
        """The options of attack, evaluation and verdict."""
        shared = {"particles": self.particles, "seed": self.seed}
        records = (
            AttackOptions(images=self.recipe.attacked, eps=self.recipe.eps, **shared),
            EvaluationOptions(images=self.recipe.evaluated, **shared),
            RobustnessOptions(**self.recipe.verdict, **shared),
        )
        return tuple(map(self.context.settled, records))

    def config(self, name: str) -> tuple[Networks, TrainingOptions]:
        """The sizes of a model, and how it is trained."""
        networks = dataclasses.replace(NETWORKS[self.recipe.networks], **self.recipe.changes(name, Networks))
        changes = self.recipe.changes(name, TrainingOptions) | {"seed": self.seed}
        return networks, TrainingOptions.of(name, **changes)


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
    """Train, attack and evaluate all seven models, judge those of the recipe, draw every figure, and compare with what is published.

    Writes what the commands `train`, `attack`, `evaluate`, `robustness`, `generate` and `report` write into the folder of
    runs, or with several seeds into `seed-N` there. Where the recipe takes the published images, `reproduction.json` and
    `reproduction` compare FGSM's success rates with the published ones and the worst cases.

    Args:
        recipe: of :data:`pyrobayes.options.RECIPES`, or one of your own.
        networks: `paper`, `small`, `tiny`, `cifar` or `original`; the recipe's where left out.
        seeds: how many trainings, with seeds that count up from `seed`.
        particles: K per class, of evaluation, attack and verdict.
        images: how many test images FGSM attacks; as many as the recipe says where left out.
        resume: as elsewhere. Trainings that were begun go on in any case.
    """
    recipe = recipe if isinstance(recipe, Recipe) else RECIPES[choice("recipe", recipe, RECIPES)]
    check_integer("seeds", seeds, least=1)
    preset = choice("networks", networks or recipe.networks, NETWORKS)
    recipe = dataclasses.replace(recipe, networks=preset, attacked=recipe.attacked if images is None else images)
    folder = Path(context.runs)
    folders = {each: folder / f"seed-{each}" if seeds > 1 else folder for each in range(seed, seed + seeds)}
    runs = [
        _Run(recipe, particles, each, dataclasses.replace(context, data=recipe.data, runs=folders[each], out=None))
        for each in folders
    ]
    context.join()
    test = context.images(recipe.data, "test")
    for options in runs[0].options:
        test.head(options.images)  # refused before anything is trained
    published = recipe.data == "fashion-mnist"
    _refuse_what_is_there(folder, runs, ["reproduce"] if published and seeds == 1 else [])
    with _threads(recipe.threads):
        trained, attacks, evaluations, verdicts = map(list, zip(*(_measure(run, resume) for run in runs)))
    compared = (compare(attacks, verdicts), claims(attacks, list(folders))) if published else ([], [])
    result = Reproduction(list(folders), list(folders.values()), trained, evaluations, attacks, verdicts, *compared)
    if published and not distributed.rank():
        how = {"recipe": dataclasses.asdict(recipe), "particles": particles, "versions": versions()}
        saved = SavedReproduction(**how, **result.summary())
        write_reproduction(writable_folder(folder), saved, context.progress)
        figures.save(figures.reproduction(saved), folder / "reproduction")
    for each in dict.fromkeys([*result.folders, *([folder] if published else [])]):
        report.write(each)
    return result


def _refuse_what_is_there(folder: Path, runs: Sequence[_Run], written: Sequence[str]) -> None:
    """Refuse folders that hold something else, before the first model is trained."""
    names, elsewhere = factorizations.names(), "asked for: give another folder (runs=...)"
    if len(runs) > 1 and any(has_run(folder / name) for name in names):
        raise InputError(f"{folder} holds one training of the models, and several {elsewhere}")
    if len(runs) == 1 and any(folder.glob(f"seed-*/*/{CONFIG}")):
        raise InputError(f"{folder} holds several trainings, in seed-N each, of the models, and one {elsewhere}")
    for run in runs:
        report.refuse_damaged(run.folder, written=("evaluate", "attack", "robustness", *written))
        for name in filter(lambda name: has_run(run.folder / name), names):
            saved, (networks, training) = saved_config(run.folder / name), run.config(name)
            wanted = dataclasses.replace(saved, data=run.recipe.data, networks=networks, training=training)
            check_same_config(saved, wanted, run.folder / name)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads of PyTorch, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measure(run: _Run, resume: bool) -> tuple:
    """Train all models for a seed, attack and evaluate them, and judge those of the recipe. Figure 1 comes as early as it can, and is told."""
    trained, context = {}, run.context
    for name in factorizations.names():
        networks, training = map(vars, run.config(name))
        trained |= train([name], context, network_changes=networks, training_changes=training, resume=True)
    attacking, evaluating, judging = run.options
    attacks = attack(["all"], attacking, context, resume=resume)
    context.progress.written("Figure 1", run.folder / "figure1.png")
    evaluations = evaluate(["all"], evaluating, context, resume=resume)
    verdicts = run_verdicts(*context.open(run.recipe.judged or ["all"], judging), judging, context, resume=resume)
    for name in factorizations.names():
        if Structure.of_formula(factorizations.get(name).formula()).models_images:
            draw_samples(name, context, seed=run.seed)
    return trained, attacks, evaluations, verdicts
