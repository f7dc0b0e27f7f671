"""Tables and plots of the study: docs/study.md from the lines that ``scripts/study.py`` wrote.

python scripts/study_report.py [--results docs/study] [--out docs/study.md]

Needs matplotlib. What the figures show is told in docs/study/*.md, which goes in as it stands.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from olmo.command_line import Parser, RunError, exit_code, path
from olmo.eval.metrics import bootstrap_interval
from olmo.text import markdown_table

ORDER = ("dense", "scorer", "easy", "heuristic", "evs", "random")
COLOURS = dict(zip(ORDER, ("black", "C3", "C0", "C2", "C4", "C7"), strict=True))


@dataclass(frozen=True)
class Setting:
    """One method at one share, in all its seeds."""

    name: str
    topk: float
    lines: tuple[dict[str, Any], ...]

    @property
    def label(self) -> str:
        return self.name if not self.topk else f"{self.name} {self.topk:.0%}"

    @cached_property
    def answers(self) -> np.ndarray:
        """Share of the seeds that answer a question right, ``[questions]``."""
        each = ["".join(line["correct"].values()) for line in self.lines]
        return np.array([[int(c) for c in one] for one in each], dtype=float).mean(0)

    def family(self, name: str) -> float:
        rows = [[int(c) for c in line["correct"][name]] for line in self.lines]
        return float(np.mean(rows))

    def mean(self, key: str) -> float:
        return float(np.mean([line[key] for line in self.lines]))

    @property
    def spread(self) -> str:
        """Accuracy: mean over the seeds, and its range."""
        each = ["".join(line["correct"].values()) for line in self.lines]
        shares = sorted(100 * one.count("1") / len(one) for one in each)
        return f"{np.mean(shares):.1f} ({shares[0]:.1f} to {shares[-1]:.1f})"

    def against(self, other: Setting) -> str:
        """Points above ``other``, with the interval over the questions."""
        gaps = 100 * (self.answers - other.answers)
        low, high = bootstrap_interval(gaps.tolist())
        return f"{gaps.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def read_results(folder: Path, plan: str) -> list[Setting]:
    """Settings of a plan, in the order of ``ORDER`` and the share; the newest line of a run."""
    file = folder / f"{plan}.jsonl"
    if not file.exists():
        return []
    groups: dict[tuple[str, float], dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in map(json.loads, file.read_text().splitlines()):
        groups[line["run"], line["topk"]][line["seed"]] = line
    found = [
        Setting(name, topk, tuple(lines[seed] for seed in sorted(lines)))
        for (name, topk), lines in groups.items()
    ]
    place = {name: i for i, name in enumerate(ORDER)}
    return sorted(found, key=lambda one: (place.get(one.name, len(ORDER)), one.name, one.topk))


def only(settings: Iterable[Setting], name: str, topk: float) -> Setting | None:
    return next((one for one in settings if (one.name, one.topk) == (name, topk)), None)


def table(settings: list[Setting], dense: Setting | None, others: list[Setting]) -> str:
    """All settings; differences are to ``dense`` and to random pruning of the same share."""
    columns = ["setting", "seeds", "accuracy %", "against dense", "against random"]
    columns += ["events kept %", "tokens kept %", "FLOPs %"]
    rows = []
    for one in settings:
        random = only(others, "random", one.topk)
        rows.append(
            [
                *(one.label, len(one.lines), one.spread),
                one.against(dense) if dense and one is not dense else None,
                one.against(random) if random and one is not random else None,
                f"{100 * one.mean('recall'):.1f}",
                f"{100 * one.mean('kept'):.1f}",
                f"{100 * one.mean('flops'):.1f}",
            ]
        )
    return markdown_table(columns, rows)


def family_table(settings: list[Setting]) -> str:
    """Accuracy by kind of question."""
    families = list(settings[0].lines[0]["correct"])
    rows = [[one.label, *(f"{100 * one.family(f):.0f}" for f in families)] for one in settings]
    return markdown_table(["setting", *families], rows)


def plot(settings: list[Setting], file: Path) -> None:
    """Accuracy and kept events against kept tokens, and accuracy against FLOPs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    def accuracy(one: Setting) -> float:
        return 100 * float(one.answers.mean())

    def figure(key: str) -> Callable[[Setting], float]:
        return lambda one: 100 * one.mean(key)

    panels = [
        ("tokens kept %", figure("kept"), "accuracy %", accuracy),
        ("tokens kept %", figure("kept"), "events kept %", figure("recall")),
        ("FLOPs of a prefill, % of dense", figure("flops"), "accuracy %", accuracy),
    ]
    canvas, axes = plt.subplots(1, len(panels), figsize=(13, 4), layout="constrained")
    for axis, (x_label, x, y_label, y) in zip(axes, panels, strict=True):
        for name in ORDER:
            some = [one for one in settings if one.name in (name, "dense")]
            if name == "dense" or len(some) < 2:
                continue
            some.sort(key=x)
            axis.plot([x(s) for s in some], [y(s) for s in some], "o-", label=name, c=COLOURS[name])
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    canvas.savefig(file, dpi=110)
    plt.close(canvas)


def origin(settings: list[Setting]) -> str:
    """When, where and how the lines of a plan were made."""
    lines = [line for one in settings for line in one.lines]
    dates = sorted({line["date"] for line in lines})
    commits = ", ".join(sorted({line["commit"] for line in lines}))
    machines = ", ".join(sorted({line["machine"] for line in lines}))
    hours = sum(sum(line["seconds"].values()) for line in lines) / 3600
    return (
        f"{len(lines)} runs of {lines[0]['steps']} steps, {dates[0]} to {dates[-1]}, commit "
        f"{commits}; {machines} each, {hours:.1f} hours together."
    )


def report(results: Path, out: Path) -> str:
    """The whole page."""
    main = read_results(results, "main")
    if not main:
        raise RunError(f"{results / 'main.jsonl'}: no results; scripts/study.py makes them")
    picture = results / "main.png"
    plot(main, picture)
    dense = only(main, "dense", 0.0)
    shown = [one for one in main if one.name in ("dense", "scorer", "random")]
    parts = ["# Does it learn? A study on clips whose events are known", ""]
    for title, text in (
        ("", _text(results, "intro")),
        ("## Methods and shares", table(main, dense, main)),
        ("", f"![Accuracy and kept events]({picture.relative_to(out.parent)})"),
        ("", origin(main)),
        ("## By kind of question", family_table(shown)),
    ):
        parts += [title, "", text, ""] if title else [text, ""]
    for plan in sorted(file.stem for file in results.glob("*.jsonl") if file.stem != "main"):
        settings = read_results(results, plan)
        text = _text(results, plan)
        parts += [
            text,
            "",
            table(settings, only(settings, "dense", 0.0) or dense, [*settings, *main]),
        ]
        parts += ["", origin(settings), ""]
    return "\n".join([*parts, _text(results, "conclusion")]).rstrip() + "\n"


def _text(results: Path, name: str) -> str:
    file = results / f"{name}.md"
    return file.read_text().strip() if file.exists() else f"## {name.capitalize()}"


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
