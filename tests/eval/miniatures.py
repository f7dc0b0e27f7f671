"""Evaluation data sets of ``tests/cases`` with real media, and a model with scripted answers."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("av")

import numpy as np
import torch
from PIL import Image
from torch import nn

from olmo.data.datasets.catalogue import dataset_rows
from olmo.data.datasets.synthetic.scene import FPS
from olmo.data.datasets.synthetic.video import encode_mp4
from olmo.data.registry import Dataset, get_dataset
from olmo.eval.evaluate import TaskResult, evaluate_task, example_order
from olmo.eval.settings import EvalSettings
from olmo.eval.tasks import Task, resolve_tasks
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.tokenizer import MolmoTokenizer
from tests.data.worlds import write_case

CPU = torch.device("cpu")
FRAMES = np.random.RandomState(0).randint(0, 255, (5 * FPS, 32, 32, 3), dtype=np.uint8)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(FRAMES[0]).save(buffer, "JPEG")
    return buffer.getvalue()


CLIP, PICTURE = encode_mp4(FRAMES), jpeg()
"""Five seconds of video; an image."""
LONG_CLIP = encode_mp4(np.zeros((71 * FPS, 16, 16, 3), dtype=np.uint8))
"""71 seconds, in which all clips of the cases are."""


def write_files(task: Task, root: Path, clip: bytes = LONG_CLIP) -> None:
    """The files of the data set of ``task`` under ``root``, with real media."""
    home = root / dataset_rows()[task.dataset].home
    write_case(task.dataset, home, {"video": clip, "image": PICTURE})


def opened(task: Task, root: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The data set of ``task`` from files under ``root``."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(root))
    write_files(task, root)
    return get_dataset(task.dataset, task.split)


class Scripted(nn.Module):
    """Gives ``answers`` one after the other and keeps the prompts."""

    def __init__(self, tokenizer: MolmoTokenizer, answers: list[str]) -> None:
        super().__init__()
        self.tokenizer, self.answers = tokenizer, list(answers)
        self.prompts: list[str] = []

    def generate(self, batch: Any, max_new_tokens: int, stop_ids: list[int]) -> SimpleNamespace:
        ids = batch["input_ids"][0].tolist()
        self.prompts.append(self.tokenizer.decode(ids, truncate_at_eos=False))
        answer = [*self.tokenizer.encode(self.answers[len(self.prompts) - 1]), stop_ids[0]]
        return SimpleNamespace(
            token_ids=torch.tensor([answer]),
            n_prompt_tokens=torch.tensor([len(ids)]),
            timings={"prefill": 0.0, "decode": 0.0},
        )


class Repeated:
    """One example of a data set, several times."""

    def __init__(self, dataset: Dataset, n: int, index: int = 0) -> None:
        self.dataset, self.n, self.index = dataset, n, index

    def __len__(self) -> int:
        return self.n

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        example = self.dataset.get(self.index, rng)
        return {**example, "metadata": {**example.get("metadata", {}), "example_id": f"e{idx}"}}


def ask(
    config: Molmo2Config, task: Task, dataset: Dataset, answers: list[str]
) -> tuple[TaskResult, str]:
    """Evaluate with ``answers[i]`` to example ``i``; the result and the first prompt."""
    order = example_order(len(dataset), EvalSettings().seed)
    model = Scripted(config.build_tokenizer(), [answers[i] for i in order])
    result = evaluate_task(model, config, task, EvalSettings(), CPU, dataset)
    return result, model.prompts[0]


def the_task(name: str) -> Task:
    (task,) = resolve_tasks(None, name)
    return task
