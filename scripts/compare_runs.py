"""Several evaluation runs in one table.

    python scripts/compare_runs.py runs/stts/eval
    python scripts/compare_runs.py dense=runs/a/eval/step100 "STTS 50%=runs/b/eval/step100"

Each argument is the folder of a run (it holds TASK/metrics.json), which may be given a label, or a
folder of such folders, or of a training run, whose eval holds them: they are sorted, dense first.
The first run is the baseline: a star marks an accuracy that differs from its own (paired over the
questions, p < 0.05); a second table gives the differences. ``--html`` also writes a page with both,
scatter plots, categories and failures; ``--format=json`` gives the values as numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from olmo.command_line import Parser, exit_code, path
from olmo.eval.compare import Comparison, accuracy_table, compare, difference_table
from olmo.eval.runs import load_runs
from olmo.files import write_text
from olmo.text import format_table, markdown_table

FORMATS = {"text": format_table, "markdown": markdown_table}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("runs", nargs="+", metavar="[LABEL=]FOLDER", help="results of eval_molmo2.py")
    add("--format", choices=(*FORMATS, "json"), default="text", help="of the output (text)")
    add("--out", type=path, metavar="FILE", help="write there instead of to the screen")
    add("--html", type=path, metavar="FILE", help="also write a page for a browser there")
    return parser.parse_args(argv)


def render(found: Comparison, form: str) -> str:
    """The tables as text, or the values that they are made of."""
    if form == "json":
        return json.dumps(asdict(found), indent=2, allow_nan=False)
    table, (headers, rows) = FORMATS[form], difference_table(found)
    parts = [table(*accuracy_table(found)), *(f"\n{note}" for note in found.notes)]
    if rows:
        parts += ["", f"Differences from {found.runs[0].setting}:", "", table(headers, rows)]
    return "\n".join(parts)


@exit_code()
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    runs = load_runs(args.runs)
    if args.html:
        from olmo.eval.report_html import report_page

        write_text(args.html, report_page(runs, f"Evaluation: {len(runs)} runs side by side"))
    text = render(compare(runs), args.format)
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
