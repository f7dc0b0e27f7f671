"""Tables and plots of the study: docs/study.md from the lines that ``scripts/study.py`` wrote.

python scripts/study_report.py [--results docs/study] [--out docs/study.md]

Needs matplotlib. What the figures show is told in docs/study/*.md, which goes in as it stands.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from olmo.command_line import Parser, RunError, exit_code, path
from olmo.eval.study import (
    ORDER,
    Setting,
    columns,
    family_table,
    in_order,
    only,
    read_results,
    table,
)
from olmo.text import markdown_table

COLOURS = dict(zip(ORDER, ("black", "C3", "C0", "C2", "C4", "C7"), strict=True))
HALF = ", trained at 50%"


def clips(settings: list[Setting]) -> tuple[str, int]:
    """What was asked about."""
    line = settings[0].lines[0]
    return line["test"], line["clips"]


def by_training(settings: list[Setting]) -> tuple[list[Setting], list[Setting]]:
    """Those trained at half, whatever they are asked at, and the dense model; and those that were
    trained at another share. Both under the names of their methods."""
    halves, others = [], []
    for one in settings:
        is_half = one.name.endswith(HALF) or (not one.how_asked and one.topk in (0, 0.5))
        named = replace(one, name=one.name.removesuffix(one.how_asked)) if one.how_asked else one
        (halves if is_half else others).append(named)
    return in_order(halves), in_order(others)


def plot(settings: list[Setting], file: Path) -> None:
    """Accuracy and kept events against kept tokens, accuracy against FLOPs and measured time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    def accuracy(one: Setting) -> float:
        return 100 * float(np.mean(list(one.answers.values())))

    def figure(key: str) -> Callable[[Setting], float]:
        return lambda one: 100 * one.mean(key)

    def scoring(one: Setting) -> float:
        return float(np.mean([line["seconds"]["scoring"] for line in one.lines]))

    halves, others = by_training(settings)
    dense = only(halves, "dense", 0.0) or settings[0]
    panels = [
        ("tokens kept %", figure("kept"), "accuracy %", accuracy),
        ("tokens kept %", figure("kept"), "events kept %", figure("recall")),
        ("FLOPs of a prefill, % of dense", figure("flops"), "accuracy %", accuracy),
        (
            *("time of all answers, % of dense", lambda s: 100 * scoring(s) / scoring(dense)),
            *("accuracy %", accuracy),
        ),
    ]
    canvas, axes = plt.subplots(1, len(panels), figsize=(16, 4), layout="constrained")
    for axis, (x_label, x, y_label, y) in zip(axes, panels, strict=True):
        for name in ORDER[1:]:
            shown = sorted((one for one in halves if one.name in ("dense", name)), key=x)
            if len(shown) > 1:
                points = [x(s) for s in shown], [y(s) for s in shown]
                axis.plot(*points, "o-", label=name, c=COLOURS[name])
            shown = [one for one in others if one.name == name]
            points = [x(s) for s in shown], [y(s) for s in shown]
            label = f"{name}, trained at another share" if shown else None
            axis.plot(*points, "x", label=label, c=COLOURS[name])
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    canvas.savefig(file, dpi=110)
    plt.close(canvas)


def origin(settings: list[Setting]) -> str:
    """When, where and how the lines of a plan were made."""
    lines = [line for one in settings for line in one.lines]
    dates = sorted({line["date"] for line in lines})
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    commits = ", ".join(sorted({line["commit"] for line in lines}))
    machines = ", ".join(sorted({line["machine"] for line in lines}))
    hours = sum(sum(line["seconds"].values()) for line in lines) / 3600
    steps = " or ".join(map(str, sorted({line["steps"] for line in lines})))
    n_trained = sum(line["seconds"]["training"] > 0 for line in lines)  # others were there already
    made = f"{n_trained} trainings of {steps} steps" if n_trained else "Trained as above"
    return f"{made}, {days}, commit {commits}; {machines} each, {hours:.1f} hours together."


def report(results: Path, out: Path) -> str:
    """The whole page."""
    main = read_results(results / "main.jsonl")
    if not main:
        raise RunError(f"{results / 'main.jsonl'}: no results; scripts/study.py makes them")
    picture = results / "main.png"
    plot(main, picture)
    halves, elsewhere = by_training(main)
    dense = only(halves, "dense", 0.0)
    trained_there = [row for one in elsewhere for row in table([one], dense, halves, one.name)]
    shown = [one for one in halves if one.name in ("dense", "scorer", "random")] or main
    parts = ["# Does it learn? A study on clips whose events are known", ""]
    for title, text in (
        ("", _text(results, "intro")),
        (
            "## Methods and shares",
            markdown_table(columns("random"), table(halves, dense, halves, "random")),
        ),
        ("", f"![Accuracy and kept events]({os.path.relpath(picture, out.parent)})"),
        ("", origin(main)),
        ("## By kind of question", markdown_table(*family_table(shown))),
        ("", _text(results, "half")),
        ("", markdown_table(columns("training at half"), trained_there)),
    ):
        parts += [title, "", text, ""] if title else [text, ""]
    for plan in sorted(file.stem for file in results.glob("*.jsonl") if file.stem != "main"):
        if not (settings := read_results(results / f"{plan}.jsonl")):
            continue
        others = main if clips(settings) == clips(main) else settings
        rows = table(settings, only(others, "dense", 0.0), others, "scorer")
        shown_rows = markdown_table(columns("scorer"), rows)
        parts += [_text(results, plan), "", shown_rows, "", origin(settings), ""]
    return "\n".join([*parts, _text(results, "conclusion")]).rstrip() + "\n"


def _text(results: Path, name: str) -> str:
    file = results / f"{name}.md"
    if not file.exists():
        return "" if name == "conclusion" else f"## {name.capitalize()}"
    return file.read_text().strip().replace("](../", "](")  # the page lies one folder higher


@exit_code()
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--results", type=path, default=Path("docs/study"), help="result lines")
    parser.add_argument("--out", type=path, default=Path("docs/study.md"), help="page to write")
    args = parser.parse_args()
    args.out.write_text(report(args.results, args.out))
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
