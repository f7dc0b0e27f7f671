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

from olmo.benchmark.chart import speedup_chart
from olmo.benchmark.clock import BACKWARD, PARTS
from olmo.benchmark.measure import Options
from olmo.benchmark.plan import STOCK, ModelSpec
from olmo.benchmark.results import Result
from olmo.nn.attention import kernel_table
from olmo.text import format_table, markdown_table, number

NAMES = ("stage", "frames", "rows", "shapes", "setting")
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
        return [f"{r.name}: {r.problem}" for r in self.results if r.problem]

    @property
    def warnings(self) -> list[str]:
        """One line for each speed-up that a busy machine may have spoilt."""
        found = [(r, r.speedup) for r in self.results if r.speedup]
        return [
            f"{r.name}: the rounds differ by {s.high / s.low - 1:.0%}; repeat on a quiet machine"
            for r, s in found
            if s.high > NOISY * s.low
        ]

    @property
    def notes(self) -> list[str]:
        """Stages that ``--baseline transformers`` does not cover."""
        asked = {r.stage for r in self.results} if self.options.baseline else set()
        without = sorted(asked - {r.stage for r in self.results if r.setting == STOCK})
        return [f"{stage}: transformers was not run, only for whole models" for stage in without]

    def _columns(self) -> tuple[list[str], list[list[object]]]:
        """Headers and rows of the table, without empty columns."""
        rows = [r.row() for r in self.results]
        names = [n for n in (rows or [{}])[0] if any(row[n] is not None for row in rows)]
        return names, [[row[n] for n in names] for row in rows]

    def table(self) -> str:
        """For a terminal."""
        table = format_table(*self._columns())
        return "\n".join([table, *self.problems, *self.warnings, *self.notes])

    def markdown(self) -> str:
        """The same, where the time goes, and how it was measured."""
        lines = ["# Benchmark", "", f"    {self.command}", "", self.setting_line(), ""]
        lines += [markdown_table(*self._columns()), ""]
        if remarks := [f"- {text}" for text in (*self.problems, *self.warnings, *self.notes)]:
            lines += [*remarks, ""]
        lines += [self.kernel_line(), "", "Where the time goes, median milliseconds:", ""]
        lines += [markdown_table(*_parts_table(self.results)), ""]
        return "\n".join(lines)

    def setting_line(self) -> str:
        """Machine and method in one sentence."""
        found = environment(self.spec.device)
        return (
            f"{found['device']}, torch {found['torch']}, {self.spec.dtype}, "
            f"threads: {self.options.threads}; medians (of varying shapes: means) of "
            f"{self.options.repeats} rounds in which the settings take turns."
        )

    def kernel_line(self) -> str:
        """Which kernels run our attention."""
        return f"Attention: {'; '.join(f'{case}: {name}' for case, name in self._kernels())}."

    def _kernels(self) -> list[tuple[str, str]]:
        return kernel_table(torch.device(self.spec.device), getattr(torch, self.spec.dtype))

    def json(self) -> str:
        data = {
            "command": self.command,
            "environment": environment(self.spec.device),
            "attention": dict(self._kernels()),
            "model": dataclasses.asdict(self.spec),
            "options": dataclasses.asdict(self.options),
            "results": [r.json() for r in self.results],
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


def _parts_table(results: Sequence[Result]) -> tuple[tuple[str, ...], list[list[object]]]:
    found = {part for r in results for part in r.parts}
    parts = [part for part in (*PARTS, BACKWARD, "prefill", "decode", "other") if part in found]
    rows: list[list[object]] = []
    for r in results:
        times = [number(r.parts.get(p), 1, 1000) for p in parts]
        rows.append([r.stage, r.n_frames, r.n_rows, r.shapes, r.setting.label, *times])
    return (*NAMES, *parts), rows
