"""Data sets against recorded examples: what published annotations become, for several seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.preprocessing.chat import DataFormatterConfig
from tests.data.worlds import examples, write_world

FIXTURES = Path(__file__).parents[1] / "fixtures"
RECORDED = json.loads((FIXTURES / "data_2/datasets.json").read_text(encoding="utf-8"))
SINGLE = json.loads((FIXTURES / "data_sets/dataset_examples.json").read_text(encoding="utf-8"))
"""Examples that were recorded one by one, with nothing drawn, and the files of each."""
FORMAT = DataFormatterConfig().build()
NOT_KEPT = {"video_name", "id", "prefix"}
"""Metadata that nothing needs, of localized narratives; MVBench has or lacks a slash at the end."""
TIMES = ("clip_start_time", "clip_end_time")


def same_message(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether a message is the recorded one, whatever is drawn in it."""
    drawn = expected.get("drawn", ())
    if "options" in drawn:
        right, wanted = found["answer_idx"], expected["answer_idx"]
        if found["options"][right] != expected["options"][wanted]:
            return False
        if sorted(found["options"]) != sorted(expected["options"]):
            return False
    if "answer" in drawn and found["answer"] not in expected["answer"]:
        return False
    if "question" in drawn and not found["question"]:
        return False
    free = {"drawn", "category", *drawn, *(["answer_idx"] if "options" in drawn else [])}
    keys = (set(found) | set(expected)) - free
    return all(found.get(k) == expected.get(k) for k in keys)


def same_example(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    rest = {"message_list", "metadata"}
    if {k: v for k, v in found.items() if k not in rest} != {
        k: v for k, v in expected.items() if k not in rest
    }:
        return False
    mine, theirs = found.get("metadata", {}), expected.get("metadata", {})
    if any(mine.get(k) != theirs.get(k) for k in {*TIMES, *theirs} - NOT_KEPT):
        return False
    pairs = found.get("message_list", []), expected.get("message_list", [])
    return len(pairs[0]) == len(pairs[1]) and all(map(same_message, *pairs))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with all miniatures."""
    root = tmp_path_factory.mktemp("recorded")
    for files in RECORDED["worlds"].values():
        write_world(root, files)
    return root


@pytest.mark.parametrize("name", RECORDED["expected"])
def test_example(name: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(world))
    expected = RECORDED["expected"][name]
    data_set, _, split = name.partition(":")
    for seed in (0, 100):
        found = examples(data_set, split, world, seed)
        for mine, theirs in zip(found, expected, strict=False):
            assert same_example(mine, theirs), f"{mine}\n!=\n{theirs}"
        assert len(found) == len(expected)


@pytest.mark.parametrize("name", SINGLE)
def test_single_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key and value of it, metadata included; and its question is asked."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    write_world(tmp_path, SINGLE[name]["files"])
    data_set, _, split = name.partition(":")
    found = examples(data_set, split, tmp_path)
    assert found == SINGLE[name]["examples"]
    for example in found:
        for message in example.get("message_list", [example]):
            rng = np.random.RandomState(0) if split == "train" else None
            asked = FORMAT(message, rng, for_inference=split != "train").turns[0]
            assert message["question"].strip().splitlines()[0] in asked
