"""A folder of runs, one folder a model: train them, find them, attack and evaluate them together."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from pyrobayes import attacks, distributed, evaluation, factorizations
from pyrobayes.attacks import Attack, Problem
from pyrobayes.data.images import Images
from pyrobayes.data.sources import load_data
from pyrobayes.errors import InputError, check_integer, choice
from pyrobayes.evaluation import detection
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.evaluation.detection import Detection, Detector, fit_detector
from pyrobayes.evaluation.diagnostics import CHECKED, DIAGNOSTICS
from pyrobayes.evaluation.reproduction import Reproduction, claims, compare
from pyrobayes.evaluation.robustness.verdict import ResultCache, Verdict, assess
from pyrobayes.factorizations import parse_formula
from pyrobayes.files import locked, writable_folder
from pyrobayes.inference import generation
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.options import (
    DATASETS,
    DETECTION_TESTS,
    MINI,
    NETWORKS,
    OF_ATTACKS,
    PRETRAINED,
    RECIPES,
    SUBSETS,
    AttackOptions,
    DetectionOptions,
    EvaluationOptions,
    Networks,
    Recipe,
    RobustnessOptions,
    TrainingOptions,
)
from pyrobayes.progress import Progress, silent
from pyrobayes.results import figures, report
from pyrobayes.results.store import FILES, Provenance, ResultsFile, earlier, read_reproduction, write_reproduction
from pyrobayes.training.checkpoint import CONFIG, MODEL, Config, choose_device, load, save_tensors, versions
from pyrobayes.training.fit import Epoch, adversarial_eps, begun, check_no_run, check_same_config, fit, saved_config

PARTS = "robustness-parts"
RESUMED = ("attack", "evaluate")  # commands that keep what an earlier run left, where they are asked to
TRANSFERRING = ("dfx", "cnn")  # decode nothing
EXAMPLES = 32  # adversarial images that are kept, among which figure 2 finds several classes


def train(
    models: Sequence[str],
    *,
    networks: str | None = None,
    network_changes: dict | None = None,
    training_changes: dict | None = None,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    progress: Progress = silent,
) -> dict[str, list[Epoch]]:
    """Train models, each into a folder of its own under `runs`.

    Args:
        models: their names, in any case; `all` stands for the seven, and comparators may be named beside it.
        networks: `paper` (where left out) or `small`.
        network_changes: fields of :class:`pyrobayes.Networks` that differ from that.
        training_changes: fields of :class:`pyrobayes.TrainingOptions` that differ from the model's own.
        data: the data set; `fashion-mnist` where left out.
        data_dir: see :func:`pyrobayes.load_data`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        resume: go on with the runs that were begun, with the configuration they were begun with, from which what is
            given here must not differ; start the others.
        overwrite, tensorboard, progress: see :func:`pyrobayes.fit`.
    """
    names = _names(models)
    chosen, folder = choose_device(device), Path(runs)
    network_changes, training_changes = network_changes or {}, training_changes or {}
    preset = NETWORKS[choice("networks", networks, NETWORKS)] if networks else None
    sizes = dataclasses.replace(preset or NETWORKS["paper"], **network_changes)
    data = choice("data set", data, DATASETS) if data else None
    saved = {}
    for name in names:  # refuse before the first is trained, not after hours
        adversarial_eps(factorizations.get(name), TrainingOptions.of(name, **training_changes))
        if not begun(folder / name) or overwrite:
            continue
        if not resume:
            check_no_run(folder / name)
        saved[name] = there = saved_config(folder / name)
        wanted = dataclasses.replace(
            there,
            data=data or there.data,
            networks=dataclasses.replace(preset or there.networks, **network_changes),
            training=dataclasses.replace(there.training, **training_changes),
        )
        check_same_config(there, wanted, folder / name)
    images: dict[str, Images] = {}
    trained = {}
    distributed.join(chosen)
    for name in names:
        source = saved[name].data if name in saved else data or "fashion-mnist"
        if source not in images:
            images[source] = _load_data(source, "train", data_dir)
        options = TrainingOptions.of(name, **training_changes)
        config = saved.get(name) or Config.of(name, sizes, images[source], options)
        trained[name] = fit(
            config.build().to(chosen),
            images[source],
            config.training,
            out=folder / name,
            resume=name in saved,
            overwrite=overwrite,
            tensorboard=tensorboard,
            progress=progress,
        )
    return trained


def _load_data(name: str, split: str, data_dir: str | os.PathLike | None) -> Images:
    """The first process of a machine fills the cache; the others find it there."""
    with distributed.first_alone():
        return load_data(name, split, data_dir)


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
    planned, test = _planned(models, options, data=data, data_dir=data_dir, runs=runs, device=device)
    named = read_provenance((each for _, each in planned), runs)
    with _writing("attack", out, runs) as folder:
        kept, beside = _kept("attack", options, test, named, _results_in(out, runs)) if resume else ([], {})
        trained = named | beside
        found = dict.fromkeys((by.name, classifier.factorization.name) for by, classifier in planned)
        # What transfers is of the other models too, which may be others now.
        found |= {
            (each.attack, each.model): each
            for each in kept
            if each.model in beside
            or each.attack != "transfer"
            and _is_drawn(_results_in(out, runs) / f"figure2-{options.which(each.model, each.attack)}")
        }
        file = ResultsFile(folder, "attack", options, test, trained, resume) if folder else None
        attacked, examples = _attacking(test, options, progress), None if save_adversarial else EXAMPLES
        for by, classifier in planned:
            if found[by.name, classifier.factorization.name]:
                continue
            result = attacked(classifier, by, examples)
            which = options.which(result.model, result.attack)
            found[result.attack, result.model] = dataclasses.replace(
                result, examples=result.examples[:, :EXAMPLES].clone()
            )
            if file:
                file.write(filter(None, found.values()))
                figures.remove(folder / "figure1")  # until it is drawn of all that there are now
                _draw(folder / f"figure2-{which}", figures.adversarial_examples, result, test.classes)
            if folder and save_adversarial:
                labels = test.head(options.images).labels
                tensors = {"adversarial": result.examples, "labels": labels, "eps": torch.tensor(result.eps)}
                save_tensors(folder / f"adversarial-{which}.safetensors", tensors, {"attack": result.attack})
        results = list(found.values())
        if folder:
            place = {name: i for i, name in enumerate(factorizations.names(comparators=True))}
            # What was kept may be of a model that isn't registered here.
            drawn = sorted(results, key=lambda result: place.get(result.model, len(place)))
            figures.save(figures.success_rates(drawn), folder / "figure1")
        return [result for result in results if result.model in named]


def detect(
    models: Sequence[str] = (),
    options: DetectionOptions = DetectionOptions(),
    *,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    out: str | os.PathLike | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> list[Detection]:
    """Fit the tests of trained models that reject adversarial images, and attack models and tests.

    Writes `detection.json` and one `detection-MODEL` each (PDF and PNG; `-MODEL-ATTACK` with several attacks) to `out`.

    Args:
        options: see :class:`pyrobayes.options.DetectionOptions`. For every evade weight each attack is made again
            against every test, as the strongest of Li et al. (2019): on all particles at once (`snapshot`), with the
            weighted statistic of the test taken off the loss.

    The other arguments are those of :func:`attack`.
    """
    planned, test = _planned(models, options, data=data, data_dir=data_dir, runs=runs, device=device)
    if options.evade_weight and options.prune is not None:
        raise InputError("evade weight attacks all particles of every class: leave prune out")
    for by, _ in planned if options.evade_weight else ():
        dataclasses.replace(by, snapshot=True, evade=len)  # refused before anything is fitted
    trained, training = read_provenance((each for _, each in planned), runs), _load_data(test.name, "train", data_dir)
    with _writing("detect", out, runs) as folder:
        detectors = {
            classifier: fit_detector(
                classifier,
                training,
                false_alarms=options.false_alarms,
                images=min(options.train_images, len(training)),
                batch_size=options.batch_size,
                progress=progress,
            )
            for classifier in dict.fromkeys(classifier for _, classifier in planned)
        }

        def against(by: Attack, detector: Detector) -> list[tuple[Sequence[str], Attack]]:
            """The attack, with all tests, and those on each test besides."""
            weighted = itertools.product(DETECTION_TESTS, options.evade_weight)
            return [(DETECTION_TESTS, by)] + [
                ((test,), dataclasses.replace(by, snapshot=True, evade=detector.evading(test), evade_weight=weight))
                for test, weight in weighted
            ]

        # All are made before the first attack.
        attacks_on = [(classifier, against(by, detectors[classifier])) for by, classifier in planned]
        results: list[Detection] = []
        attacked = _attacking(test, options, progress)
        file = ResultsFile(folder, "detect", options, test, trained) if folder else None
        for classifier, chosen in attacks_on:
            detector, found = detectors[classifier], []
            models_images = classifier.factorization.models_images
            for tests, by in chosen:
                result = attacked(classifier, by, 0)
                found += [detection.detect(detector, result, name, models_images=models_images) for name in tests]
            results += found
            if file:
                file.write(results)
                _draw(folder / f"detection-{options.which(result.model, result.attack)}", figures.detection, found)
        return results


def robustness(
    models: Sequence[str] = (),
    options: RobustnessOptions = RobustnessOptions(),
    *,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    out: str | os.PathLike | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> list[Verdict]:
    """Reach a verdict on the robustness of trained models; the others serve as sources of attacks by transfer.

    Writes `robustness.json`, one `robustness-MODEL` each (PDF and PNG), `robustness` of several, and a report (see :mod:`pyrobayes.results.report`) to `out`.
    An earlier `robustness.json`, of other models, weights, data or options, is kept there as `robustness.1.json` and so on.
    What has been computed is kept in `out/robustness-parts` until all is done, so that an interrupted run goes on where it
    stopped.

    Args:
        options: see :class:`pyrobayes.options.RobustnessOptions`.

    The other arguments are those of :func:`attack`.
    """
    distributed.join(choose_device(device))
    classifiers, test = open_runs(models, options, data=data, data_dir=data_dir, runs=runs, device=device)
    folder = _result_folder(_results_in(out, runs))
    if folder:
        report.refuse_damaged(folder, written=("robustness",))
    results = _judged(classifiers, test, options, data_dir, runs, out, device, progress)
    if folder:
        report.write(folder, runs)
    return results


def _judged(
    classifiers, test: Images, options, data_dir, runs, out, device, progress, resume: bool = False
) -> list[Verdict]:
    """Verdicts on opened models, written without a report; with `resume` those that are there, and on all of them, are kept."""
    kept = _results_in(out, runs) / PARTS
    with _writing("robustness", out, runs) as folder:
        trained = read_provenance(classifiers, runs)
        known, _ = _kept("robustness", options, test, trained, _results_in(out, runs)) if resume else ([], {})
        known = [verdict for verdict in known if verdict.model in trained]
        # A verdict is of the other models too: all are kept or none. Of those that were interrupted the parts are there.
        results = known if len(known) == len(classifiers) else []
        _draw_missing(folder, "robustness", results, figures.robustness)
        training, parts = _load_data(test.name, "train", data_dir), ResultCache(kept)
        file = ResultsFile(folder, "robustness", options, test, trained) if folder else None
        for classifier in classifiers[len(results) :]:
            others = [other for other in classifiers if other is not classifier]
            others = others or _another(classifier.factorization.name, options, test, data_dir, runs, device)
            try:
                verdict = assess(classifier, test, training, options, sources=others, parts=parts, progress=progress)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"interrupted; what was computed is kept in {kept}, and the same command goes on from there"
                ) from None
            results.append(verdict)
            if file:
                file.write(results)
                figures.remove(folder / "robustness")  # until it is drawn of all that there are now
                _draw(folder / f"robustness-{verdict.model}", figures.robustness, verdict)
        distributed.wait_for_all()  # before what the others may still read is removed
        if folder:
            if len(results) > 1:
                figures.save(figures.worst_cases(results), folder / "robustness")
            parts.remove()
    return results


def _another(
    name: str, options: RobustnessOptions, test: Images, data_dir, runs: str | os.PathLike, device: str
) -> list[BayesClassifier]:
    """A model trained beside the one of this name, on the same data, whose images cost little: for attacks by transfer."""
    folder = Path(runs)
    for other in TRANSFERRING:
        if other == name or not _is_trained(folder / other):
            continue
        if Config.read(folder / other).data_sha256 == Config.read(folder / name).data_sha256:
            return open_runs([other], options, data=test.name, data_dir=data_dir, runs=runs, device=device)[0]
    return []


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
    if seeds > 1 and any(begun(Path(runs) / name) for name in names):
        raise InputError(f"{runs} holds one training of the models, and several {elsewhere}")
    if seeds == 1 and any(Path(runs).glob(f"seed-*/*/{CONFIG}")):
        raise InputError(f"{runs} holds several trainings, in seed-N each, of the models, and one {elsewhere}")
    known = recipe.data == "fashion-mnist"  # what is published is of it
    distributed.join(choose_device(device))
    test = _load_data(recipe.data, "test", data_dir)
    for few in (recipe.evaluated, recipe.attacked, judged[0].images):
        test.head(few)
    for each, folder in zip(counted, folders):  # refuse before the first is trained, not after hours
        here = ("reproduce",) if known and seeds == 1 else ()
        report.refuse_damaged(folder, written=("evaluate", "attack", "robustness", *here))
        for name in names:
            if begun(folder / name):
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
        verdicts.append(_judged(*opened, options, data_dir, folder, None, device, progress, resume=True))
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
    if known and (folder := _result_folder(runs)):
        how = {"recipe": dataclasses.asdict(recipe) | {"networks": preset}, "particles": particles}
        write_reproduction(folder, how | result.as_dict() | {"versions": versions()})
        figures.save(figures.reproduction(read_reproduction(folder)), folder / "reproduction")
    for folder in dict.fromkeys([*folders, *([Path(runs)] if known else [])]):
        report.write(folder)
    return result


def _planned(
    models: Sequence[str], options: AttackOptions, **where
) -> tuple[list[tuple[Attack, BayesClassifier]], Images]:
    """Which attack on which model, and the test images; `where` is of :func:`open_runs`."""
    chosen = chosen_attacks(options)
    distributed.join(choose_device(where["device"]))
    classifiers, test = open_runs(models, options, **where)
    sources = open_runs([options.source], options, **where)[0] if options.source else classifiers
    planned = []
    for by, classifier in itertools.product(chosen, classifiers):
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


def _attacking(test: Images, options: AttackOptions, progress: Progress) -> Callable[..., AttackResult]:
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


def chosen_attacks(options: AttackOptions) -> list[Attack]:
    """The attacks, each with those of the options that it has."""
    common = {name: getattr(options, name) for name in ("term", "snapshot", "target", "eot", "seed")}
    own = {name: getattr(options, name) for name in ("norm", "loss", *OF_ATTACKS) if name != "source"}
    given = common | {name: value for name, value in own.items() if value is not None}
    return [
        attacks.get(name, **{option: value for option, value in given.items() if option in attacks.options(name)})
        for name in options.attack
    ]


def evaluate(
    models: Sequence[str] = (),
    options: EvaluationOptions = EvaluationOptions(),
    *,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    out: str | os.PathLike | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: Progress = silent,
) -> list[Evaluation]:
    """Evaluate trained models; writes `evaluation.json` and one `confusion-MODEL` each (PDF and PNG) to `out`.

    The arguments are those of :func:`attack`.
    """
    distributed.join(choose_device(device))
    classifiers, test = open_runs(models, options, data=data, data_dir=data_dir, runs=runs, device=device)
    named = read_provenance(classifiers, runs)
    with _writing("evaluate", out, runs) as folder:
        kept, beside = _kept("evaluate", options, test, named, _results_in(out, runs)) if resume else ([], {})
        trained = named | beside
        found = dict.fromkeys(named) | {result.model: result for result in kept}
        file = ResultsFile(folder, "evaluate", options, test, trained, resume) if folder else None
        _draw_missing(folder, "confusion", kept, figures.confusion_matrix, test.classes)
        for classifier in classifiers:
            if found[classifier.factorization.name]:
                continue
            result = evaluation.evaluate(
                classifier, test, images=options.images, batch_size=options.batch_size, progress=progress
            )
            found[result.model] = result
            if file:
                file.write(filter(None, found.values()))
                _draw(folder / f"confusion-{result.model}", figures.confusion_matrix, result, test.classes)
        return [found[name] for name in named]


def _draw(path: Path, drawn: Callable[..., Figure], *given) -> None:
    """Draw a figure in place of one that may be of earlier results, and isn't left beside others if this one fails."""
    figures.remove(path)
    figures.save(drawn(*given), path)


