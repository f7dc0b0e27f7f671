"""The training loop.

A step takes the global batch's rows in micro-batches, one loss over the whole of it: sums are
divided by the global token weight and the global number of auxiliary terms, so that the result
does not depend on how rows are spread over ranks and micro-batches.

On a GPU a step waits for the device twice at its end: ``clip_gradients`` reads the norms, when the
last backward pass is done, and ``StepSums.reduce`` the sums, which are there by then. Between them
and the next step only the optimizer's kernels are under way. What ranks agree on before a step is
known on the host and stays there. The model waits by itself where kept tokens decide a size.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from olmo.command_line import RunError
from olmo.data.loader import MicroBatch
from olmo.distributed import all_reduce_sum, from_main, gather, get_world_size
from olmo.files import write_text
from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Output
from olmo.models.parallel import last_micro_batch
from olmo.nn.flops import PEAK_FLOPS, peak_of
from olmo.outside import describe
from olmo.train.checkpoint import Checkpointer
from olmo.train.config import TrainConfig
from olmo.train.device_batches import DeviceBatches
from olmo.train.diagnose import bad_gradients, first_bad_module
from olmo.train.loss import ChunkedLoss, TokenLoss
from olmo.train.metrics import StepSums
from olmo.train.optim import clip_gradients, named_groups, set_learning_rates
from olmo.train.signals import StopSignal, blocked_signals, end_workers
from olmo.train.state import TrainerState
from olmo.train.throughput import FlopCounter

log = logging.getLogger(__name__)


class Callback:
    """Hooks of the loop; a subclass overrides what it needs."""

    def on_start(self, trainer: Trainer) -> None: ...

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None: ...

    def on_end(self, trainer: Trainer) -> None: ...


@dataclass(frozen=True)
class Normalisers:
    """What the ranks agree on before a step, all of it from one all-reduce on the host.

    Attributes:
        weight: sum of the loss weights of the global batch.
        aux_terms: terms of the auxiliary loss of the global batch.
        stop: some rank was asked to end, or is late.
        save_failed: some rank could not write the checkpoint under way.
        examples, skipped: examples in the global batch, and those left out on the way to it.
    """

    weight: float
    aux_terms: float
    stop: bool
    save_failed: bool
    examples: int
    skipped: int


@dataclass
class Trainer:
    """Trains from ``state.step`` to ``last_step``."""

    config: TrainConfig
    model: Molmo2
    optimizer: torch.optim.Optimizer
    loader: DataLoader[MicroBatch]
    device: torch.device
    state: TrainerState
    callbacks: list[Callback] = field(default_factory=list)
    histograms: dict[str, list[int]] = field(default_factory=dict)
    """Of the last step, by name; entry k counts the value k."""
    pictures: dict[str, Path] = field(default_factory=dict)
    """Files that callbacks drew in this step, by name."""

    def __post_init__(self) -> None:
        self.checkpoints = Checkpointer(self.config)
        self.signal = StopSignal()
        self.stopping = False
        self.skipped_in_a_row = 0
        self.started = time.monotonic()
        self.on_device = DeviceBatches(self.device)
        self.count_flops = FlopCounter(self.config.model)
        peak = self.config.train.peak_tflops
        self.peak_flops = peak * 1e12 if peak else peak_of(PEAK_FLOPS, self.device)

    @property
    def outcome(self) -> str:
        if self.stopping:
            return f"stopped by {'time_limit' if self.late else 'a signal'}"
        return "done" if self.state.step >= self.config.max_duration else "stopped as asked"

    @property
    def late(self) -> bool:
        """``time_limit`` is over."""
        limit = self.config.time_limit
        return limit is not None and time.monotonic() - self.started > limit

    @property
    def last_step(self) -> int:
        """Where this start of the run ends, if nothing stops it before."""
        last, more = self.config.last_step, self.config.stop_after
        return last if more is None else min(last, self.state.step + more)

    @property
    def micro_batches_per_step(self) -> int:
        config = self.config
        rows = config.global_train_batch_size // get_world_size()
        return rows // config.device_train_microbatch_size

    def fit(self) -> None:
        """Train to the end or until a signal or ``time_limit`` asks to stop, saving on the way."""
        self.model.train()
        last = self.last_step
        for callback in self.callbacks:
            callback.on_start(self)
        with self.signal:
            # the iterator draws a seed: a resumed run must not drop out other units for that
            with blocked_signals(), torch.random.fork_rng(devices=[]):
                batches = iter(self.loader)
            saved = self.state.step
            try:
                while self.state.step < last and not self.stopping:
                    with _workers_alive():
                        metrics = self.step(batches)
                    self.pictures = {}
                    for callback in self.callbacks:
                        callback.on_step(self, metrics)
                    interval = self.config.save_interval
                    if interval > 0 and self.state.step % interval == 0:
                        self.save()
                        saved = self.state.step
                if saved != self.state.step:
                    self.save()
                self.checkpoints.wait()
            finally:
                end_workers(batches)
                self.checkpoints.close()
                self._end_callbacks()

    def _end_callbacks(self) -> None:
        """What ended the run must reach the user, not what a full disk does to the last files."""
        for callback in self.callbacks:
            try:
                callback.on_end(self)
            except OSError as e:
                log.error("%s: %s", type(callback).__name__, e)

    def save(self) -> None:
        """Start to write a checkpoint of the current step."""
        self.checkpoints.save(self.model, self.optimizer, self.state)

    def step(self, batches: Iterator[MicroBatch]) -> dict[str, float]:
        """One optimizer step; returns its metrics, equal on every rank."""
        if self.signal.orphaned:
            raise RunError("torchrun, which started this process, is gone")
        started = time.perf_counter()
        micro = [next(batches) for _ in range(self.micro_batches_per_step)]
        waited = time.perf_counter() - started
        self.state.step += 1
        agreed = self._agree(micro)
        if agreed.save_failed:
            self.checkpoints.wait()
        self.stopping = agreed.stop
        sums = self.accumulate(micro, agreed)
        max_norms = self.config.optimizer.max_norms(self.config.max_grad_norm)
        norms = clip_gradients(named_groups(self.model), max_norms)
        metrics, self.histograms = sums.reduce(agreed.weight, agreed.aux_terms)
        self._count(micro, agreed, metrics)
        rates = set_learning_rates(
            self.optimizer, self.state.step, self.config.max_duration, self.config.scheduler
        )
        if all(map(math.isfinite, (metrics["train/loss"], *norms.values()))):
            self.optimizer.step()
            self.skipped_in_a_row = 0
        else:
            self._not_finite(micro, metrics["train/loss"], norms)
        metrics["optim/updates_skipped"] = float(self.state.updates_skipped)
        metrics |= {f"optim/{name}_grad_norm": norm for name, norm in norms.items()}
        metrics |= {f"optim/{name}_lr": rate for name, rate in rates.items()}
        self._add_throughput(metrics, time.perf_counter() - started, waited)
        return metrics

    def accumulate(self, micro: list[MicroBatch], agreed: Normalisers) -> StepSums:
        """Gradients of the global batch's loss, from this rank's micro-batches."""
        self.optimizer.zero_grad(set_to_none=True)
        sums = StepSums(self.model, self.device)
        arriving = self.on_device(batch.tensors for batch in micro)
        for batch, tensors in zip(micro, arriving, strict=True):
            last_micro_batch(self.model, batch is micro[-1])
            self._forward_backward(tensors, agreed, sums)
            sums.host["flops"] += self.count_flops(batch.tensors)
        return sums

    def _agree(self, micro: list[MicroBatch]) -> Normalisers:
        weight = sum(float(m.tensors["loss_masks"].clamp(min=0).double().sum()) for m in micro)
        terms = sum(self.model.n_aux_terms(m.tensors) for m in micro)
        stop = self.signal.received is not None or self.late
        failed = self.checkpoints.failed
        counts = (sum(len(m.example_ids) for m in micro), sum(len(m.skipped) for m in micro))
        total = torch.tensor([weight, terms, stop, failed, *counts], dtype=torch.float64)
        weight, terms, stop, failed, examples, skipped = all_reduce_sum(total).tolist()
        if weight <= 0:
            raise RunError(f"step {self.state.step}: no token of the batch has a loss")
        return Normalisers(weight, terms, stop > 0, failed > 0, int(examples), int(skipped))

    def forward(self, batch: dict[str, Tensor]) -> Molmo2Output:
        """The model on a collated batch; ``logits`` are the sums of ``ChunkedLoss``."""
        return self._forward(next(self.on_device([batch])))

    def _forward(self, tensors: dict[str, Tensor]) -> Molmo2Output:
        config, inputs = self.config, dict(tensors)
        head = ChunkedLoss(
            inputs.pop("labels"),
            inputs.pop("weights"),
            config.softmax_auxiliary_loss_scale if config.softmax_auxiliary_loss else 0.0,
            config.train.loss_chunk,
        )
        bf16 = config.precision == "amp_bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            out: Molmo2Output = self.model(**inputs, head=head)
        return out

    def _forward_backward(
        self, tensors: dict[str, Tensor], agreed: Normalisers, sums: StepSums
    ) -> None:
        out = self._forward(tensors)
        loss = TokenLoss(*out.logits.unbind())
        # FSDP averages gradients over ranks, hence the factor of the world size
        total = (loss.cross_entropy + loss.z_loss) * (get_world_size() / agreed.weight)
        vision = out.vision
        aux: Tensor | None = None if vision is None else vision.aux_loss
        if vision is not None and aux is not None:
            aux = aux * vision.aux_count if vision.aux_count else aux
            total = total + aux * (get_world_size() / max(agreed.aux_terms, 1.0))
        total.backward()
        sums.add(loss, aux, out, tensors)

    def _not_finite(self, micro: list[MicroBatch], loss: float, norms: dict[str, float]) -> None:
        """Say where it comes from; leave the update out or raise ``RunError``."""
        report: dict[str, list[Any]] = {
            "examples": [m.example_ids for m in micro],
            "module": [
                first_bad_module(self.model, partial(self.forward, m.tensors)) for m in micro
            ],
            "gradients": bad_gradients(self.model)[:10],
        }
        reports = gather(report)
        self.optimizer.zero_grad(set_to_none=True)
        file = Path(self.config.save_folder) / f"not_finite_step{self.state.step}.json"
        text = json.dumps(dict(enumerate(reports)), indent=2) + "\n"
        from_main(lambda: write_text(file, text))
        modules = dict.fromkeys(m for r in reports for m in r["module"] if m)
        bad = [f"group {name}" for name, norm in norms.items() if not math.isfinite(norm)]
        message = (
            f"step {self.state.step}: the loss is {loss}; first not finite: "
            f"{', '.join(modules) or 'gradients of ' + ', '.join(bad)}. Examples of the batch: "
            f"{[i for r in reports for ids in r['examples'] for i in ids]}. See {file}"
        )
        self.state.updates_skipped += 1
        self.skipped_in_a_row += 1
        limit = self.config.train.max_skipped_in_a_row
        if self.config.train.on_nan == "stop" or self.skipped_in_a_row >= limit:
            raise RunError(message)
        log.warning("%s. The update is left out", message)

    def _add_throughput(self, metrics: dict[str, float], seconds: float, waited: float) -> None:
        metrics["throughput/step_seconds"] = seconds
        metrics["throughput/data_wait_seconds"] = waited
        metrics["throughput/tokens_per_second"] = metrics["batch/tokens"] / seconds
        metrics["throughput/frames_per_second"] = metrics["batch/frames"] / seconds
        if self.peak_flops:
            able = seconds * get_world_size() * self.peak_flops
            metrics["throughput/mfu"] = metrics["throughput/flops"] / able
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            metrics["throughput/peak_memory_gib"] = peak / 2**30

    def _count(
        self, micro: list[MicroBatch], agreed: Normalisers, metrics: dict[str, float]
    ) -> None:
        for batch in micro:
            self.state.lanes |= batch.lanes
        self.state.examples_seen += agreed.examples
        self.state.examples_skipped += agreed.skipped
        self.state.tokens_seen += int(metrics["batch/tokens"])
        metrics["data/examples_seen"] = float(self.state.examples_seen)
        metrics["data/examples_skipped"] = float(self.state.examples_skipped)
        metrics["throughput/total_tokens"] = float(self.state.tokens_seen)
        if agreed.skipped:
            self._note_bad({s.thing for m in micro for s in m.skipped})

    def _note_bad(self, names: set[str]) -> None:
        """Add this rank's bad examples to those of the run; every rank gets the same list."""
        self.state.bad_examples = sorted(names.union(self.state.bad_examples, *gather(names)))
        n_bad = len(self.state.bad_examples)
        if n_bad > self.config.data.max_skipped:
            raise RunError(
                f"{n_bad} files or examples could not be used, more than "
                f"data.max_skipped={self.config.data.max_skipped}; see the warnings above"
            )


@contextlib.contextmanager
def _workers_alive() -> Iterator[None]:
    """``RunError`` for what torch raises, wherever the trainer is, once a loader worker is gone."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as e:
        gone = re.search("exited unexpectedly|is killed by signal", str(e))
        if isinstance(e, RuntimeError) and not gone:
            raise
        raise RunError(
            f"{describe(e)}: a worker of the loader died, as when the host's memory is full. Give "
            "fewer --data.num_workers or a smaller --data.packing.buffer_size; the same command "
            "goes on from the newest checkpoint"
        ) from e
