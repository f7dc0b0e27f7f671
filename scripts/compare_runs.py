"""Several evaluation runs in one table.

    python scripts/compare_runs.py runs/stts/eval
    python scripts/compare_runs.py dense=runs/a/eval/step100 "STTS 50%=runs/b/eval/step100"

Each argument is the folder of a run (it holds TASK/metrics.json), or a folder of such folders,
whose runs are sorted, dense first; each may be given a label. The first run is the baseline: a star
marks an accuracy that differs from its own (paired over the questions, p < 0.05); a second table
gives the differences. ``--html`` also writes a page with both, scatter plots, categories and
failures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from olmo.command_line import Parser, exit_code, path
from olmo.eval.compare import Run, accuracy_table, difference_table, load_runs
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


def render(runs: Sequence[Run], form: str) -> str:
    """The tables of these runs as text."""
    accuracy, differences = accuracy_table(runs), difference_table(runs)
    if form == "json":
        tables = {"accuracy": accuracy, "differences": differences}
        rows = {
            name: [dict(zip(headers, row, strict=True)) for row in body]
            for name, (headers, body) in tables.items()
        }
        return json.dumps(rows, indent=2)
    table = FORMATS[form]
    parts = [table(*accuracy)]
    if differences[1]:
        parts += ["", f"Differences from {runs[0].label}:", "", table(*differences)]
    return "\n".join(parts)


@exit_code()
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    runs = load_runs(args.runs)
    if args.html:
        from olmo.eval.report_html import report_page

        write_text(args.html, report_page(runs, f"Evaluation: {len(runs)} runs side by side"))
    text = render(runs, args.format)
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
