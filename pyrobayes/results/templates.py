"""Templates of the report, in `resources/templates`: Markdown and HTML in which every value stands for itself."""

import re
from collections.abc import Sequence
from functools import cache, partial
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from pyrobayes.results.markdown import Markdown, code, listed, text
from pyrobayes.results.tables import Table


def render(template: str, figures: Sequence[str] = (), **values) -> Markdown:
    """A template of Markdown with values, which are escaped unless they are Markdown or tables.

    Args:
        figures: file names of the figures that are there; the template shows no other.
    """
    shown = _environment("md").get_template(f"{template}.md").render(figure=partial(_figure, figures), **values)
    return Markdown(re.sub(r"\n{3,}", "\n\n", shown).strip())


def render_page(**values) -> str:
    """The HTML page with values, which are escaped unless the template calls them safe."""
    return _environment("html").get_template("page.html").render(**values)


@cache
def _environment(kind: str) -> Environment:
    settings = {"autoescape": True, "keep_trailing_newline": True} if kind == "html" else {"finalize": _in_markdown}
    loader = PackageLoader("pyrobayes", "resources/templates")
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **settings
    )
    environment.globals |= {"listed": listed, "code": code}
    return environment


def _in_markdown(value) -> Markdown:
    return value.as_markdown() if isinstance(value, Table) else text(value)


def _figure(figures: Sequence[str], stem: str, title: str, caption: str) -> Markdown:
    """A figure with its caption, where its file is there."""
    if f"{stem}.png" not in figures:
        return Markdown()
    return Markdown(f"![{text(title)}]({quote(stem)}.png)\n\n*{text(title)}. {text(caption)}*")
