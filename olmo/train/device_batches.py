"""Micro-batches on their way to the device, each copied while the one before it is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from olmo.nn.transfer import upload
from olmo.types import HOST_INPUTS, MODEL_INPUTS

TARGETS = ("response_mask", "labels", "weights")
Batch = dict[str, Tensor]


def inputs_and_targets(batch: Batch) -> Batch:
    """What a step takes of a collated batch: ``MODEL_INPUTS``, ``response_mask`` bool [B, S] of the
    tokens with a loss, and their ``labels`` int64 [n] and loss ``weights`` [n].

    To be called on the host: on a GPU the index by a mask would wait for the device.
    """
    mask, taken = batch["loss_masks"] > 0, {k: batch[k] for k in MODEL_INPUTS if k in batch}
    targets = (mask, batch["labels"][mask], batch["loss_masks"][mask])
    return taken | dict(zip(TARGETS, targets, strict=True))


class DeviceBatches:
    """Copies batches to ``device`` on a stream of their own; on the CPU they stay as they are.

    The loader pins the large tensors (``data.pin_memory``), else their copies take the host's time.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """``inputs_and_targets`` of each batch, on the device but for ``HOST_INPUTS``. The copy of
        the next one has begun by then."""
        chosen = map(inputs_and_targets, batches)
        if self.stream is None:
            yield from chosen
            return
        ahead: tuple[Batch, torch.Event] | None = None
        for batch in chosen:
            begun = self._begin(batch, self.stream)
            if ahead is not None:
                yield self._arrived(*ahead)
            ahead = begun
        if ahead is not None:
            yield self._arrived(*ahead)

    def _begin(self, batch: Batch, stream: torch.cuda.Stream) -> tuple[Batch, torch.Event]:
        with torch.cuda.stream(stream):
            for key in batch.keys() - set(HOST_INPUTS):
                if key in TARGETS:  # made here: the loader has not pinned them
                    batch[key] = upload(batch[key], self.device)
                else:
                    batch[key] = batch[key].to(self.device, non_blocking=True)
            return batch, stream.record_event()

    def _arrived(self, batch: Batch, copied: torch.Event) -> Batch:
        """The stream at work goes on when the copy is there, and only then is memory that it has
        left free for the next copy."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        for key in batch.keys() - set(HOST_INPUTS):
            batch[key].record_stream(current)
        return batch
