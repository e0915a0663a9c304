"""JSON files that carry a checksum of their own text, so that no changed digit goes unnoticed."""

import json
import re
from pathlib import Path

from pyrobayes.files import checksum, parse_json, write_atomically

CHECKSUM = re.compile(r',\n  "sha256": "(?P<checksum>[0-9a-f]{64})"\n}\n?')


def write(path: Path, content: dict, aside: Path | None = None) -> None:
    """Write plain JSON values atomically, with their checksum as last entry; an earlier file is moved to `aside`."""
    text = json.dumps(content, indent=2, allow_nan=False).removesuffix("\n}")
    write_atomically(path, f'{text},\n  "sha256": "{checksum(text)}"\n}}\n', aside)


def read(path: Path, entries: set[str]) -> dict:
    """Read a file that has exactly these entries; the checksum, which early versions didn't write, is left out.

    Raises:
        ValueError: it isn't such a file, or its checksum is wrong.
    """
    text = path.read_bytes().decode()
    found = CHECKSUM.search(text)
    if found and (found.end() != len(text) or found["checksum"] != checksum(text[: found.start()])):
        raise ValueError("its checksum is wrong")
    content = parse_json(f"{text[: found.start()]}\n}}" if found else text)
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    if missing := sorted(entries - set(content)):
        raise ValueError(f"it has no {', '.join(missing)}")
    if unknown := sorted(set(content) - entries):
        raise ValueError(f"it has unknown entries: {', '.join(unknown)}")
    return content
