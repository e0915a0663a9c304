"""Markdown that says what it is given: names and findings of other people's files stand for themselves."""

import re
from collections.abc import Iterable, Mapping


class Markdown(str):
    """A text that is Markdown already, so that nothing in it is escaped."""


def text(value) -> Markdown:
    """A value that stands for itself in Markdown, in one line; intervals such as `[81.7, 83.2]` stay as they are."""
    if isinstance(value, Markdown):
        return value
    special = r"(\[-?[\d.]+, -?[\d.]+\](?![(\[:]))|[\\`*_\[\]<>~&#]"
    escapes = {"<": "&lt;", ">": "&gt;"}
    one_line = " ".join(str(value).split())
    return Markdown(re.sub(special, lambda found: found[1] or escapes.get(found[0], f"\\{found[0]}"), one_line))


def code(value: str) -> Markdown:
    """A value as code; as text where it holds HTML, which some programs take for such even there."""
    plain = " ".join(value.split())
    if "<" in plain:
        return text(plain)
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    padding = " " if plain.startswith("`") or plain.endswith("`") else ""
    return Markdown(f"{fence}{padding}{plain}{padding}{fence}")


def listed(words: Iterable) -> Markdown:
    """Words in a sentence: `a, b and c`."""
    *others, last = map(text, words)
    return Markdown(f"{', '.join(others)} and {last}" if others else last)


def plain(value) -> str:
    """An option's value as somebody would type it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, (tuple, list)):
        return ", ".join(map(plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "-" if value is None else str(value)
