"""Options that commands share, and options made from the library's records."""

import dataclasses
import functools
import types
import typing

import click

from pyrobayes.data.declared import DATASETS, MINI, data_named
from pyrobayes.data.source import ImageSource
from pyrobayes.device_options import DEVICES, device_name
from pyrobayes.errors import InputError, choice
from pyrobayes.options import COMPARATORS, MODELS, PRETRAINED, parse_eps


class Device(click.ParamType):
    """A device, a GPU by its number too."""

    name = "|".join((*DEVICES, "cuda:N"))

    def convert(self, value, param, ctx):
        try:
            device_name(value)
        except InputError as error:
            self.fail(str(error), param, ctx)
        return value.lower()


FOLDER = click.Path(file_okay=False)
with_default = functools.partial(click.option, show_default=True)  # told in the help
device = with_default("--device", default="auto", type=Device(), help="where to compute; cuda:1 is the second GPU")


def data(help: str):
    """Decorator: the data set, or one's own images and how they are read; see :func:`chosen_data`."""
    path = f"{help}; PATH is a folder of images, or an .npz file, of your own"

    def decorate(function):
        metavar = f"[{'|'.join(DATASETS)}|PATH]"
        return _with(
            function, click.option("--data", metavar=metavar, help=path), of_record(ImageSource, defaults=False)
        )

    return decorate


def chosen_data(data):
    """The data that the user chose, with the options that say how own images are read."""
    data, reading = data_named(data) if data else None, explicit(ImageSource)
    if reading and not isinstance(data, ImageSource):
        told = ", ".join(f"--{name.replace('_', '-')}" for name in reading)
        raise InputError(f"{told}: this is for images of your own, whose folder or .npz file you give with --data")
    return dataclasses.replace(data, **reading) if reading else data


def resume(default: bool = False):
    """Decorator: whether results of an earlier run are reused; the same for every command that writes results."""
    return with_default(
        "--resume/--no-resume",
        default=default,
        help="reuse results of an earlier run that have the same options, versions, data and weights",
    )


data_dir = click.option(
    "--data-dir", type=FOLDER, help="cache of data sets [default: $PYROBAYES_DATA, else the user's cache]"
)
runs = with_default("--runs", default="runs", type=FOLDER, help="folder of the trained models, one folder each")
pretrained = click.option(
    "--pretrained",
    is_flag=True,
    help=f"take the models that come with the package, and {MINI}, where no other data is asked for",
)
out = click.option(
    "--out", type=FOLDER, help="folder for results and figures [default: --runs, with --pretrained runs]"
)
OWN_MODULE = (
    click.option(
        "--model",
        "module",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="measure a module of your own too: FUNCTION() gives an nn.Module from images to logits [B, C]",
    ),
    click.option(
        "--weights", type=click.Path(dir_okay=False), help="its state dict, as .safetensors  [default: FUNCTION's own]"
    ),
    click.option(
        "--trust-weights",
        is_flag=True,
        help="read weights that are no .safetensors, by torch.load: a pickle can run code, so only from where you'd run a program",
    ),
)
PLACES = (data_dir, runs, pretrained, out, device)
as_json = click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")


def _known(ctx, param, named):
    """Names of models, refused before anything is loaded that takes time."""
    if isinstance(named, str):
        return choice("model", named, (*MODELS, *COMPARATORS))
    return tuple(choice("model", name, (*MODELS, *COMPARATORS, "all")) for name in named)


model = click.argument("model", callback=_known)
models = click.argument("models", metavar="[MODEL]...", nargs=-1, callback=_known)
models_to_train = click.argument("models", metavar="MODEL...|all", nargs=-1, required=True, callback=_known)


def _with(function, *options):
    """The function with these options, in the order of its help."""
    return functools.reduce(lambda command, option: option(command), reversed(options), function)


