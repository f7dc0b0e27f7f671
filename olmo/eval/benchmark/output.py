"""Results as a table, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from olmo.eval.benchmark.chart import speedup_chart
from olmo.eval.benchmark.clock import PARTS
from olmo.eval.benchmark.measure import Options, Result
from olmo.eval.benchmark.presets import ModelSpec
from olmo.eval.comparison import markdown_table
from olmo.eval.report import format_table
from olmo.eval.timing import Spread

COLUMNS = (
    "stage",
    "frames",
    "rows",
    "setting",
    "cells kept",
    "seconds",
    "min - max",
    "speed-up",
    "min - max of rounds",
    "ceiling",
    "reached %",
    "peak MiB",
    "of dense %",
)
MIB = 1 << 20
NOISY = 1.15
"""Ratio of the highest to the lowest speed-up of a round from which a warning is due."""


@dataclass
class Report:
    """All results of a call, and where they come from."""

    command: str
    spec: ModelSpec
    options: Options
    results: list[Result] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """One line for each result without a speed-up."""
        return [f"{_name(r)}: {r.problem}" for r in self.results if r.problem]

    @property
    def warnings(self) -> list[str]:
        """One line for each speed-up that a busy machine may have spoilt."""
        found = [(r, r.speedup) for r in self.results if r.speedup]
        return [
            f"{_name(r)}: the rounds differ by {s.high / s.low - 1:.0%}; repeat on a quiet machine"
            for r, s in found
            if s.high > NOISY * s.low
        ]

    def table(self) -> str:
        """For a terminal."""
        table = format_table(COLUMNS, [_row(r) for r in self.results])
        return "\n".join([table, *self.problems, *self.warnings])

    def markdown(self) -> str:
        """The same, where the time goes, and how it was measured."""
        lines = ["# Benchmark", "", f"    {self.command}", "", self.setting_line(), ""]
        lines += [markdown_table(COLUMNS, [_row(r) for r in self.results]), ""]
        if remarks := [f"- {text}" for text in (*self.problems, *self.warnings)]:
            lines += [*remarks, ""]
        lines += ["Where the time goes, median milliseconds:", ""]
        lines += [markdown_table(*_parts_table(self.results)), ""]
        return "\n".join(lines)

    def setting_line(self) -> str:
        """Machine and method in one sentence."""
        found = environment(self.spec.device)
        return (
            f"{found['device']}, torch {found['torch']}, {self.spec.dtype}, "
            f"threads: {self.options.threads}; medians of {self.options.repeats} rounds in which "
            "the settings take turns."
        )

    def json(self) -> str:
        data = {
            "command": self.command,
            "environment": environment(self.spec.device),
            "model": dataclasses.asdict(self.spec),
            "options": dataclasses.asdict(self.options),
            "results": [
                {**dataclasses.asdict(r), "label": r.setting.label, "reached": r.reached}
                for r in self.results
            ],
        }
        return json.dumps(data, indent=2) + "\n"

    def save(self, folder: Path) -> list[Path]:
        """Write ``benchmark.md``, ``.json`` and ``.png``; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"benchmark.{suffix}" for suffix in ("md", "json", "png")]
        paths[0].write_text(self.markdown())
        paths[1].write_text(self.json())
        speedup_chart(self.results, self.setting_line()).save(paths[2])
        return paths


def environment(device: str) -> dict[str, Any]:
    """Versions and hardware."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else _cpu_name(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _name(result: Result) -> str:
    shape = f"{result.n_frames} frames, batch {result.n_rows}"
    return f"{result.stage}, {shape}, {result.setting.label}"


def _row(r: Result) -> list[object]:
    reached = r.reached
    extra = None if r.memory is None else r.memory.extra / MIB
    return [
        r.stage,
        r.n_frames,
        r.n_rows,
        r.setting.label,
        f"{r.cells} of {r.all_cells}",
        None if r.seconds is None else f"{r.seconds.median:.3f}",
        _range(r.seconds, 3),
        None if r.speedup is None else f"{r.speedup.median:.2f}",
        _range(r.speedup, 2),
        f"{r.ceiling:.2f}",
        _number(None if reached is None else 100 * reached, 1),
        _number(extra, 0),
        _number(None if r.memory_share is None else 100 * r.memory_share, 1),
    ]


def _parts_table(results: Sequence[Result]) -> tuple[tuple[str, ...], list[list[object]]]:
    found = {part for r in results for part in r.parts}
    parts = [part for part in (*PARTS, "backward", "other") if part in found]
    rows: list[list[object]] = []
    for r in results:
        times = [_number(1000 * r.parts[p] if p in r.parts else None, 1) for p in parts]
        rows.append([r.stage, r.n_frames, r.n_rows, r.setting.label, *times])
    return (*COLUMNS[:4], *parts), rows


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _range(spread: Spread | None, digits: int) -> str | None:
    return None if spread is None else f"{spread.low:.{digits}f} - {spread.high:.{digits}f}"
