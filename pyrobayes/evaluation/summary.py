"""How a record of results shows itself: a title and a small table, as text and in a notebook."""

import html
from collections.abc import Sequence


class Summarized:
    """A record whose `repr` is a title and a table of few lines. A subclass gives both, the table's header first."""

    def _summary(self) -> tuple[str, Sequence[Sequence[str]]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        title, rows = self._summary()
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([f"{type(self).__name__}: {title}", *lines])

    def _repr_html_(self) -> str:
        title, (header, *rows) = self._summary()

        def line(cells: Sequence[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

        body = "".join(line(row, "td") for row in rows)
        return f"<p>{html.escape(title)}</p><table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"


def at_each(eps: Sequence[float]) -> list[str]:
    """The heads of columns, one for each eps."""
    return [f"eps {value:g}" for value in eps]
