"""Evaluation on the way: what stops one task neither costs the others nor the training."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from olmo.data.registry import MissingDataError
from olmo.eval.evaluate import TaskFailed, TaskResult
from olmo.eval.report import summarize
from olmo.train import in_loop
from olmo.train.config import InLoopConfig
from olmo.train.in_loop import EvaluationCallback
from tests.eval.fakes import prediction


def result_of(task: Any) -> TaskResult:
    predictions = [prediction(0, 1.0), prediction(1, 0.0)]
    about = {"task": task.name, "title": task.name, "metric": task.metric}
    return TaskResult(task, about | summarize(predictions, []), predictions, {})


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    model = torch.nn.Linear(1, 1)
    config = SimpleNamespace(
        precision="fp32", model=None, save_folder=str(tmp_path), last_step=4, run_name="run"
    )
    state = SimpleNamespace(step=4)
    return SimpleNamespace(model=model, config=config, state=state, device=torch.device("cpu"))


def test_a_failed_task_does_not_end_the_training(
    trainer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = ("mvbench", "tomato", "motionbench")
    callback = EvaluationCallback(InLoopConfig(eval_interval=4, tasks=",".join(names)))
    monkeypatch.setattr(in_loop, "open_dataset", lambda task: [])
    callback.on_start(trainer)

    def evaluate(model: Any, config: Any, task: Any, *_: Any, **__: Any) -> TaskResult:
        if task.name == "mvbench":
            raise TaskFailed("no such thing")
        return result_of(task)

    monkeypatch.setattr(in_loop, "evaluate_task", evaluate)
    monkeypatch.setattr(in_loop, "whole_copy", lambda model, dtype: model)
    folder = tmp_path / "eval" / "step4"
    (folder / "tomato" / "predictions.json").mkdir(parents=True)  # it cannot be written
    metrics: dict[str, float] = {}
    with caplog.at_level(logging.WARNING):
        callback.on_step(trainer, metrics)
    assert metrics["eval/motionbench/accuracy"] == 0.5 and trainer.model.training
    assert not any("mvbench" in key or "tomato" in key for key in metrics)
    assert "mvbench: no such thing" in caplog.text and "tomato" in caplog.text
    assert "no such thing" in (folder / "report.html").read_text()
    assert len(json.loads((folder / "motionbench" / "predictions.json").read_text())) == 2


def test_data_that_are_not_there_are_said_before_the_first_step(
    trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path / "none"))
    callback = EvaluationCallback(InLoopConfig(eval_interval=4, tasks="mvbench"))
    with pytest.raises(MissingDataError, match="mvbench"):
        callback.on_start(trainer)
