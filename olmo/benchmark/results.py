"""Summarise the times of a group: one line of the table for each setting."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle

import torch

from olmo.benchmark.decode_work import PEAK_BANDWIDTH
from olmo.benchmark.inputs import DENSE, QUESTION_TOKENS, STOCK, Inputs, Setting
from olmo.benchmark.memory import PeakMemory
from olmo.benchmark.presets import NEW_TOKENS, STAGES, Stage
from olmo.benchmark.workload import Work, mean_work, stage_work
from olmo.eval.timing import Spread
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from olmo.nn.flops import PEAK_FLOPS, TRAINING, StageFlops, peak_of

Centre = Callable[[Sequence[float]], float]


@dataclass(frozen=True)
class Group:
    """Settings on the same inputs."""

    stage: str
    n_frames: int
    n_rows: int
    settings: tuple[Setting, ...]
    vary: bool = False
    new_tokens: int = NEW_TOKENS

    @property
    def work(self) -> Stage:
        stage = STAGES[self.stage]
        return replace(stage, new_tokens=self.new_tokens if stage.new_tokens else 0)

    @property
    def centre(self) -> Centre:
        """The mean of runs whose shapes vary, else the median."""
        return statistics.fmean if self.vary else statistics.median

    def inputs(self, model: TemporalVideoOlmo, n_rounds: int, seed: int) -> list[Inputs]:
        """One for each round, the same one if the shapes are fixed."""
        if not self.vary:
            n_rounds, frames, questions = 1, [self.n_frames], [QUESTION_TOKENS]
        else:
            draw = random.Random(seed)
            frames = [*range(self.n_frames - self.n_frames // 10, self.n_frames + 1)]
            questions = [*range(QUESTION_TOKENS // 2, 2 * QUESTION_TOKENS)]
            draw.shuffle(frames)
            draw.shuffle(questions)
        shapes = zip(range(n_rounds), cycle(frames), cycle(questions))
        return [
            Inputs.make(model.config, n_frames, self.n_rows, seed + i, model.device, n_question)
            for i, n_frames, n_question in shapes
        ]


@dataclass
class Runs:
    """The runs of one setting, round by round."""

    seconds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    memory: PeakMemory | None = None
    problem: str | None = None
    """Why this setting has no result, or no speed-up."""


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        cells: kept cells of a row; ``all_cells`` before pruning.
        shapes: ``fixed``, or ``varying`` from round to round: then ``flops``, ``bytes``,
            ``seconds`` and the speed-ups are of means over the rounds, not of medians.
        flops, bytes: see ``Work``.
        seconds: of a run; ``rounds`` holds each of them. Of a decoding run without its prefill.
        parts: median seconds by part.
        speedup: dense over pruned time: ratio of the medians, smallest and largest ratio of a
            round. None where ``problem`` says why.
        speedup_over_best: the same over the faster of our dense run and that of transformers.
        ceiling: dense over pruned FLOPs, for decoding bytes.
        rates: what ``seconds`` amount to, by unit. FLOPs that are computed twice count once.
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
    flops: StageFlops
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


def summarize(
    model: TemporalVideoOlmo, inputs: Sequence[Inputs], group: Group, runs: dict[Setting, Runs]
) -> list[Result]:
    """Results of a group, dense first. There is no speed-up without a sound dense side."""
    counted, centre, out = inputs[1:] or inputs, group.centre, []
    work = {s: mean_work([stage_work(model, x, s, group.work) for x in counted]) for s in runs}
    dense, stock = runs[DENSE], runs.get(STOCK)
    for setting, run in runs.items():
        problem = run.problem
        if problem is None and dense.problem is not None:
            problem = f"dense: {dense.problem}"
        speedup = over_best = share = seconds = None
        if problem is None and setting != DENSE:
            speedup = over_best = compare(dense.seconds, run.seconds, centre)
            if stock and stock.problem is None and centre(stock.seconds) < centre(dense.seconds):
                over_best = compare(stock.seconds, run.seconds, centre)
            if run.memory and dense.memory:
                share = run.memory.extra / max(dense.memory.extra, 1)
        if run.seconds:
            seconds = Spread(centre(run.seconds), min(run.seconds), max(run.seconds))
        out.append(
            Result(
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
                seconds=seconds,
                rounds=run.seconds,
                parts=_medians(run.parts),
                rates=rates(model, group, work[setting], seconds.median) if seconds else {},
                speedup=speedup,
                speedup_over_best=over_best if stock else None,
                memory=run.memory,
                memory_share=share,
                problem=problem,
            )
        )
    return out


def rates(
    model: TemporalVideoOlmo, group: Group, work: Work, seconds: float
) -> dict[str, float | None]:
    """Useful FLOPs, and for decoding bytes and tokens, per time; ``of card %`` is the share of
    what a known card can do: of its bytes in decoding, else of its FLOPs in bfloat16."""
    flops = work.flops.total / seconds * (TRAINING if group.work.trains else 1)
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


def _medians(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(p[name] for p in parts) for name in (parts or [{}])[0]}
