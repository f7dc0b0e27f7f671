"""Where the time of a run goes: named spans around the parts of a model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from olmo.device import device_seconds
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from olmo.nn.token_layout import TokenLayout

PARTS = ("embedding", "whole blocks", "scorer", "planning", "pruned blocks", "connector", "llm")
"""Of a forward pass. ``whole blocks`` put out all patches, ``pruned blocks`` the survivors.
``scorer`` is any method's scoring; ``planning`` the rest of the pruning ViT: bias, selection,
layout, gathering the survivors and joining the read layers."""
FORWARD_PRUNED = "forward_pruned"


class Clock:
    """Sums the time of spans by name: wall time on the CPU, events of the stream on a GPU, which
    cost no synchronisation."""

    def __init__(self, device: torch.device):
        self.device = device
        self.spans: list[tuple[str, Any, Any]] = []

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        start = self._mark()
        yield
        self.spans.append((name, start, self._mark()))

    def read(self) -> dict[str, float]:
        """Seconds by name since the last call. Waits for the device."""
        device_seconds(self.device)
        found: dict[str, float] = {}
        for name, start, stop in self.spans:
            if self.device.type == "cuda":
                seconds = start.elapsed_time(stop) / 1000
            else:
                seconds = stop - start
            found[name] = found.get(name, 0.0) + seconds
        self.spans.clear()
        return found


@contextlib.contextmanager
def watched(model: TemporalVideoOlmo, clock: Clock) -> Iterator[None]:
    """Put spans around the parts of ``model``; the model is left as it was."""
    backbone = model.vision_backbone
    vit = backbone.image_vit
    targets: list[tuple[object, str, str]] = [
        (vit, FORWARD_PRUNED, FORWARD_PRUNED),
        (vit, "embed", "embedding"),
        (vit, "method_scores", "scorer"),
        (backbone, "connect", "connector"),
        (model.transformer, "forward", "llm"),
        *((block, "forward", "whole blocks") for block in vit.transformer.resblocks),
    ]
    for owner, method, name in targets:
        object.__setattr__(owner, method, _timed(getattr(owner, method), clock, name))
    try:
        yield
    finally:
        for owner, method, _ in targets:
            object.__delattr__(owner, method)


def _timed(function: Callable[..., Any], clock: Clock, name: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        pruned = any(isinstance(a, TokenLayout) for a in (*args, *kwargs.values()))
        with clock.span("pruned blocks" if pruned else name):
            return function(*args, **kwargs)

    return run


def split_parts(found: dict[str, float], total: float) -> dict[str, float]:
    """Spans of one run to disjoint parts that add up to its ``total`` seconds."""
    parts = {name: found[name] for name in (*PARTS, "backward") if name in found}
    if FORWARD_PRUNED in found:
        inside = ("embedding", "whole blocks", "scorer", "pruned blocks")
        parts["planning"] = found[FORWARD_PRUNED] - sum(parts.get(p, 0.0) for p in inside)
    order = [p for p in (*PARTS, "backward") if p in parts]
    return {p: parts[p] for p in order} | {"other": total - sum(parts.values())}
