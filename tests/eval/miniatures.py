"""Data sets of a few rows on disk, in the layout of each, and a model with scripted answers."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("av")

import numpy as np
import torch
from PIL import Image
from torch import nn

from olmo.data.datasets.synthetic.video import encode_mp4
from olmo.data.registry import Dataset, check_split, get_dataset
from olmo.eval.evaluator import EvalSettings, evaluate_task, example_order
from olmo.eval.report import TaskResult
from olmo.eval.tasks import Task, resolve_tasks
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.tokenizer import MolmoTokenizer
from tests.data.datasets_miniature import IMAGES, Miniature
from tests.data.test_datasets_all import CASES as DECLARED
from tests.data.test_datasets_reference import CASES as RECORDED
from tests.data.test_datasets_reference import GOLDEN
from tests.data.test_datasets_tables import CHARTS

CPU = torch.device("cpu")
FRAMES = np.random.RandomState(0).randint(0, 255, (20, 32, 32, 3), dtype=np.uint8)
READ = {"question": "What?", "answers": ["hello", "Hello there"]}

# evaluation splits whose readers are tested on another split
OTHERS = [
    Miniature(
        "chart_qa",
        {"ChartQA": {"test": [CHARTS[0]]}},
        [],
        split="test",
        home=IMAGES,
    ),
    Miniature(
        "text_vqa",
        {
            "text_vqa/TextVQA_0.5.1_val.json": {
                "data": [{"image_id": "ab", "question": "What?", "answers": ["x", "x", "y"]}]
            }
        },
        ["text_vqa/train_images/ab.jpg"],
        split="validation",
        home=IMAGES,
    ),
    Miniature(
        "doc_qa",
        {"doc_qa/val_v1.0_withQT.json": {"data": [READ | {"image": "documents/d.png"}]}},
        ["doc_qa/documents/d.png"],
        split="validation",
        home=IMAGES,
    ),
    Miniature(
        "info_qa",
        {
            "info_qa/infographicsVQA_val_v1.0_withQT.json": {
                "data": [READ | {"image_local_name": "i.jpeg"}]
            }
        },
        ["info_qa/infographicsvqa_images/i.jpeg"],
        split="validation",
        home=IMAGES,
    ),
    Miniature(
        "long_video_bench_w_subtitle",
        {
            "LongVideoBench/lvb_test_wo_gt.json": [
                {
                    k: v
                    for k, v in GOLDEN["long_video_bench_w_subtitle validation"]["raw"][0].items()
                    if k != "correct_choice"
                }
            ]
        },
        ["LongVideoBench/videos/v1.mp4"],
        split="test",
    ),
]


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(FRAMES[0]).save(buffer, "JPEG")
    return buffer.getvalue()


CLIP, PICTURE = encode_mp4(FRAMES), jpeg()
"""Five seconds of video; an image."""


def miniature(dataset: str, split: str) -> Miniature:
    """The miniature of this split, without expectations."""
    split = check_split(dataset, split)
    for case in (*OTHERS, *DECLARED):
        if case.name == dataset and check_split(dataset, case.split) == split:
            return replace(case, split=split)
    for recorded, (name, known, files) in RECORDED.items():
        if (name, check_split(name, known)) == (dataset, split):
            entry = GOLDEN[recorded]
            media = [e["video"].removeprefix("<VIDEO_DATA_HOME>/") for e in entry["examples"]]
            return Miniature(name, files(entry["raw"]), media, split=split)
    raise LookupError(f"no miniature of {dataset}:{split}")


def opened(task: Task, root: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The data set of ``task`` from files under ``root``."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(root))
    write_files(miniature(task.dataset, task.split), root)
    return get_dataset(task.dataset, task.split)


def write_files(case: Miniature, root: Path) -> None:
    """Annotations, and a clip or an image for each medium."""
    home = case.write(root)
    for path in case.media:
        (home / path).write_bytes(CLIP if path.endswith((".mp4", ".webm")) else PICTURE)


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
