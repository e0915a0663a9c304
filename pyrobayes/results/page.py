"""The report from its templates in `resources/templates`: Markdown, and the same with its figures as one HTML page.

Every value stands for itself. The page has no scripts, and nothing that is loaded from elsewhere.
"""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from PIL import Image, UnidentifiedImageError

from pyrobayes.errors import InputError
from pyrobayes.results.markdown import Markdown, code, listed, text
from pyrobayes.results.names import model_name
from pyrobayes.results.tables import Table

WIDEST = 2000  # pixels; a wider figure is scaled down

_MARKDOWN = Environment(
    loader=PackageLoader("pyrobayes", "resources/templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=lambda value: value.as_markdown() if isinstance(value, Table) else text(value),
)
_MARKDOWN.globals |= {"listed": listed, "code": code, "model_name": model_name}
_HTML = _MARKDOWN.overlay(autoescape=True, finalize=None)


def render(template: str, figures: Sequence[str] = (), **values) -> Markdown:
    """A template of Markdown with values, which are escaped unless they are Markdown or tables.

    Args:
        figures: file names of the figures that are there; the template shows no other.
    """

    def figure(stem: str, title: str, caption: str) -> Markdown:
        if f"{stem}.png" not in figures:
            return Markdown()
        return Markdown(f"![{text(title)}]({quote(stem)}.png)\n\n*{text(title)}. {text(caption)}*")

    shown = _MARKDOWN.get_template(f"{template}.md").render(figure=figure, **values)
    return Markdown(re.sub(r"\n{3,}", "\n\n", shown).strip())


def page(markdown: str, folder: Path) -> str:
    """The HTML page of a text, titled by its first heading, with its figures from a folder.

    Raises:
        InputError: a figure is missing or damaged.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="table" tabindex="0">\n<table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table>\n</div>\n")
    tokens = parser.parse(markdown)
    for token in (child for block in tokens for child in block.children or ()):
        if token.type == "image":
            token.attrSet("src", _data_uri(folder / unquote(str(token.attrGet("src")))))
    heading = next(block.children for block in tokens if block.type == "inline") or []
    body = parser.renderer.render(tokens, parser.options, {})
    body = re.sub(r"(\[[\d.]+), ([\d.]+\])", r"\1,&nbsp;\2", body)  # intervals stay in one line
    title = "".join(part.content for part in heading)
    return _HTML.get_template("page.html").render(title=title, body=body) + "\n"


def _data_uri(path: Path) -> str:
    """A figure as part of the page, no wider than WIDEST."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            if image.width > WIDEST:
                buffer = io.BytesIO()
                height = round(image.height * WIDEST / image.width)
                image.resize((WIDEST, height), Image.Resampling.LANCZOS).save(buffer, "png", optimize=True)
                content = buffer.getvalue()
    except OSError as error:
        what = "it is no image" if isinstance(error, UnidentifiedImageError) else error.strerror or error
        raise InputError(f"damaged figure {path}: {what}; make it again, or delete it") from error
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
