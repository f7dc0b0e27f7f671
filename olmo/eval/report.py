"""Plain-text tables of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADERS = (
    "task",
    "accuracy %",
    "95% interval",
    "n",
    "unparsed",
    "skipped",
    "tokens before",
    "tokens after",
    "s per video",
)


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


def format_summary(results: Sequence[Mapping[str, Any]]) -> str:
    """One table line per task from the contents of its ``metrics.json``."""
    return format_table(HEADERS, [_summary_row(metrics) for metrics in results])


def _summary_row(metrics: Mapping[str, Any]) -> list[object]:
    low, high = metrics["interval"] or (None, None)
    timing = metrics.get("timing") or {}
    return [
        metrics["task"],
        _number(metrics["accuracy"], 1, 100),
        None if low is None else f"{100 * low:.1f} - {100 * high:.1f}",
        metrics["n"],
        metrics["unparsed"],
        metrics["skipped"],
        _number(metrics["tokens_before"], 1),
        _number(metrics["tokens_after"], 1),
        _number(timing.get("seconds_per_example", {}).get("total"), 3),
    ]


def _number(value: float | None, digits: int, factor: float = 1) -> str | None:
    return None if value is None else f"{factor * value:.{digits}f}"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True
