"""Options that commands share, and options made from the library's records."""

import dataclasses
import functools
import types
import typing

import click

from pyrobayes.data.declared import DATASETS, MINI
from pyrobayes.errors import InputError, choice
from pyrobayes.options import COMPARATORS, DEVICES, MODELS, PRETRAINED, device_name, parse_eps


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


def data(help: str, default: str | None = None):
    """Decorator: the data set."""
    known = click.Choice(DATASETS, case_sensitive=False)
    return click.option("--data", default=default, show_default=default is not None, type=known, help=help)


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
    def command(*, runs, pretrained, out, data_dir, device, data=None, **given):
        if pretrained:
            if given_on_command_line("runs"):
                raise InputError("--pretrained takes the models that come with the package: leave --runs out")
            runs, out = PRETRAINED, out or "runs"
        from pyrobayes.commands.context import Context  # imports torch

        return function(context=Context(data, data_dir, runs, out, device), **given)

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
        return _with(command, models, of_record(kind), resume(resumes), data_of_runs, as_json, *PLACES)

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
    """Numbers, separated by commas."""

    name = "NUMBER,..."

    def convert(self, value, param, ctx):
        try:
            return value if isinstance(value, tuple) else tuple(float(part) for part in value.split(","))
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
        kind, default = CommaList(), ",".join(f"{value:g}" for value in default)
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
