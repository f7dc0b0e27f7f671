"""The training loop.

A step takes the global batch's rows in micro-batches, one loss over the whole of it: sums are
divided by the global token weight and the global number of auxiliary terms, so that the result
does not depend on how rows are spread over ranks and micro-batches.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from olmo.data.loader import MicroBatch
from olmo.distributed import all_reduce_sum, get_world_size
from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Output
from olmo.train.checkpoint import TrainerState, save_checkpoint
from olmo.train.config import TrainConfig
from olmo.train.loss import token_loss
from olmo.train.metrics import StepSums
from olmo.train.optim import clip_gradients, named_groups, set_learning_rates

log = logging.getLogger(__name__)

MODEL_INPUTS = (
    "input_ids",
    "position_ids",
    "subsegment_ids",
    "images",
    "token_pooling",
    "num_images",
    "multimodal_type",
)
HOST_INPUTS = ("num_images", "multimodal_type")
"""Read on the host to plan; moving them to the GPU would only make a sync necessary."""


class Callback:
    """Hooks of the loop; a subclass overrides what it needs."""

    def on_start(self, trainer: Trainer) -> None: ...

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None: ...

    def on_save(self, trainer: Trainer, folder: str) -> None: ...

    def on_end(self, trainer: Trainer) -> None: ...


class TrainingError(RuntimeError):
    """The run cannot go on; the message says why."""


@dataclass
class Trainer:
    """Runs ``config.max_duration`` steps from ``state.step`` on."""

    config: TrainConfig
    model: Molmo2
    optimizer: torch.optim.Optimizer
    loader: DataLoader[MicroBatch]
    device: torch.device
    state: TrainerState
    callbacks: list[Callback] = field(default_factory=list)

    @property
    def micro_batches_per_step(self) -> int:
        config = self.config
        rows = config.global_train_batch_size // get_world_size()
        return rows // config.device_train_microbatch_size

    def fit(self) -> None:
        """Train to the end, saving on the way."""
        self.model.train()
        for callback in self.callbacks:
            callback.on_start(self)
        batches = iter(self.loader)
        saved = self.state.step
        try:
            while self.state.step < self.config.max_duration:
                metrics = self.step(batches)
                for callback in self.callbacks:
                    callback.on_step(self, metrics)
                interval = self.config.save_interval
                if interval > 0 and self.state.step % interval == 0:
                    self.save()
                    saved = self.state.step
            if saved != self.state.step:
                self.save()
        finally:
            for callback in self.callbacks:
                callback.on_end(self)

    def save(self) -> None:
        """Write a checkpoint of the current step."""
        folder = save_checkpoint(self.config, self.model, self.optimizer, self.state)
        for callback in self.callbacks:
            callback.on_save(self, str(folder))

    def step(self, batches: Iterator[MicroBatch]) -> dict[str, float]:
        """One optimizer step; returns its metrics, equal on every rank."""
        started = time.perf_counter()
        micro = [next(batches) for _ in range(self.micro_batches_per_step)]
        waited = time.perf_counter() - started
        self.state.step += 1
        sums = StepSums(self.device)
        weight, aux_terms = self._normalisers(micro)
        self.optimizer.zero_grad(set_to_none=True)
        for batch in micro:
            self._forward_backward(batch, weight, aux_terms, sums)
        metrics = sums.reduce(weight, aux_terms)
        self._count(micro, metrics)
        if not torch.isfinite(torch.tensor(metrics["train/loss"])):
            raise TrainingError(f"step {self.state.step}: the loss is {metrics['train/loss']}")
        norms = clip_gradients(named_groups(self.model), self.config.max_grad_norm)
        rates = set_learning_rates(
            self.optimizer, self.state.step, self.config.max_duration, self.config.scheduler
        )
        self.optimizer.step()
        metrics |= {f"optim/{name}_grad_norm": norm for name, norm in norms.items()}
        metrics |= {f"optim/{name}_lr": rate for name, rate in rates.items()}
        seconds = time.perf_counter() - started
        metrics["throughput/step_seconds"] = seconds
        metrics["throughput/data_wait_seconds"] = waited
        metrics["throughput/tokens_per_second"] = metrics["batch/tokens"] / seconds
        metrics["throughput/frames_per_second"] = metrics["batch/frames"] / seconds
        return metrics

    def _normalisers(self, micro: list[MicroBatch]) -> tuple[float, float]:
        """Global sum of loss weights and global number of auxiliary terms of the step."""
        weight = sum(float(m.tensors["loss_masks"].clamp(min=0).double().sum()) for m in micro)
        terms = sum(self.model.n_aux_terms(m.tensors) for m in micro)
        total = torch.tensor([weight, terms], dtype=torch.float64, device=self.device)
        weight, aux_terms = all_reduce_sum(total).tolist()
        if weight <= 0:
            raise TrainingError(f"step {self.state.step}: no token of the batch has a loss")
        return weight, aux_terms

    def _forward_backward(
        self, batch: MicroBatch, weight: float, aux_terms: float, sums: StepSums
    ) -> None:
        tensors = {
            k: v if k in HOST_INPUTS else v.to(self.device, non_blocking=True)
            for k, v in batch.tensors.items()
        }
        inputs = {k: tensors[k] for k in MODEL_INPUTS if k in tensors}
        has_loss = tensors["loss_masks"] > 0
        bf16 = self.config.precision == "amp_bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            out: Molmo2Output = self.model(**inputs, response_mask=has_loss)
        loss = token_loss(
            out.logits,
            tensors["labels"][has_loss],
            tensors["loss_masks"][has_loss],
            self.config.softmax_auxiliary_loss_scale if self.config.softmax_auxiliary_loss else 0.0,
        )
        # FSDP averages gradients over ranks, hence the factor of the world size
        total = (loss.cross_entropy + loss.z_loss) * (get_world_size() / weight)
        vision = out.vision
        aux: Tensor | None = None if vision is None else vision.aux_loss
        if vision is not None and aux is not None:
            aux = aux * vision.aux_count if vision.aux_count else aux
            total = total + aux * (get_world_size() / max(aux_terms, 1.0))
        total.backward()
        sums.add(loss, aux, out, tensors["num_images"])

    def _count(self, micro: list[MicroBatch], metrics: dict[str, float]) -> None:
        counts = torch.tensor(
            [sum(m.n_examples for m in micro), sum(len(m.skipped) for m in micro)],
            dtype=torch.float64,
            device=self.device,
        )
        examples, skipped = (int(v) for v in all_reduce_sum(counts).tolist())
        for batch in micro:
            self.state.lanes |= batch.lanes
        self.state.examples_seen += examples
        self.state.examples_skipped += skipped
        self.state.tokens_seen += int(metrics["batch/tokens"])
        metrics["data/examples_seen"] = float(self.state.examples_seen)
        metrics["data/examples_skipped"] = float(self.state.examples_skipped)
        metrics["throughput/total_tokens"] = float(self.state.tokens_seen)
        if self.state.examples_skipped > self.config.data.max_skipped:
            raise TrainingError(
                f"{self.state.examples_skipped} examples could not be used, more than "
                f"data.max_skipped={self.config.data.max_skipped}; see the warnings above"
            )
