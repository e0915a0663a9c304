"""A text in Markdown with figures as one HTML page: no scripts, and nothing that is loaded from elsewhere."""

import base64
import html
import io
import re
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from PIL import Image

from pyrobayes.errors import InputError

WIDEST = 2000  # pixels of a figure; what is wider is scaled down

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --page: #fff; --line: #d5d5d5; --faint: #f4f4f4; --wrong: #b2182b; }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e4e4e4; --page: #17181a; --line: #45474b; --faint: #232528; --wrong: #ff8a80; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
p, ul { max-width: 46rem; }
ul { padding-left: 1.2rem; }
li { margin: .4rem 0; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
img { display: block; max-width: min(100%, 50rem); height: auto; background: #fff; }
p:has(img) { max-width: none; }
p:has(img) + p { font-size: .875rem; }
code { font: .875em/1.4 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { padding: .75rem; overflow-x: auto; background: var(--faint); }
/* The shadow at the right edge, under what is scrolled, says that there is more. */
.table { overflow-x: auto; margin: 1rem 0; background:
  linear-gradient(var(--page) 0 0) right / 1.5rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--faint); vertical-align: bottom; }
td { min-width: 6.5rem; }
td[style="text-align:right"] { min-width: 0; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { position: sticky; left: 0; min-width: 0; background: var(--page); }
th:first-child { background: var(--faint); }
td code { white-space: nowrap; }
td strong { color: var(--wrong); }
@media print {
  body { max-width: none; font-size: 10pt; }
  table { font-size: 7pt; }
  th, td { min-width: 0; padding: .15rem .25rem; }
  .table { overflow: visible; background: none; }
  h2, h3 { break-after: avoid; }
  img, tr { break-inside: avoid; }
}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}</body>
</html>
"""


def page(text: str, folder: Path) -> str:
    """The page of a text, titled as its first heading, with the figures that it shows from a folder.

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
    title = html.escape("".join(part.content for part in heading))
    body = parser.renderer.render(tokens, parser.options, {})
    body = re.sub(r"(\[[\d.]+), ([\d.]+\])", r"\1,&nbsp;\2", body)  # intervals stay in one line
    return PAGE.format(title=title, style=STYLE, body=body)


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
