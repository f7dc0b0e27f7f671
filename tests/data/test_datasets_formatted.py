"""Examples of every data set become conversations: the formatter knows all that readers make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.preprocessing.chat import DataFormatterConfig
from tests.data import (
    test_datasets_images,
    test_datasets_labels,
    test_datasets_reference,
    test_datasets_subtitles,
    test_datasets_tables,
    test_datasets_video,
)
from tests.data.datasets_miniature import Miniature

MODULES = (
    test_datasets_images,
    test_datasets_labels,
    test_datasets_subtitles,
    test_datasets_tables,
    test_datasets_video,
)
CASES = [case for module in MODULES for case in module.CASES]
FORMAT = DataFormatterConfig().build()
USER, ASSISTANT = "<|im_start|>user\n", "<|im_start|>assistant\n"
ANSWERLESS = {"captioning"}
"""Tasks of TempCompass that are judged, not compared."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_miniature(case: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    case.write(tmp_path)
    for example in case.read(np.random.RandomState(0)):
        for message in example.get("message_list", [example]):
            check(message, case.split)


def check(message: dict[str, Any], split: str) -> None:
    training = split == "train"
    task = message.get("metadata", {}).get("task")
    turns = FORMAT(
        message, np.random.RandomState(0), training, for_inference=not training, sizes=[(640, 480)]
    ).turns
    assert len(turns) % 2 == (0 if training else 1)
    for i, turn in enumerate(turns):
        assert turn.startswith(USER) and turn.endswith(ASSISTANT) if i % 2 == 0 else turn
    if not training and task not in ANSWERLESS and "count" not in message.get("metadata", {}):
        known = {"answer", "answers", "answer_idx"} & set(message)
        assert known, f"an evaluation needs the answer of {message}"


def test_recorded_examples_are_formatted() -> None:
    for name, entry in test_datasets_reference.GOLDEN.items():
        for example in entry["examples"]:
            for message in example.get("message_list", [example]):
                training = name.endswith(" train")
                turns = FORMAT(message, np.random.RandomState(0), training, not training).turns
                assert len(turns) % 2 == (0 if training else 1)
                question = message["question"].strip()
                assert question.splitlines()[0] in turns[0]
