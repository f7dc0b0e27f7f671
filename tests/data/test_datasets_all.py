"""What holds for every declared data set: it is tested, its examples become conversations, and
nothing random happens while it is opened."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.data.datasets.declare import dataset_rows, single_questions
from olmo.data.datasets.draws import CLIP, ONE_OBJECT
from olmo.data.registry import get_dataset
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.prompts import KNOWN_STYLES
from tests.data import (
    test_datasets_benchmarks,
    test_datasets_chat,
    test_datasets_images,
    test_datasets_labels,
    test_datasets_pointing,
    test_datasets_reference,
    test_datasets_subtitles,
    test_datasets_tables,
    test_datasets_video,
)
from tests.data.datasets_miniature import VIDEOS, Miniature, plain

MODULES = (
    test_datasets_benchmarks,
    test_datasets_chat,
    test_datasets_images,
    test_datasets_labels,
    test_datasets_pointing,
    test_datasets_subtitles,
    test_datasets_tables,
    test_datasets_video,
)
CASES: list[Miniature] = [case for module in MODULES for case in module.CASES]
FORMAT = DataFormatterConfig().build()
USER, ASSISTANT = "<|im_start|>user\n", "<|im_start|>assistant\n"
REFERENCES = {"answer", "answers", "answer_idx", "count", "points", "mask", "gt_abs_triplets"}
REFERENCES |= {"statements"}
UNANSWERED = {"mlvu_mc_test:test", "perception_test:test"}
"""Splits whose answers are not public."""


def test_every_declared_data_set_is_tested() -> None:
    """Each has a miniature of its layout with the example that it must give, or a recorded one."""
    tested = {case.name for case in CASES if case.files and case.expected}
    tested |= {name for name, _, _ in test_datasets_reference.CASES.values()}
    assert tested == set(dataset_rows())
    for module in (*MODULES, test_datasets_reference):
        assert callable(module.test_example), f"{module.__name__} compares no example"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_miniature(case: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws come from the generator of the example alone, and the formatter knows the example."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    case.write(tmp_path)
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        states = random.getstate(), np.random.get_state()[1].tolist()
        found.append(case.read(np.random.RandomState(0)))
        assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert plain(found[0]) == plain(found[1]), "the same whatever the global seeds are"
    for example in found[0]:
        for message in example.get("message_list", [example]):
            check(message, case)


OTHER_LAYOUT = {
    *("coin_all_qa", "youcook2_all_qa", "activitynet_all_qa"),  # the rows name their split
    "science_qa_img",  # one table has all splits
    "moments_in_time_qa",  # the training miniature has an absent video, which evaluation keeps
    *("perception_test_max5", "perception_test_flat"),  # evaluation is that of perception_test
}
OTHER_SPLITS = [
    (case, split, word)
    for case in CASES
    if case.split == "train" and case.name not in OTHER_LAYOUT
    for split, word in dataset_rows()[case.name].splits.items()
    if word != dataset_rows()[case.name].splits["train"]
]


@pytest.mark.parametrize(
    ("case", "split", "word"), OTHER_SPLITS, ids=[f"{c.name}:{s}" for c, s, _ in OTHER_SPLITS]
)
def test_another_split_of_the_same_layout(
    case: Miniature, split: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training miniature under the file names of another split: one question per example."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    row, kind = dataset_rows()[case.name], "video" if case.home == VIDEOS else "image"
    train = row.splits["train"]
    moved = {f.format(split=train): f.format(split=word) for f in row.files}
    files = {moved.get(path, path): content for path, content in case.files.items()}
    media = [*case.media, *(path.replace(train, word) for path in case.media)]
    other = Miniature(case.name, files, media, split=split, home=case.home)
    home = other.write(tmp_path)
    found = [plain(example) for example in other.read()]
    for example in found:
        shown = str(Path(example[kind]).relative_to(home))
        example[kind] = shown.replace(train, word)
    expected = [dict(e) | {kind: e[kind].replace(train, word)} for e in case.expected]
    assert found == list(single_questions(expected))


def announced(record: dict[str, Any]) -> bool:
    return any("draw" in part for part in (record, *record.get("message_list", ())))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_announced_draws_are_drawn_anew(
    case: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other generators an example comes out otherwise, wherever its record announces it."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    case.write(tmp_path)
    data = get_dataset(case.name, case.split)
    records, copy = data.records, pickle.loads(pickle.dumps(data))
    for i in range(len(data)):
        again = plain(copy.get(i, np.random.RandomState(3)))
        assert again == plain(data.get(i, np.random.RandomState(3))), "in another process"
        found = [str(plain(data.get(i, np.random.RandomState(seed)))) for seed in range(30)]
        varies = announced(records[i]) and not no_choice(records[i])
        assert (len(set(found)) > 1) == varies


def no_choice(record: dict[str, Any]) -> bool:
    """Draws of a short video's clip and of the only object have one outcome."""
    draws = [d for part in (record, *record.get("message_list", ())) for d in part.get("draw", ())]
    return set(draws) <= {CLIP, ONE_OBJECT}


def check(message: dict[str, Any], case: Miniature) -> None:
    assert message.get("style") in KNOWN_STYLES
    training = case.split == "train"
    rng = np.random.RandomState(0) if training else None
    turns = FORMAT(message, rng, for_inference=not training, sizes=[(640, 480)]).turns
    assert len(turns) % 2 == (0 if training else 1)
    for i, turn in enumerate(turns):
        asked = turn.removeprefix("<|im_end|>\n").startswith(USER) and turn.endswith(ASSISTANT)
        assert asked if i % 2 == 0 else turn
    assert turns[0] != USER + "<|im_end|>\n" + ASSISTANT, "an empty prompt"
    metadata = message.get("metadata", {})
    if not training and str(case) not in UNANSWERED and metadata.get("task") != "captioning":
        known = REFERENCES & (set(message) | set(metadata))
        assert known, f"an evaluation needs the answer of {message}"


def test_recorded_examples_are_formatted() -> None:
    for name, entry in test_datasets_reference.GOLDEN.items():
        for example in entry["examples"]:
            for message in example.get("message_list", [example]):
                training = name.endswith(" train")
                rng = np.random.RandomState(0) if training else None
                turns = FORMAT(message, rng, not training).turns
                assert len(turns) % 2 == (0 if training else 1)
                question = message["question"].strip()
                assert question.splitlines()[0] in turns[0]
