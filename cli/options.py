"""Options that commands share, and options made from the library's records."""

import dataclasses
import functools
import types
import typing

import click

from pyrobayes.data.declared import DATASETS, MINI
from pyrobayes.errors import InputError, choice
from pyrobayes.options import COMPARATORS, DEVICES, MODELS, PRETRAINED, parse_eps

DATA = {"type": click.Choice(DATASETS, case_sensitive=False)}
data = click.option(
    "--data", default="fashion-mnist", show_default=True, help="the data set; fashion-mnist-mini is embedded", **DATA
)
data_to_train_on = click.option(
    "--data", help="the data set; fashion-mnist-mini is embedded  [default: fashion-mnist]", **DATA
)
data_of_runs = click.option("--data", help="the data set [default: the one that the models were trained on]", **DATA)
data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    help="cache of data sets [default: $PYROBAYES_DATA, else the user's cache]",
)
device = click.option(
    "--device", default="auto", show_default=True, type=click.Choice(DEVICES), help="where to compute"
)
runs = click.option(
    "--runs",
    default="runs",
    show_default=True,
    type=click.Path(file_okay=False),
    help="folder of the trained models, one folder each",
)
pretrained = click.option(
    "--pretrained",
    is_flag=True,
    help=f"take the models that come with the package, and {MINI}, where no other data is asked for",
)
out = click.option(
    "--out",
    type=click.Path(file_okay=False),
    help="folder for results and figures [default: --runs, with --pretrained runs]",
)


def resume(default: bool = False):
    """Decorator: whether results of an earlier run are reused; the same for every command that writes results."""
    return click.option(
        "--resume/--no-resume",
        default=default,
        show_default=True,
        help="reuse results of an earlier run that have the same options, versions, data and weights",
    )


as_json = click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")


def _known(ctx, param, named):
    """Names of models, refused before anything is loaded that takes time."""
    if isinstance(named, str):
        return choice("model", named, (*MODELS, *COMPARATORS))
    return tuple(choice("model", name, (*MODELS, *COMPARATORS, "all")) for name in named)


model = click.argument("model", callback=_known)
models = click.argument("models", metavar="[MODEL]...", nargs=-1, callback=_known)
models_to_train = click.argument("models", metavar="MODEL...|all", nargs=-1, required=True, callback=_known)


@dataclasses.dataclass(frozen=True)
class Where:
    """What the command line says of models, data and results; its context is made when torch is needed."""

    data_dir: str | None
    runs: str
    out: str | None
    device: str
    data: str | None = None

    @property
    def results(self) -> str:
        return self.out or self.runs

    def context(self, **given):
        from pyrobayes.commands.context import Context

        return Context(**vars(self), **given)


def of_models(function):
    """Decorator: where trained models are, and where results go; as `where`."""

    @functools.wraps(function)
    def command(*arguments, runs, pretrained, out, data_dir, device, **given):
        if pretrained:
            if click.get_current_context().get_parameter_source("runs") is click.core.ParameterSource.COMMANDLINE:
                raise InputError("--pretrained takes the models that come with the package: leave --runs out")
            runs, out = PRETRAINED, out or "runs"
        data = {"data": given.pop("data")} if "data" in given else {}
        return function(*arguments, where=Where(data_dir, runs, out, device, **data), **given)

    for option in reversed((data_dir, runs, pretrained, out, device)):
        command = option(command)
    return command


def of_runs(function):
    """Decorator: the options of a command that looks at trained models, and prints and writes what it finds."""
    return data_of_runs(as_json(of_models(function)))


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


eps_range = click.option(
    "--eps-range",
    "--eps",
    "eps",
    type=Eps(),
    help="sizes of the perturbation, STOP included where the steps reach it; or a comma list  [default: 0:0.3:0.05, in "
    "L2 0:3:0.5]",
)


def of_record(record: type, *, defaults: bool = True):
    """Decorator: one option for each field of an options record that has a help text.

    Without `defaults`, what isn't given stays None: it comes from somewhere else, such as a named preset.
    """

    def decorate(function):
        types_of = typing.get_type_hints(record)
        for field in reversed(dataclasses.fields(record)):
            if "help" not in field.metadata:
                continue
            kind = types_of[field.name]
            if isinstance(kind, types.UnionType):
                kind = typing.get_args(kind)[0]
            choices = field.metadata.get("choices")
            more = {"is_flag": True} if kind is bool else {}
            if typing.get_origin(kind) is tuple:
                more, kind = {"multiple": True}, typing.get_args(kind)[0]
            function = click.option(
                f"--{field.name.replace('_', '-')}",
                field.name,
                default=field.default if defaults else None,
                show_default=defaults and kind is not bool and field.default not in (None, ()),
                type=click.Choice(choices, case_sensitive=False) if choices else kind,
                help=field.metadata["help"],
                **more,
            )(function)
        return function

    return decorate


def record(kind: type, given: dict):
    """The options record of a command's options."""
    return kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})


def explicit(kind: type, ctx: click.Context) -> dict:
    """The fields of an options record that the user gave on the command line."""
    typed = click.core.ParameterSource.COMMANDLINE
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: ctx.params[name] for name in names if ctx.get_parameter_source(name) is typed}
