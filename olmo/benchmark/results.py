"""Summarise the times of a group: one line of the table for each setting."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from olmo.benchmark.memory import PeakMemory
from olmo.benchmark.plan import DENSE, STOCK, Group, Setting
from olmo.benchmark.work import Inputs, Work, stage_work
from olmo.eval.timing import Spread
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from olmo.nn.flops import PEAK_BANDWIDTH, PEAK_FLOPS, TRAINING, peak_of
from olmo.text import number

Centre = Callable[[Sequence[float]], float]
RATES = ("ms/token", "tokens/s", "TFLOP/s", "GB/s", "of card %")
MIB = 1 << 20


@dataclass
class Runs:
    """The runs of one setting, round by round."""

    seconds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    memory: PeakMemory | None = None
    problem: str | None = None
    """Why this setting has no result, or no speed-up."""


@dataclass
class Result:
    """One line of the table.

    Attributes:
        shapes: ``fixed``, or ``varying`` from round to round: then ``flops``, ``bytes``,
            ``seconds`` and the speed-ups are of means over the rounds, not of medians.
        cells: kept cells of a row; ``all_cells`` before pruning.
        flops, bytes: see ``Work``.
        ceiling: dense over pruned FLOPs, for decoding bytes.
        seconds: of a run; ``rounds`` holds each of them. Of a decoding run without its prefill.
        parts: median seconds by part.
        rates: what ``seconds`` amount to, by unit. FLOPs that are computed twice count once.
        speedup: dense over pruned time: ratio of the medians, smallest and largest ratio of a
            round. None where ``problem`` says why.
        speedup_over_best: the same over the faster of our dense run and that of transformers.
        memory: peak of a run over what was there before.
        memory_share: ``memory.extra`` over that of dense.
    """

    stage: str
    n_frames: int
    n_rows: int
    shapes: str
    setting: Setting
    cells: int
    all_cells: int
    flops: dict[str, float]
    bytes: float
    ceiling: float
    seconds: Spread | None = None
    rounds: list[float] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float | None] = field(default_factory=dict)
    speedup: Spread | None = None
    speedup_over_best: Spread | None = None
    memory: PeakMemory | None = None
    memory_share: float | None = None
    problem: str | None = None

    @property
    def reached(self) -> float | None:
        """Share of the ceiling."""
        return None if self.speedup is None else self.speedup.median / self.ceiling

    @property
    def title(self) -> str:
        """Of all settings on the same inputs."""
        vary = ", varying" if self.shapes == "varying" else ""
        return f"{self.stage}, {self.n_frames} frames, batch {self.n_rows}{vary}"

    @property
    def name(self) -> str:
        return f"{self.title}, {self.setting.label}"

    def row(self) -> dict[str, object]:
        """Cells of the table by column; None where there is nothing to show."""
        best, memory = self.speedup_over_best, self.memory
        rates = {unit: value and f"{value:.3g}" for unit, value in self.rates.items()}
        return {
            "stage": self.stage,
            "frames": self.n_frames,
            "rows": self.n_rows,
            "shapes": "varying" if self.shapes == "varying" else None,
            "setting": self.setting.label,
            "cells kept": f"{self.cells} of {self.all_cells}",
            "seconds": self.seconds and f"{self.seconds.median:.3f}",
            "min - max": self.seconds and f"{self.seconds.low:.3f} - {self.seconds.high:.3f}",
            "speed-up": self.speedup and f"{self.speedup.median:.2f}",
            "min - max of rounds": self.speedup
            and f"{self.speedup.low:.2f} - {self.speedup.high:.2f}",
            "over best dense": best and f"{best.median:.2f}",
            "ceiling": f"{self.ceiling:.2f}",
            "reached %": number(self.reached, 1, 100),
            **{unit: rates.get(unit) for unit in RATES},
            "peak MiB": memory and f"{memory.extra / MIB:.0f}",
            "of dense %": number(self.memory_share, 1, 100),
        }

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "label": self.setting.label, "reached": self.reached}


def summarize(
    model: TemporalVideoOlmo, inputs: Sequence[Inputs], group: Group, runs: dict[Setting, Runs]
) -> list[Result]:
    """Results of a group, dense first. There is no speed-up without a sound dense side."""
    counted = inputs[1:] or inputs
    works = {s: [stage_work(model, x, s, group.work) for x in counted] for s in runs}
    work = {setting: Work.mean(found) for setting, found in works.items()}
    dense, stock = runs[DENSE], runs.get(STOCK)
    centre = statistics.fmean if group.vary else statistics.median
    out = []
    for setting, run in runs.items():
        result = Result(
            stage=group.stage,
            n_frames=group.n_frames,
            n_rows=group.n_rows,
            shapes="varying" if group.vary else "fixed",
            setting=setting,
            cells=counted[0].n_kept(model.config, setting),
            all_cells=counted[0].n_kept(model.config, DENSE),
            flops=work[setting].flops,
            bytes=work[setting].bytes,
            ceiling=work[DENSE].bound / work[setting].bound,
            rounds=run.seconds,
            memory=run.memory,
            problem=run.problem or (dense.problem and f"dense: {dense.problem}"),
        )
        out.append(result)
        if run.seconds:
            result.seconds = Spread(centre(run.seconds), min(run.seconds), max(run.seconds))
            names = run.parts[0]
            result.parts = {n: statistics.median(p[n] for p in run.parts) for n in names}
            result.rates = rates(model, group, work[setting], result.seconds.median)
        if result.problem or setting == DENSE:
            continue
        result.speedup = compare(dense.seconds, run.seconds, centre)
        if stock:
            theirs = stock.problem is None and centre(stock.seconds) < centre(dense.seconds)
            best = stock if theirs else dense
            result.speedup_over_best = compare(best.seconds, run.seconds, centre)
        if run.memory and dense.memory:
            result.memory_share = run.memory.extra / max(dense.memory.extra, 1)
    return out


def rates(
    model: TemporalVideoOlmo, group: Group, work: Work, seconds: float
) -> dict[str, float | None]:
    """Useful FLOPs, and for decoding bytes and tokens, per time; ``of card %`` is the share of
    what a known card can do: of its bytes in decoding, else of its FLOPs in bfloat16."""
    flops = work.total / seconds * (TRAINING if group.work.trains else 1)
    if not group.work.new_tokens:
        half = next(model.parameters()).dtype == torch.bfloat16
        peak = peak_of(PEAK_FLOPS, model.device) if half else None
        return {"TFLOP/s": flops / 1e12, "of card %": 100 * flops / peak if peak else None}
    steps, rate = group.work.new_tokens - 1, work.bytes / seconds
    peak = peak_of(PEAK_BANDWIDTH, model.device)
    return {
        "ms/token": 1000 * seconds / steps,
        "tokens/s": group.n_rows * steps / seconds,
        "TFLOP/s": flops / 1e12,
        "GB/s": rate / 1e9,
        "of card %": 100 * rate / peak if peak else None,
    }


def compare(
    dense: Sequence[float], pruned: Sequence[float], centre: Centre = statistics.median
) -> Spread:
    """Speed-up of ``pruned`` from the seconds of the same rounds: ratio of the medians (or other
    ``centre``), lowest and highest ratio within a round."""
    ratios = [d / p for d, p in zip(dense, pruned, strict=True)]
    return Spread(centre(dense) / centre(pruned), min(ratios), max(ratios))
