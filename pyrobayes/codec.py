"""Records as plain JSON values, and back.

A record is a frozen dataclass, and its fields are its JSON object. A record declares itself where the two differ:

* `saved(...)` is the metadata of a field that has another key, no entry, or values that JSON lacks.
* `DERIVED`, a class attribute, has quantities by key that are written for whoever reads the file, and skipped here.

Reading converts nothing silently: 3.5 is no whole number, "3" is no number, and an unknown key is an error.
Records of options check and convert their own values, so they are made from their entries as they stand.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, get_args, get_origin

import cattrs
from cattrs.cols import homogenous_tuple_structure_factory, list_structure_factory
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from pyrobayes.options import ClassifierOptions, Networks, TrainingOptions

OPTIONS = (ClassifierOptions, Networks, TrainingOptions)
PLAIN = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false", dict: "an object"}


def saved(
    key: str | None = None, *, omit: bool = False, encode: Callable | None = None, decode: Callable | None = None
) -> dict:
    """Metadata of a field: how it stands in JSON.

    Args:
        key: its key, where that isn't its name.
        omit: leave it out; when the record is read it has its default.
        encode, decode: from its value to plain JSON, and back.
    """
    return {"saved": {"rename": key, "omit": omit or None, "unstruct_hook": encode, "struct_hook": decode}}


def encode(record) -> Any:
    """A record, or a list or dict of records, as plain JSON values."""
    return _converter.unstructure(record)


def decode(kind: Any, value: Any) -> Any:
    """The record of a `kind` (also `list[...]` and `dict[str, ...]` of one) that `value` is the JSON of.

    Raises:
        ValueError: it isn't; the message says what was expected, and where.
    """
    try:
        return _converter.structure(value, kind)
    except (cattrs.BaseValidationError, ValueError, TypeError, KeyError, AttributeError) as error:
        what, _, where = cattrs.transform_error(error, "", _described)[0].rpartition(" @ ")
        raise ValueError(f"{what} at {where.removeprefix('.')}" if where else what) from error


def _described(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return "an entry is missing"
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        return f"unknown entries {', '.join(sorted(error.extra_fields))}"
    return str(error)


def _plain(value: Any, kind: type) -> Any:
    """A value of JSON of a plain kind; ValueError for another one."""
    known = (int, float) if kind is float else kind
    if not isinstance(value, known) or isinstance(value, bool) and kind is not bool:
        raise ValueError(f"expected {PLAIN[kind]}, got {_short(value)}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"expected {PLAIN[kind]}, got {value}")
    return kind(value)


def _short(value: Any) -> str:
    return text if len(text := repr(value)) < 40 else f"{text[:40]}..."


def _of_lists(factory: Callable) -> Callable:
    """The hook for a list or tuple, which JSON has as a list."""

    def made(kind: Any, converter: cattrs.Converter) -> Callable:
        inner = factory(kind, converter)

        def structure(value: Any, _) -> Any:
            if not isinstance(value, list | tuple):
                raise ValueError(f"expected a list, got {_short(value)}")
            return inner(value, kind)

        return structure

    return made


def _fixed_tuple(kind: Any, converter: cattrs.Converter) -> Callable:
    """The hook for a tuple of so many values, such as `tuple[int, int, int]`."""
    kinds = get_args(kind)

    def structure(value: Any, _) -> tuple:
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise ValueError(f"expected a list of {len(kinds)} values, got {_short(value)}")
        return tuple(converter.structure(each, kind) for each, kind in zip(value, kinds))

    return structure


def _overrides(record: type) -> dict:
    metadata = {field.name: field.metadata.get("saved", {}) for field in dataclasses.fields(record)}
    hooks = {}
    for name, given in metadata.items():
        decoded = given.get("struct_hook")
        hooks[name] = override(**given | ({"struct_hook": lambda value, _, by=decoded: by(value)} if decoded else {}))
    return hooks


def _of_record(record: type, converter: cattrs.Converter) -> Callable:
    derived = getattr(record, "DERIVED", {})
    read = make_dict_structure_fn(record, converter, _cattrs_forbid_extra_keys=True, **_overrides(record))

    def structure(value: Any, _) -> Any:
        given = _plain(value, dict)
        return read({key: each for key, each in given.items() if key not in derived}, record)

    return structure


def _to_object(record: type, converter: cattrs.Converter) -> Callable:
    derived = getattr(record, "DERIVED", {})
    write = make_dict_unstructure_fn(record, converter, **_overrides(record))
    return lambda value: write(value) | {key: converter.unstructure(of(value)) for key, of in derived.items()}


def _is_options(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, OPTIONS)


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    for kind in PLAIN:
        converter.register_structure_hook(kind, _plain)
    converter.register_structure_hook_factory(lambda kind: get_origin(kind) is list, _of_lists(list_structure_factory))
    converter.register_structure_hook_factory(
        lambda kind: get_origin(kind) is tuple and get_args(kind)[-1] is not Ellipsis, _fixed_tuple
    )
    converter.register_structure_hook_factory(
        lambda kind: get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis,
        _of_lists(homogenous_tuple_structure_factory),
    )
    converter.register_unstructure_hook_func(lambda kind: get_origin(kind) is tuple or kind is tuple, _list)
    converter.register_structure_hook_factory(_is_record, _of_record)
    converter.register_unstructure_hook_factory(_is_record, _to_object)
    converter.register_structure_hook_func(_is_options, lambda value, kind: kind(**_plain(value, dict)))
    converter.register_unstructure_hook_func(_is_options, dataclasses.asdict)
    return converter


def _list(values: tuple) -> list:
    return [_converter.unstructure(value) for value in values]


_converter = _make_converter()
