"""What a run shows while it goes on."""

from __future__ import annotations

import io
import logging
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from olmo.train.callbacks import ProgressCallback

METRICS = {
    "train/CrossEntropyLoss": 1.23456,
    "train/Accuracy": 0.5,
    "train/AuxLoss": 0.08,
    "throughput/tokens_per_second": 123456.0,
    "throughput/frames_per_second": 1234.0,
    "throughput/mfu": 0.351,
}


def show(steps: range, last: int) -> None:
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(step=steps.start),
        last_step=last,
        config=SimpleNamespace(console_log_interval=20),
    )
    callback = ProgressCallback()
    callback.on_start(trainer)
    for step in steps:
        trainer.state.step = step + 1
        callback.on_step(trainer, METRICS)
    callback.on_end(trainer)


@pytest.mark.parametrize(("steps", "logged"), [(range(0, 45), [1, 20, 40, 45]), (range(7, 9), [8])])
def test_without_a_terminal_the_first_step_is_logged_at_once(
    steps: range, logged: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    show(steps, 45)
    assert [int(m.split("/")[0].removeprefix("step ")) for m in caplog.messages] == logged
    assert "loss=1.235 acc=0.500 aux=0.080 tok/s=123456 frames/s=1234 mfu=0.35" in caplog.text


@pytest.mark.parametrize(("columns", "shown"), [(80, "aux=0.080"), (140, "mfu=0.35")])
def test_the_bar_fits_its_terminal(
    columns: int, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (columns, 24))
    size = os.terminal_size((columns, 24))
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: size)
    show(range(0, 3), 6250)
    lines = stderr.getvalue().replace("\n", "\r").split("\r")
    assert max(map(len, lines)) <= columns
    assert any("3/6250" in line and line.rstrip().endswith(shown) for line in lines)
