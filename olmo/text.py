"""Text for people: which name was meant, and tables."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence


def nearest(word: str, known: Collection[str], listed: bool = False) -> str:
    """Hint for an error about an unknown ``word``: "did you mean 'x'?", or all the ``known`` names
    if none is near. ``listed``: the names stand there in either case."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    names = ", ".join(sorted(known))
    if not near:
        return f"known: {names}"
    return f"did you mean {near[0]!r}?" + (f" Known: {names}" if listed else "")


def format_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned for a monospaced font, two spaces apart, under a dashed line.

    A column is aligned to the right when all its cells are numbers; None is shown as ``-``.
    Raises ``ValueError`` for a row that is longer or shorter than the headers.
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"row {list(row)} has {len(row)} cells for {len(headers)} headers")
    cells = [["-" if c is None else str(c) for c in row] for row in rows]
    columns = list(zip(headers, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(map(_is_number, column[1:])) for column in columns]
    lines = [list(headers), ["-" * w for w in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; all columns but the first are aligned to the right."""
    lines = [list(headers), ["---"] + ["---:"] * (len(headers) - 1)]
    lines += [["" if cell is None else str(cell) for cell in row] for row in rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def number(value: float | None, digits: int, factor: float = 1) -> str | None:
    """A cell with so many digits after the point."""
    return None if value is None else f"{factor * value:.{digits}f}"


def _is_number(cell: str) -> bool:
    """Also ``1,234`` and ``12.5%``; ``-`` stands for no number."""
    try:
        float(cell.replace(",", "").removesuffix("%"))
    except ValueError:
        return cell == "-"
    return True
