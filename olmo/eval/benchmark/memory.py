"""Peak memory of one run, over what was there before it (model and inputs).

On a GPU torch's allocator keeps the peak. On the CPU every run gets a fresh process, and the peak
is that of its resident memory (``VmHWM`` of Linux, reset after a small warm-up run), so it holds
what the allocator wastes and what the libraries take.
"""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from olmo.eval.benchmark.inputs import Inputs, Setting
from olmo.eval.benchmark.presets import ModelSpec
from olmo.eval.benchmark.workload import STAGES, run_stage

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What the kernel wants in ``clear_refs`` to set ``VmHWM`` back to the present size."""


class MemoryRunError(RuntimeError):
    """The process that was to be measured did not finish."""


@dataclass(frozen=True)
class MemoryRun:
    """One run of a fresh process."""

    model: ModelSpec
    stage: str
    setting: Setting
    n_frames: int
    n_rows: int
    threads: int


@dataclass(frozen=True)
class PeakMemory:
    """Bytes: ``baseline`` before the run (process or allocator), ``extra`` at its peak."""

    extra: int
    baseline: int


def reset_gpu_peak(device: torch.device) -> int:
    """Start a measurement; returns the bytes that are allocated now, for ``gpu_peak``."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def gpu_peak(device: torch.device, baseline: int) -> PeakMemory:
    """Peak of torch's allocator since ``reset_gpu_peak``."""
    return PeakMemory(torch.cuda.max_memory_allocated(device) - baseline, baseline)


def can_measure_cpu() -> bool:
    """Only Linux tells and resets the peak."""
    return STATUS.is_file() and CLEAR.is_file()


def cpu_peak(run: MemoryRun) -> PeakMemory:
    """Peak in a fresh process. ``MemoryRunError`` if it was killed, as for want of memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(measure_here, run).result()
        except BrokenProcessPool as e:
            raise MemoryRunError("its process was killed: out of memory?") from e


def measure_here(run: MemoryRun) -> PeakMemory:
    """Peak in this process, which is better a fresh one: a busy one may have memory to spare."""
    torch.set_num_threads(run.threads)
    model, stage = run.model.build(), STAGES[run.stage]
    run.setting.apply(model)
    model.train(stage.trains)
    run_stage(model, Inputs.make(model.config, 2, 1), stage)  # what libraries allocate once
    model.zero_grad(set_to_none=True)
    inputs = Inputs.make(model.config, run.n_frames, run.n_rows, run.model.seed)
    gc.collect()
    CLEAR.write_text(RESET_PEAK)
    before = _status("VmRSS")
    run_stage(model, inputs, stage)
    return PeakMemory(_status("VmHWM") - before, before)


def _status(key: str) -> int:
    """Bytes of an entry of ``STATUS``, which is in kB."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no {key}")