def _draw_missing(folder: Path | None, name: str, results: Sequence, drawn: Callable[..., Figure], *given) -> None:
    """Draw the figures that an interruption left out, of results that are kept."""
    for result in results if folder else ():
        if not _is_drawn(path := folder / f"{name}-{result.model}"):
            _draw(path, drawn, result, *given)


def _is_drawn(path: Path) -> bool:
    """Whether a figure is there; it is drawn after its results are written, so that an interruption may leave them without."""
    return path.with_name(f"{path.name}.png").is_file()


def _results_in(out: str | os.PathLike | None, runs: str | os.PathLike) -> Path:
    """Where results go: beside the models, if nothing else is asked for and these don't come with the package."""
    return Path(out or ("runs" if Path(runs) == PRETRAINED else runs))


def _result_folder(path: str | os.PathLike) -> Path | None:
    """The folder for results; None in a process that doesn't write any."""
    return writable_folder(path) if distributed.rank() == 0 else None


@contextlib.contextmanager
def _writing(command: str, out: str | os.PathLike | None, runs: str | os.PathLike) -> Iterator[Path | None]:
    """The folder for the results of a command, of which another process can't write the same meanwhile."""
    folder = _result_folder(_results_in(out, runs))
    taken = f"is where another process writes the results of 'pyrobayes {command}'; choose another folder (--out)"
    with locked(folder, taken, f".{command}.lock") if folder else contextlib.nullcontext():
        try:
            yield folder
        except KeyboardInterrupt as interrupt:
            kept = f"interrupted; the results of models that were finished are in {_results_in(out, runs) / FILES[command]}"
            raise KeyboardInterrupt(
                str(interrupt) or kept + (", and --resume keeps them" if command in RESUMED else "")
            ) from None