def _in_context(function):
    """The function with a context in place of the options that say where things are."""

    @functools.wraps(function)
    def command(
        *, runs, pretrained, out, data_dir, device, data=None, module=None, weights=None, trust_weights=False, **given
    ):
        data, reading = chosen_data(data), {field.name for field in dataclasses.fields(ImageSource)}
        given = {name: value for name, value in given.items() if name not in reading}
        if pretrained:
            if given_on_command_line("runs"):
                raise InputError("--pretrained takes the models that come with the package: leave --runs out")
            runs, out = PRETRAINED, out or "runs"
        from pyrobayes.commands.context import Context  # imports torch

        own = {"module": module, "weights": weights, "trust_weights": trust_weights}
        if module is None and (weights or trust_weights):
            raise InputError("--weights and --trust-weights are those of a --model: name it")
        return function(context=Context(data, data_dir, runs, out, device, **own), **given)

    return command


def of_models(function):
    """Decorator: where trained models are, and where results go; as `context`."""
    return _with(_in_context(function), *PLACES)


def of_results(kind: type, resumes: bool = False):
    """Decorator: models, an options record, as `chosen`, and what every command has that looks at trained models."""

    def decorate(function):
        in_context = _in_context(function)

        @functools.wraps(function)
        def command(**given):
            names = {field.name for field in dataclasses.fields(kind)}
            others = {name: value for name, value in given.items() if name not in names}
            return in_context(chosen=record(kind, given), **others)

        data_of_runs = data("the data set [default: the one that the models were trained on]")
        return _with(command, models, of_record(kind), resume(resumes), data_of_runs, as_json, *OWN_MODULE, *PLACES)

    return decorate


class Eps(click.ParamType):
    """START:STOP:STEP or a comma list."""

    name = "START:STOP:STEP"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            return parse_eps(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


class CommaList(click.ParamType):
    """Numbers or texts, separated by commas; with `one`, a single one is no tuple."""

    def __init__(self, kind: type, one: bool = False):
        self.kind, self.name, self.one = kind, "NAME,..." if kind is str else "NUMBER,...", one

    def convert(self, value, param, ctx):
        try:
            values = value if isinstance(value, tuple) else tuple(self.kind(part.strip()) for part in value.split(","))
            return values[0] if self.one and len(values) == 1 else values
        except ValueError:
            self.fail(f"can't read '{value}': expected a number, or a comma list such as 0.25,0.5", param, ctx)


def of_record(kind: type, *, defaults: bool = True):
    """Decorator: one option for each field of an options record that has a help text.

    Without `defaults`, what isn't given stays None: it comes from somewhere else, such as a named preset.
    """

    def decorate(function):
        types_of = typing.get_type_hints(kind)
        offered = (field for field in dataclasses.fields(kind) if "help" in field.metadata)
        made = [_option(field, types_of[field.name], field.default if defaults else None) for field in offered]
        return _with(function, *made)

    return decorate


def _option(field: dataclasses.Field, kind: type, default):
    """The option of one field of a record."""
    kind = typing.get_args(kind)[0] if isinstance(kind, types.UnionType) else kind
    names, more = [f"--{field.name.replace('_', '-')}", field.name], {}
    if field.name == "eps":
        names, kind = ["--eps-range", "--eps", "eps"], Eps()
        default = default and ",".join(f"{value:g}" for value in default)
    elif kind is bool:
        more = {"is_flag": True}
    elif field.metadata.get("listed"):
        several = typing.get_origin(kind) is tuple
        kind = CommaList(typing.get_args(kind)[0] if several else kind, one=not several)
        default = default and ",".join(f"{value:g}" for value in default)
    elif typing.get_origin(kind) is tuple:
        kind, more = typing.get_args(kind)[0], {"multiple": True}
    if choices := field.metadata.get("choices"):
        kind = click.Choice(choices, case_sensitive=False)
    shown = kind is not bool and default not in (None, ())
    return click.option(*names, default=default, show_default=shown, type=kind, help=field.metadata["help"], **more)


def record(kind: type, given: dict):
    """The options record of a command's options."""
    return kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})


def given_on_command_line(name: str) -> bool:
    """True if the user gave a parameter of the current command."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def explicit(kind: type) -> dict:
    """The fields of an options record that the user gave on the command line."""
    names = filter(given_on_command_line, (field.name for field in dataclasses.fields(kind)))
    return {name: click.get_current_context().params[name] for name in names}
