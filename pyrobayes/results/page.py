"""A text in Markdown with figures as one HTML page: no scripts, and nothing that is loaded from elsewhere."""

import base64
import io
import re
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from PIL import Image

from pyrobayes.errors import InputError
from pyrobayes.results.templates import render_page

WIDEST = 2000  # pixels; a wider figure is scaled down


def page(text: str, folder: Path) -> str:
    """The page of a text, titled by its first heading, with its figures from a folder.

    Raises:
        InputError: a figure is missing or damaged.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="table" tabindex="0">\n<table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table>\n</div>\n")
    tokens = parser.parse(text)
    for token in (child for block in tokens for child in block.children or ()):
        if token.type == "image":
            token.attrSet("src", data_uri(folder / unquote(str(token.attrGet("src")))))
    heading = next(block.children for block in tokens if block.type == "inline") or []
    body = parser.renderer.render(tokens, parser.options, {})
    body = re.sub(r"(\[[\d.]+), ([\d.]+\])", r"\1,&nbsp;\2", body)  # intervals stay in one line
    return render_page(title="".join(part.content for part in heading), body=body)


def data_uri(path: Path) -> str:
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
        raise InputError(f"damaged figure {path}: {error}; make it again, or delete it") from error
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
