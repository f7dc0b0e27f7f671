"""Peak memory of one run, over what was there before it (model and inputs).

On a GPU torch's allocator keeps the peak. On the CPU every run gets a fresh process, and the peak
is that of its resident memory (``VmHWM`` of Linux, reset after a small warm-up run), so it holds
what the allocator wastes and what the libraries take.
"""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from olmo.benchmark.plan import Group, ModelSpec, Setting
from olmo.benchmark.work import Inputs, run_stage

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What the kernel wants in ``clear_refs`` to set ``VmHWM`` back to the present size."""


@dataclass(frozen=True)
class PeakMemory:
    """Bytes: ``baseline`` before the run (process or allocator), ``extra`` at its peak."""

    extra: int
    baseline: int


def can_measure_cpu() -> bool:
    """Only Linux tells and resets the peak."""
    return STATUS.is_file() and CLEAR.is_file()


def cpu_peak(spec: ModelSpec, group: Group, setting: Setting, threads: int) -> PeakMemory:
    """Peak of a run in a fresh process. ``BrokenProcessPool`` if it was killed, for example
    because memory ran out."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_here, spec, group, setting, threads).result()


def _measure_here(spec: ModelSpec, group: Group, setting: Setting, threads: int) -> PeakMemory:
    torch.set_num_threads(threads)
    model = setting.of(spec.build()).train(group.work.trains)
    run_stage(model, Inputs.make(model.config, 2, 1), group.work)  # what libraries allocate once
    model.zero_grad(set_to_none=True)
    inputs = Inputs.make(model.config, group.n_frames, group.n_rows, spec.seed)
    gc.collect()
    CLEAR.write_text(RESET_PEAK)
    before = _status("VmRSS")
    run_stage(model, inputs, group.work)
    return PeakMemory(_status("VmHWM") - before, before)


def _status(key: str) -> int:
    """Bytes of an entry of ``STATUS``, which is in kB."""
    entries = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(entries[key].split()[0]) * 1024
