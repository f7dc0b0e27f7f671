"""The measuring loop: checks, turns, times, memory, and what follows from them."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from tqdm import tqdm

from olmo.eval.benchmark.checks import Checker, WorkMismatch, check_outcome
from olmo.eval.benchmark.clock import Clock, split_parts, watched
from olmo.eval.benchmark.inputs import DENSE, Inputs, Setting, settings
from olmo.eval.benchmark.memory import (
    MemoryRun,
    MemoryRunError,
    PeakMemory,
    can_measure_cpu,
    cpu_peak,
    gpu_peak,
    reset_gpu_peak,
)
from olmo.eval.benchmark.presets import ModelSpec, Plan
from olmo.eval.benchmark.workload import STAGES, Stage, run_stage, stage_flops
from olmo.eval.timing import Spread, take_turns
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from olmo.nn.flops import StageFlops

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to measure: rounds that count, threads, and whether the CPU's peak memory is taken
    (of training stages, in processes of their own)."""

    repeats: int = 5
    threads: int = 1
    cpu_memory: bool = True


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
        flops: forward FLOPs of all rows, by part; a training step needs the same multiple of it
            with and without pruning.
        seconds: of a run; ``rounds`` holds each of them.
        parts: median seconds by part.
        speedup: dense over pruned time: ratio of the medians, smallest and largest ratio of a
            round. None where ``problem`` says why.
        ceiling: dense over pruned FLOPs; ``ceiling_without_scorer`` leaves the scorer out.
        memory: peak of a run over what was there before.
        memory_share: ``memory.extra`` over that of dense.
    """

    preset: str
    stage: str
    n_frames: int
    n_rows: int
    setting: Setting
    cells: int
    all_cells: int
    flops: StageFlops
    ceiling: float
    ceiling_without_scorer: float
    seconds: Spread | None = None
    rounds: list[float] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    speedup: Spread | None = None
    memory: PeakMemory | None = None
    memory_share: float | None = None
    problem: str | None = None

    @property
    def reached(self) -> float | None:
        """Share of the ceiling."""
        return None if self.speedup is None else self.speedup.median / self.ceiling


@dataclass(frozen=True)
class Group:
    """Settings on the same inputs."""

    stage: str
    n_frames: int
    n_rows: int
    settings: tuple[Setting, ...]


def groups(plan: Plan) -> list[Group]:
    """``ValueError`` for a stage, method or layout that does not exist, or an empty grid."""
    if unknown := [s for s in plan.stages if s not in STAGES]:
        raise ValueError(f"stages: {unknown[0]!r} is not one of {', '.join(STAGES)}")
    for name in ("frames", "batch_sizes"):
        if any(n < 1 for n in getattr(plan, name)):
            raise ValueError(f"{name} must be at least 1, got {getattr(plan, name)}")
    all_settings = settings(plan.topk, plan.methods, plan.layouts)
    out = []
    for stage, n_frames, n_rows in product(plan.stages, plan.frames, plan.batch_sizes):
        chosen = tuple(s for s in all_settings if STAGES[stage].applies_to(s))
        out.append(Group(stage, n_frames, n_rows, chosen))
    return out


def run_plan(plan: Plan, spec: ModelSpec, options: Options) -> Iterator[list[Result]]:
    """Measure group by group. The first group of a stage starts with its checks."""
    model = spec.build()
    checker = Checker(model, spec.seed)
    for group in groups(plan):
        stage = STAGES[group.stage]
        problems = {s: checker.problem(s, stage) for s in group.settings}
        inputs = Inputs.make(model.config, group.n_frames, group.n_rows, spec.seed, model.device)
        runs = time_group(model, inputs, group, problems, options.repeats)
        if model.device.type == "cpu" and options.cpu_memory and stage.trains:
            _measure_cpu_memory(group, runs, spec, options.threads)
        yield summarize(model, inputs, plan.preset, group, runs)


def time_group(
    model: TemporalVideoOlmo,
    inputs: Inputs,
    group: Group,
    problems: dict[Setting, str | None],
    repeats: int,
) -> dict[Setting, Runs]:
    """Run the settings in turns; those with a problem are left out."""
    stage = STAGES[group.stage]
    model.train(stage.trains)
    runs = {s: Runs(problem=problems[s]) for s in group.settings}
    before = inputs.digest()
    n_runs = (repeats + 1) * len(runs)
    name = f"{group.stage}, {group.n_frames} frames, batch {group.n_rows}"
    clock = Clock(model.device)
    with watched(model, clock), tqdm(total=n_runs, desc=name, unit="run") as bar:
        for counts, order in take_turns(list(runs), repeats):
            for setting in order:
                bar.update()
                if runs[setting].problem is None:
                    _run_once(model, inputs, setting, stage, clock, runs[setting], counts)
    model.zero_grad(set_to_none=True)
    if inputs.digest() != before:
        for run in runs.values():
            run.problem = run.problem or "not the same work: a run changed the inputs"
    return runs


def _run_once(
    model: TemporalVideoOlmo,
    inputs: Inputs,
    setting: Setting,
    stage: Stage,
    clock: Clock,
    runs: Runs,
    counts: bool,
) -> None:
    """One timed run and its checks; adds to ``runs`` if it ``counts``."""
    setting.apply(model)
    model.zero_grad(set_to_none=True)
    on_gpu = model.device.type == "cuda"
    baseline = reset_gpu_peak(model.device) if on_gpu else 0
    clock.read()
    try:
        start = time.perf_counter()
        out = run_stage(model, inputs, stage, clock)
        clock.synchronize()
        seconds = time.perf_counter() - start
        check_outcome(model, inputs, setting, stage, out)
    except torch.cuda.OutOfMemoryError:
        runs.problem = "out of memory"
    except WorkMismatch as e:
        runs.problem = f"not the same work: {e}"
    else:
        if counts:
            runs.seconds.append(seconds)
            runs.parts.append(split_parts(clock.read(), seconds))
            runs.memory = gpu_peak(model.device, baseline) if on_gpu else None
    if runs.problem == "out of memory":
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def _measure_cpu_memory(
    group: Group, runs: dict[Setting, Runs], spec: ModelSpec, threads: int
) -> None:
    if not can_measure_cpu():
        return
    for setting, run in tqdm(runs.items(), desc="peak memory", unit="run"):
        if run.problem is None:
            job = MemoryRun(spec, group.stage, setting, group.n_frames, group.n_rows, threads)
            try:
                run.memory = cpu_peak(job)
            except MemoryRunError as e:
                log.warning("no peak memory of %s, %s: %s", group.stage, setting.label, e)


def summarize(
    model: TemporalVideoOlmo,
    inputs: Inputs,
    preset: str,
    group: Group,
    runs: dict[Setting, Runs],
) -> list[Result]:
    """Results of a group, dense first. There is no speed-up without a sound dense side."""
    stage, dense, out = STAGES[group.stage], runs[DENSE], []
    DENSE.apply(model)
    dense_flops = stage_flops(model.config, inputs, stage).total
    for setting, run in runs.items():
        setting.apply(model)
        flops = stage_flops(model.config, inputs, stage)
        problem = run.problem
        if problem is None and dense.problem is not None:
            problem = f"dense: {dense.problem}"
        speedup = memory_share = None
        if problem is None and setting != DENSE:
            speedup = compare(dense.seconds, run.seconds)
            if run.memory and dense.memory:
                memory_share = run.memory.extra / max(dense.memory.extra, 1)
        out.append(
            Result(
                preset,
                group.stage,
                group.n_frames,
                group.n_rows,
                setting,
                inputs.n_kept(model.config, setting),
                inputs.n_kept(model.config, DENSE),
                _times(flops, group.n_rows),
                dense_flops / flops.total,
                dense_flops / (flops.total - flops.scorer),
                Spread.of(run.seconds) if run.seconds else None,
                run.seconds,
                _medians(run.parts),
                speedup,
                run.memory,
                memory_share,
                problem,
            )
        )
    return out


def compare(dense: Sequence[float], pruned: Sequence[float]) -> Spread:
    """Speed-up of ``pruned`` from the seconds of the same rounds: ratio of the medians, lowest
    and highest ratio within a round."""
    ratios = [d / p for d, p in zip(dense, pruned, strict=True)]
    return Spread(statistics.median(dense) / statistics.median(pruned), min(ratios), max(ratios))


def _times(flops: StageFlops, n_rows: int) -> StageFlops:
    return StageFlops(**{k: v * n_rows for k, v in dataclasses.asdict(flops).items()})


def _medians(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(p[name] for p in parts) for name in (parts or [{}])[0]}
