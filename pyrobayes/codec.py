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
    key: str | None = None,
    *,
    omit: bool = False,
    if_any: bool = False,
    encode: Callable | None = None,
    decode: Callable | None = None,
) -> dict:
    """Metadata of a field: its `key` in JSON where that isn't its name, that it is left out (`omit`) and has its default
    when the record is read, that it is left out where it has its default (`if_any`), and functions from its value to plain JSON (`encode`) and back (`decode`).
    """
    read = None if decode is None else lambda value, _: decode(value)
    how = {"omit": omit or None, "omit_if_default": if_any or None}
    return {"saved": override(rename=key, unstruct_hook=encode, struct_hook=read, **how)}


def encode(record) -> Any:
    """A record, or a list or dict of records, as plain JSON values."""
    return _converter.unstructure(record)


def decode(kind: Any, value: Any) -> Any:
    """The record of a `kind`, or the `list[...]` or `dict[str, ...]` of some, from its plain JSON values.

    Raises:
        ValueError: it says what was expected, and where.
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
    known = (int, float) if kind is float else kind
    if not isinstance(value, known) or isinstance(value, bool) and kind is not bool:
        raise ValueError(f"expected {PLAIN[kind]}, got {_short(value)}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"expected {PLAIN[kind]}, got {value}")
    return kind(value)


def _short(value: Any) -> str:
    return text if len(text := repr(value)) < 40 else f"{text[:40]}..."


def _list_hook(kind: Any, converter: cattrs.Converter) -> Callable:
    """The hook for a list or tuple, which JSON has as a list; `tuple[int, int]` has so many values."""
    kinds = get_args(kind)
    fixed = get_origin(kind) is tuple and kinds[-1] is not Ellipsis
    expected = f"a list of {len(kinds)} values" if fixed else "a list"
    make = list_structure_factory if get_origin(kind) is list else homogenous_tuple_structure_factory
    read = (lambda value, _: tuple(map(converter.structure, value, kinds))) if fixed else make(kind, converter)

    def structure(value: Any, _) -> Any:
        if not isinstance(value, list | tuple) or fixed and len(value) != len(kinds):
            raise ValueError(f"expected {expected}, got {_short(value)}")
        return read(value, kind)

    return structure


def _overrides(record: type) -> dict:
    return {field.name: field.metadata.get("saved", override()) for field in dataclasses.fields(record)}


def _read_hook(record: type, converter: cattrs.Converter) -> Callable:
    if issubclass(record, OPTIONS):
        return lambda value, _: record(**_plain(value, dict))
    derived = getattr(record, "DERIVED", {})
    read = make_dict_structure_fn(record, converter, _cattrs_forbid_extra_keys=True, **_overrides(record))
    return lambda value, _: read({key: each for key, each in _plain(value, dict).items() if key not in derived}, record)


def _write_hook(record: type, converter: cattrs.Converter) -> Callable:
    if issubclass(record, OPTIONS):
        return dataclasses.asdict
    derived = getattr(record, "DERIVED", {})
    write = make_dict_unstructure_fn(record, converter, **_overrides(record))
    return lambda value: write(value) | {key: converter.unstructure(of(value)) for key, of in derived.items()}


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


_converter = cattrs.Converter(unstruct_collection_overrides={tuple: list})
for _kind in PLAIN:
    _converter.register_structure_hook(_kind, _plain)
_converter.register_structure_hook_factory(lambda kind: get_origin(kind) in (list, tuple), _list_hook)
_converter.register_structure_hook_factory(_is_record, _read_hook)
_converter.register_unstructure_hook_factory(_is_record, _write_hook)
