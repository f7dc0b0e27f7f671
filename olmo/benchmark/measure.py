"""The measuring loop: checks, rounds that take turns, times and memory, summarised per group."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, product

import torch
from tqdm import tqdm

from olmo.benchmark.checks import Checker, WorkMismatch, check_outcome
from olmo.benchmark.clock import Clock, split_parts, watched
from olmo.benchmark.inputs import (
    STOCK,
    Inputs,
    Setting,
    settings,
)
from olmo.benchmark.memory import (
    MemoryRunError,
    can_measure_cpu,
    cpu_peak,
    gpu_peak,
    reset_gpu_peak,
)
from olmo.benchmark.presets import STAGES, ModelSpec, Plan, Stage
from olmo.benchmark.results import Group, Result, Runs, summarize
from olmo.benchmark.stock import Bench, Stock
from olmo.benchmark.workload import applies
from olmo.device import device_seconds
from olmo.eval.timing import take_turns

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to measure: rounds that count, threads, and whether the CPU's peak memory is taken
    (of training stages, in processes of their own); ``baseline``: "transformers" or nothing."""

    repeats: int = 5
    threads: int = 1
    cpu_memory: bool = True
    baseline: str | None = None


def groups(plan: Plan, baseline: str | None = None) -> list[Group]:
    """``ValueError`` for a stage, method or layout that does not exist, or an empty grid."""
    if unknown := [s for s in plan.stages if s not in STAGES]:
        raise ValueError(f"stages: {unknown[0]!r} is not one of {', '.join(STAGES)}")
    for name in ("frames", "batch_sizes"):
        if any(n < 1 for n in getattr(plan, name)):
            raise ValueError(f"{name} must be at least 1, got {getattr(plan, name)}")
    if plan.vary and min(plan.frames) < 10:
        raise ValueError(f"vary needs at least 10 frames, got {min(plan.frames)}")
    if plan.new_tokens < 2:
        raise ValueError(f"new_tokens must be at least 2, got {plan.new_tokens}")
    all_settings = settings(plan.topk, plan.methods, plan.layouts)
    if baseline:
        all_settings.insert(1, STOCK)
    out = []
    for stage, n_frames, n_rows in product(plan.stages, plan.frames, plan.batch_sizes):
        chosen = tuple(s for s in all_settings if applies(STAGES[stage], s))
        out.append(Group(stage, n_frames, n_rows, chosen, plan.vary, plan.new_tokens))
    return out


def run_plans(plans: Sequence[Plan], spec: ModelSpec, options: Options) -> Iterator[list[Result]]:
    """Measure group by group. The first group of a stage starts with its checks."""
    model = spec.build()
    bench = Bench(model, Stock(model) if options.baseline else None)
    checker = Checker(model, spec.seed, bench.stock)
    for group in chain.from_iterable(groups(plan, options.baseline) for plan in plans):
        problems = {s: checker.problem(s, group.work) for s in group.settings}
        inputs = group.inputs(model, options.repeats + 1, spec.seed)
        runs = time_group(bench, inputs, group, problems, options.repeats)
        if model.device.type == "cpu" and options.cpu_memory and group.work.trains:
            _measure_cpu_memory(group, runs, spec, options.threads)
        yield summarize(model, inputs, group, runs)


def time_group(
    bench: Bench,
    inputs: Sequence[Inputs],
    group: Group,
    problems: dict[Setting, str | None],
    repeats: int,
) -> dict[Setting, Runs]:
    """Run the settings in turns, on the next of ``inputs`` in each round; those with a problem
    are left out."""
    runs = {s: Runs(problem=problems[s]) for s in group.settings}
    before = [x.digest() for x in inputs]
    name = f"{group.stage}, {group.n_frames} frames, batch {group.n_rows}"
    with tqdm(total=(repeats + 1) * len(runs), desc=name, unit="run") as bar:
        for (counts, order), x in zip(take_turns(list(runs), repeats), cycle(inputs)):
            for setting in order:
                bar.update()
                if runs[setting].problem is None:
                    _run_once(bench, x, setting, group.work, runs[setting], counts)
    bench.zero_grad()
    if [x.digest() for x in inputs] != before:
        for run in runs.values():
            run.problem = run.problem or "not the same work: a run changed the inputs"
    return runs


def _run_once(
    bench: Bench, inputs: Inputs, setting: Setting, stage: Stage, runs: Runs, counts: bool
) -> None:
    """One timed run and its checks; adds to ``runs`` if it ``counts``."""
    model = bench.of(setting)
    bench.prepare(setting, inputs, stage.trains)
    on_gpu = model.device.type == "cuda"
    baseline = reset_gpu_peak(model.device) if on_gpu else 0
    clock = Clock(model.device)
    # decoding tells its own times, and spans could not be recorded in a CUDA graph
    spans = contextlib.nullcontext() if stage.new_tokens else watched(model, clock)
    try:
        with spans:
            start = device_seconds(model.device)
            out = bench.run(setting, inputs, stage, clock)
            seconds = device_seconds(model.device) - start
        check_outcome(model, inputs, setting, stage, out)
    except torch.cuda.OutOfMemoryError:
        runs.problem = "out of memory"
    except WorkMismatch as e:
        runs.problem = f"not the same work: {e}"
    else:
        if counts:
            runs.seconds.append(out.timings.get("decode", seconds))
            runs.parts.append(out.timings or split_parts(clock.read(), seconds))
            runs.memory = gpu_peak(model.device, baseline) if on_gpu else None
    if runs.problem == "out of memory":
        bench.zero_grad()
        torch.cuda.empty_cache()


def _measure_cpu_memory(
    group: Group, runs: dict[Setting, Runs], spec: ModelSpec, threads: int
) -> None:
    if not can_measure_cpu():
        return
    for setting, run in tqdm(runs.items(), desc="peak memory", unit="run"):
        if run.problem is None and setting != STOCK:
            shape = (group.n_frames, group.n_rows)
            try:
                run.memory = cpu_peak(spec, group.stage, setting, *shape, threads)
            except MemoryRunError as e:
                log.warning("no peak memory of %s, %s: %s", group.stage, setting.label, e)