def _kept(
    command: str, options: EvaluationOptions, test: Images, named: Mapping[str, Provenance], folder: Path
) -> tuple[list, dict[str, Provenance]]:
    """What an earlier run of a command left in a folder: results of the same options, versions, data and weights.

    Of models that aren't named now they are kept too; how these were trained comes second.
    """
    found = earlier(folder, command, options, test)
    distributed.wait_for_all()  # before the first process writes what the others read
    if found is None:
        return [], {}
    same = {model: each for model, each in found.trained.items() if named.get(model, each) == each}
    beside = {model: each for model, each in same.items() if model not in named}
    return [result for result in found.results if result.model in same], beside


def read_provenance(classifiers: Iterable[BayesClassifier], runs: str | os.PathLike) -> dict[str, Provenance]:
    """By name how each model was trained, asked when they are loaded, since who trains on replaces the files."""
    return {
        name: Provenance.read(Path(runs) / name)
        for name in dict.fromkeys(each.factorization.name for each in classifiers)
    }


def open_runs(
    models: Sequence[str],
    options: EvaluationOptions,
    *,
    data: str | None = None,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    device: str = "auto",
) -> tuple[list[BayesClassifier], Images]:
    """Trained models, and the test images of the data set that they were trained on, or of a subset of it.

    Raises:
        InputError: there are none, they were trained on different data, or on other data than asked for; or there are fewer test
            images than are asked for.
    """
    folder = Path(runs)
    found = [name for name in factorizations.names(comparators=True) if _is_trained(folder / name)]
    names = _names(models) or found
    if not names:
        raise InputError(f"no trained model found under {folder}: train one with 'pyrobayes train', or see --runs")
    if folder == PRETRAINED and (others := [name for name in names if name not in found]):
        raise InputError(f"no trained model in the package for {', '.join(others)}: it has {', '.join(found)}")
    configs = {name: Config.read(folder / name) for name in names}
    expected = MINI if folder == PRETRAINED else configs[names[0]].data
    expected = choice("data set", data, DATASETS) if data else expected
    for name, config in configs.items():
        if config.model != name:
            raise InputError(f"{folder / name} holds a '{config.model}'; a run's folder must have its model's name")
        if not _fits(config, expected):
            raise InputError(
                f"{folder / name} was trained on {config.data}, not on {expected}"
                + (
                    "; name the models to take"
                    if not models and any(_fits(each, expected) for each in configs.values())
                    else ""
                )
            )
    test = _load_data(expected, "test", data_dir)
    test.head(options.images)  # refused before anything is computed
    return [load(folder / name, device=device, **vars(options.classifier)) for name in names], test


