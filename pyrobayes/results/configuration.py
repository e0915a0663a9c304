"""How results were made: command lines that give them again, options, data and weights."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence

from pyrobayes.data.declared import MINI
from pyrobayes.data.source import ImageSource
from pyrobayes.options import MODELS, NETWORKS, PRETRAINED, TrainingOptions, declaration
from pyrobayes.results.markdown import Markdown, listed, plain
from pyrobayes.results.names import model_name
from pyrobayes.results.page import render
from pyrobayes.results.sections import Found
from pyrobayes.results.store import Provenance, SavedResults
from pyrobayes.results.tables import CODE, TEXT, Table, grouped
from pyrobayes.tensor_files import digest, read_tensors
from pyrobayes.training.checkpoint import MODEL


def configuration_section(found: Found) -> Markdown:
    """All that is needed to get the results again."""
    trained = trainings(found)
    named = [(name, each) for name, (_, each) in zip(names_of(trained), trained)]
    data = [(each.data["name"], each.data["split"], each.data["sha256"]) for each in found.values()]
    named_runs = [(name, each) for name, each in named if each.config]
    data += [(each.config.data, "train", each.config.data_sha256) for _, each in named_runs]
    options = {
        command: vars(each.options) | {"images": each.options.images or "all"} for command, each in found.items()
    }
    training = {
        name: {"data": each.config.data} | vars(each.config.networks) | vars(each.config.training)
        for name, each in named_runs
    }
    return render(
        "configuration",
        commands=Markdown("\n".join(_commands(found))),
        data=Table(["data", "images", "sha256"], [TEXT, TEXT, CODE], list(dict.fromkeys(data))),
        options=_columns("option", options),
        attacks=_attacks(found),
        training=_columns("option", training),
        weights=Table(["model", "sha256"], [TEXT, CODE], [(name, each.weights) for name, each in named]),
        versions=_columns("of", {command: each.versions for command, each in found.items()}),
    )


def trainings(found: Found) -> list[tuple[str, Provenance]]:
    """Models and how they were trained; a model with results of several trainings is there with each."""
    return list(dict.fromkeys(pair for each in found.values() for pair in each.trained.items()))


def names_of(trained: Sequence[tuple[str, Provenance | None]]) -> list[str]:
    """A name for each training, with the beginning of its weights' checksum where a model has several."""
    models = [model for model, _ in trained]
    return [
        model_name(model) + (f" ({each.weights[:8]})" if models.count(model) > 1 else "") for model, each in trained
    ]


def _commands(found: Found) -> list[str]:
    """The command lines that give the results again."""
    trained = [(model, each) for model, each in trainings(found) if each.config and not _packaged(model, each)]
    given = [(_training_flags(*each), each[0]) for each in trained if not _has_own_networks(each[1])]
    lines = [["train", *models, *chosen] for chosen, models in grouped(given).items()]
    for command, each in found.items():
        models = dict.fromkeys(result.model for result in each.results)
        given, usual = each.options.settled(), type(each.options)().settled()
        lines.append([command, *selection(each, models), *flags(given, usual)])
    typed = [" ".join(shlex.join(["pyrobayes", *line]).split()) for line in lines]
    return [line for line in typed if not {"<", "`"} & set(line)]  # no model has such a name, and none is typed


def _has_own_networks(trained: Provenance) -> bool:
    """Was the model built with an encoder or a decoder of the user's? No command takes them."""
    return bool(trained.config.networks.encoder or trained.config.networks.decoder)


def _training_flags(model: str, trained: Provenance) -> tuple[str, ...]:
    """The options of `pyrobayes train` that train a model like this, with the preset of networks that takes fewest."""
    config = trained.config
    presets = {name: sizes for name, sizes in NETWORKS.items() if sizes.original == config.networks.original}
    changes = {preset: flags(config.networks, sizes) for preset, sizes in presets.items()}
    nearest = min(changes, key=lambda preset: len(changes[preset]))
    networks = [] if nearest == "paper" else ["--networks", nearest]
    data = [] if config.data == "fashion-mnist" else ["--data", config.data]
    if source := config.source:
        data = ["--data", source.path, *flags(source, ImageSource(source.path))]
    return (*networks, *changes[nearest], *flags(config.training, TrainingOptions.of(model)), *data)


def selection(saved: SavedResults, models: Iterable[str]) -> list[str]:
    """The arguments of a command that select models and the data of its results; other models may be among the results."""
    runs = {model: trained for model, trained in saved.trained.items() if trained.config}
    given = [model for model in models if model in runs]
    pretrained = bool(runs) and all(_packaged(model, trained) for model, trained in runs.items())
    usual = MINI if pretrained else next((trained.config.data for trained in runs.values()), None)
    given += ["--pretrained"] if pretrained else []
    given += [] if saved.data["name"] == usual else ["--data", saved.data["name"]]
    sources = (saved.trained[model].source for model in models if model in saved.trained)
    return given + [argument for source in sources if source for argument in source.arguments]


def _packaged(model: str, trained: Provenance) -> bool:
    """Do the weights come with the package?"""
    return model in MODELS and digest(read_tensors(PRETRAINED / model / MODEL)[0], {}) == trained.weights


def flags(options, default) -> list[str]:
    """An options record as a command line takes it, without options that have the value of another record."""
    given = []
    for name, value in vars(options).items():
        if value is None or value == getattr(default, name):
            continue
        if name == "eps" or declaration(type(options), name).get("listed"):
            name, value = (
                "eps_range" if name == "eps" else name,
                ",".join(map(plain, value if isinstance(value, tuple) else (value,))),
            )
        for each in value if isinstance(value, tuple) else (value,):
            given += flag(name, each)
    return given


def flag(name: str, value) -> list[str]:
    """An option as a command line takes it: `--train-particles 2`, `--antithetic`."""
    option = f"--{name.replace('_', '-')}"
    return [option] if value is True else [option, str(value)]


def _attacks(found: Found) -> Table:
    """One row an attack with options of its own: a result is of one attack, a verdict of several."""
    attacks = []
    for result in (result for saved in found.values() for result in saved.results):
        options = getattr(result, "options", {})
        of_each = {result.attack: options} if hasattr(result, "attack") else options
        attacks += [((name, _in_words(each)), model_name(result.model)) for name, each in of_each.items()]
    rows = [[name, listed(dict.fromkeys(models)), told] for (name, told), models in grouped(attacks).items()]
    return Table(["attack", "on", "options"], [TEXT] * 3, rows)


def _in_words(options: Mapping) -> str:
    """The options of an attack that have a value."""
    unsaid = {"name", *([] if options.get("evade") else ["evade_weight"])}
    told = {key: plain(value) for key, value in options.items() if key not in unsaid and value not in (None, False)}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in told.items() if value)


def _columns(first: str, columns: Mapping[str, Mapping]) -> Table:
    """One row a key; names whose values are all the same share a column."""
    alike = grouped((json.dumps(column), name) for name, column in columns.items())
    shown = [json.loads(column) for column in alike]
    keys = dict.fromkeys(key for column in shown for key in column if any(each.get(key) is not None for each in shown))
    rows = [[key.replace("_", " "), *(plain(each[key]) if key in each else "-" for each in shown)] for key in keys]
    return Table([first, *map(listed, alike.values())], [TEXT] * (1 + len(shown)), rows)
