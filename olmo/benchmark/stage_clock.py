"""Where the time of loading goes: functions are wrapped, and time is charged to the innermost."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class StageClock:
    """Seconds by stage. A stage that runs inside another one is not counted there as well."""

    timer: Callable[[], float] = time.perf_counter
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _running: list[str] = field(default_factory=list)
    _since: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge what runs inside to ``name``."""
        self._charge()
        self._running.append(name)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    @contextmanager
    def watch(self, *stages: tuple[object, str, str]) -> Iterator[None]:
        """Charge the calls of (module or class, its function, stage) while inside."""
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in stages]
        for owner, name, stage in stages:
            setattr(owner, name, self._wrapped(getattr(owner, name), stage))
        try:
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)

    def _wrapped(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(stage):
                return function(*args, **kwargs)

        return timed

    def _charge(self) -> None:
        now = self.timer()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
