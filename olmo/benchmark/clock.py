"""Where the time of a run goes: functions are wrapped, and time is charged to the innermost."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import torch

    from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo

PARTS = ("embedding", "whole blocks", "scorer", "planning", "pruned blocks", "connector", "llm")
"""Of a forward pass. ``whole blocks`` put out all patches, ``pruned blocks`` the survivors.
``scorer`` is any method's scoring; ``planning`` the rest of the pruning ViT: bias, selection,
layout, gathering the survivors and joining the read layers."""
BACKWARD = "backward"

StageName = str | Callable[..., str]
"""Or a function that tells it from the arguments of the call."""


class Clock:
    """Seconds by stage. A stage that runs inside another one is not counted there as well.

    ``timer``: wall time or another; ``passed``: seconds from one of its readings to another.
    """

    def __init__(
        self,
        timer: Callable[[], Any] = time.perf_counter,
        passed: Callable[[Any, Any], float] = lambda start, stop: stop - start,
    ):
        self.timer, self.passed = timer, passed
        self._running: list[str] = []
        self._marks: list[tuple[str | None, Any]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge what runs inside to ``name``."""
        self._running.append(name)
        self._mark()
        try:
            yield
        finally:
            self._running.pop()
            self._mark()

    def _mark(self) -> None:
        """What runs from now on."""
        self._marks.append((self._running[-1] if self._running else None, self.timer()))

    @contextmanager
    def watch(self, *stages: tuple[object, str, StageName]) -> Iterator[None]:
        """Charge the calls of (module, class or object, its function, stage) while inside."""
        with ExitStack() as stack:
            for owner, function, stage in stages:
                wrapped = self._wrapped(getattr(owner, function), stage)
                stack.enter_context(mock.patch.object(owner, function, wrapped))
            yield

    def _wrapped(self, function: Callable[..., Any], stage: StageName) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if BACKWARD in self._running:  # which may compute a block again
                return function(*args, **kwargs)
            with self.stage(stage if isinstance(stage, str) else stage(*args, **kwargs)):
                return function(*args, **kwargs)

        return timed

    @property
    def seconds(self) -> dict[str, float]:
        """By stage; the work of a GPU must be done."""
        found: dict[str, float] = {}
        for (name, start), (_, stop) in pairwise(self._marks):
            if name is not None:
                found[name] = found.get(name, 0.0) + self.passed(start, stop)
        return found


def device_clock(device: torch.device) -> Clock:
    """Wall time on the CPU, events of the stream on a GPU, which cost no synchronisation."""
    if device.type != "cuda":
        return Clock()
    import torch

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    return Clock(mark, lambda start, stop: start.elapsed_time(stop) / 1000)


def _block_part(*args: Any, **kwargs: Any) -> str:
    from olmo.nn.token_layout import TokenLayout

    pruned = any(isinstance(a, TokenLayout) for a in (*args, *kwargs.values()))
    return "pruned blocks" if pruned else "whole blocks"


def model_parts(model: TemporalVideoOlmo) -> list[tuple[object, str, StageName]]:
    """What ``Clock.watch`` takes, for ``PARTS``."""
    backbone = model.vision_backbone
    vit = backbone.image_vit
    return [
        (vit, "forward_pruned", "planning"),
        (vit, "embed", "embedding"),
        (vit, "method_scores", "scorer"),
        (backbone, "connect", "connector"),
        (model.transformer, "forward", "llm"),
        *((block, "forward", _block_part) for block in vit.transformer.resblocks),
    ]


def split_parts(found: dict[str, float], total: float) -> dict[str, float]:
    """Seconds of one run by part, in order, and what is left of its ``total``."""
    parts = {name: found[name] for name in (*PARTS, BACKWARD) if name in found}
    return parts | {"other": total - sum(parts.values())}
