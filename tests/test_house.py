"""The house: sizes of files and functions, tests that mirror the folders, and plain beginnings of docstrings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted([*ROOT.glob("pyrobayes/**/*.py"), *ROOT.glob("cli/*.py")])
UNSPOKEN = re.compile(r"(Of|What|Which|Whether|The same|Those|That) ")


def body_length(function):
    """The lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def nodes(path, *kinds):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= 450
    long = [f.name for f in nodes(path, ast.FunctionDef) if body_length(f) > 50]
    assert not long, f"over 50 lines: {long}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_begin_as_people_speak(path):
    documented = nodes(path, ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in documented]
    unspoken = [text.splitlines()[0] for text in docstrings if UNSPOKEN.match(text)]
    assert not unspoken, "begin with the subject, as one says it aloud: 'True if ...', 'This ...', 'An error that ...'"


def test_tests_mirror_the_folders():
    folders = {path.parent.relative_to(ROOT / "pyrobayes") for path in ROOT.glob("pyrobayes/*/**/*.py")}
    tested = {path.parent.relative_to(ROOT / "tests") for path in ROOT.glob("tests/*/**/test_*.py")}
    assert folders <= tested, f"without tests: {folders - tested}"