def _fits(config: Config, data: str) -> bool:
    """Whether a model was trained on a data set, or on what it is a subset of."""
    return config.data in (data, SUBSETS.get(data))


def _is_trained(run: Path) -> bool:
    return all((run / file).is_file() for file in (CONFIG, MODEL))


def _names(models: Sequence[str]) -> list[str]:
    known = [
        factorizations.names() if str(name).lower() == "all" else [factorizations.get(name).name] for name in models
    ]
    return list(dict.fromkeys(itertools.chain(*known)))


def draw_samples(
    model: str,
    *,
    per_class: int = 8,
    seed: int = 0,
    data_dir: str | os.PathLike | None = None,
    runs: str | os.PathLike = "runs",
    out: str | os.PathLike | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw images from a trained model; writes `samples-MODEL` and `reconstructions-MODEL` (PDF and PNG) to `out`.

    The reconstructions are of the first test image of every class. The other arguments are those of :func:`attack`.
    """
    name, options = factorizations.get(model).name, EvaluationOptions(seed=seed)
    (classifier,), test = open_runs([name], options, data_dir=data_dir, runs=runs, device=device)
    if distributed.rank():
        return []  # the first process draws
    factorization = classifier.factorization
    samples = generation.generate(factorization, per_class, seed=seed)
    first = torch.stack([torch.nonzero(test.labels == c)[0, 0] for c in range(len(test.classes))])
    x, y = (each.to(samples.device) for each in test.batch(first))
    reconstructed = generation.reconstruct(factorization, x, y, seed=seed)
    folder = writable_folder(_results_in(out, runs))
    data = figures.data_name(test.name)
    title = f"{name.upper()}, {data}: mean of p(x|...) at z drawn from p(z|y)"
    return [
        *figures.save(figures.image_grid(samples, test.classes, title), folder / f"samples-{name}"),
        *figures.save(
            figures.reconstructions(x, reconstructed, test.classes, f"{name.upper()}, {data}: test images"),
            folder / f"reconstructions-{name}",
        ),
    ]
