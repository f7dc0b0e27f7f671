"""The measuring loop: checks, rounds that take turns, times and memory, summarised per group."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, cycle

import torch
from tqdm import tqdm

from olmo.benchmark.checks import Bench, WorkMismatch, check_outcome
from olmo.benchmark.clock import device_clock, model_parts, split_parts
from olmo.benchmark.memory import PeakMemory, can_measure_cpu, cpu_peak
from olmo.benchmark.plan import STOCK, Group, ModelSpec, Plan, Setting, Stage
from olmo.benchmark.results import Result, Runs, summarize
from olmo.benchmark.stock import Stock
from olmo.benchmark.work import Inputs, round_inputs
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


def run_plans(plans: Sequence[Plan], spec: ModelSpec, options: Options) -> Iterator[list[Result]]:
    """Measure group by group. The first group of a setting starts with its check."""
    model = spec.build()
    bench = Bench(model, Stock(model) if options.baseline else None, spec.seed)
    for group in chain.from_iterable(plan.groups(options.baseline) for plan in plans):
        problems = {s: bench.problem(s, group.work) for s in group.settings}
        inputs = round_inputs(group, model, options.repeats + 1, spec.seed)
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
    with tqdm(total=(repeats + 1) * len(runs), desc=group.title, unit="run") as bar:
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
    device, on_gpu = model.device, model.device.type == "cuda"
    bench.prepare(setting, inputs, stage.trains)
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        baseline = torch.cuda.memory_allocated(device)
    clock = device_clock(device)
    # decoding tells its own times, and events could not be recorded in a CUDA graph
    watched = contextlib.nullcontext() if stage.new_tokens else clock.watch(*model_parts(model))
    try:
        with watched:
            start = device_seconds(device)
            out = bench.run(setting, inputs, stage, clock)
            seconds = device_seconds(device) - start
        check_outcome(model, inputs, setting, stage, out)
    except torch.cuda.OutOfMemoryError:
        runs.problem = "out of memory"
    except WorkMismatch as e:
        runs.problem = f"not the same work: {e}"
    else:
        if counts:
            runs.seconds.append(out.timings.get("decode", seconds))
            runs.parts.append(out.timings or split_parts(clock.seconds, seconds))
            if on_gpu:
                extra = torch.cuda.max_memory_allocated(device) - baseline
                runs.memory = PeakMemory(extra, baseline)
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
            try:
                run.memory = cpu_peak(spec, group, setting, threads)
            except BrokenProcessPool:
                what = f"{group.stage}, {setting.label}"
                log.warning("no peak memory of %s: its process was killed: out of memory?", what)
