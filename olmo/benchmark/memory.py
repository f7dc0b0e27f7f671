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

from olmo.benchmark.inputs import Inputs, Setting
from olmo.benchmark.presets import STAGES, ModelSpec
from olmo.benchmark.workload import run_stage

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What the kernel wants in ``clear_refs`` to set ``VmHWM`` back to the present size."""


class MemoryRunError(RuntimeError):
    """The process that was to be measured did not finish."""


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


def cpu_peak(
    spec: ModelSpec, stage: str, setting: Setting, n_frames: int, n_rows: int, threads: int
) -> PeakMemory:
    """Peak of a run in a fresh process. ``MemoryRunError`` if it was killed, for example
    because memory ran out."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            run = pool.submit(_measure_here, spec, stage, setting, n_frames, n_rows, threads)
            return run.result()
        except BrokenProcessPool as e:
            raise MemoryRunError("its process was killed: out of memory?") from e


def _measure_here(
    spec: ModelSpec, stage: str, setting: Setting, n_frames: int, n_rows: int, threads: int
) -> PeakMemory:
    torch.set_num_threads(threads)
    model, work = setting.of(spec.build()), STAGES[stage]
    model.train(work.trains)
    run_stage(model, Inputs.make(model.config, 2, 1), work)  # what libraries allocate once
    model.zero_grad(set_to_none=True)
    inputs = Inputs.make(model.config, n_frames, n_rows, spec.seed)
    gc.collect()
    CLEAR.write_text(RESET_PEAK)
    before = _status("VmRSS")
    run_stage(model, inputs, work)
    return PeakMemory(_status("VmHWM") - before, before)


def _status(key: str) -> int:
    """Bytes of an entry of ``STATUS``, which is in kB."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no {key}")
