"""Every data set of the catalogue on a miniature of its files (``tests/cases``): its examples, and
what holds for all of them."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.data.datasets.catalogue import dataset_rows
from olmo.data.mixture import MixtureConfig, MixtureGroup, WeightedDataset
from olmo.data.records import DatasetFormatError
from olmo.data.registry import get_dataset
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.prompts import KNOWN_STYLES
from tests.data.worlds import CASES, First, examples, plain, write_case

NAMES = sorted(path.name for path in CASES.iterdir())


def one_of_a_kind() -> list[Any]:
    """All names; those are marked slow that have the form and the kinds of files of an earlier."""
    seen, out = set(), []
    for name in NAMES:
        row, files = dataset_rows().get(name), (CASES / name / "files").rglob("*.*")
        form = row and (bool(row.read), bool(row.row), bool(row.columns), row.merge)
        kind = form, *sorted({"".join(file.suffixes[-2:]) for file in files})
        out.append(pytest.param(name, marks=[pytest.mark.slow] if kind in seen else []))
        seen.add(kind)
    return out


FORMAT = DataFormatterConfig().build()
USER, ASSISTANT = "<|im_start|>user\n", "<|im_start|>assistant\n"
REFERENCES = {"answer", "answers", "answer_idx", "count", "points", "mask", "gt_abs_triplets"}
REFERENCES |= {"statements", "text"}
UNANSWERED = {"perception_test:test", "tvqa:test", "tvqa_with_sub:test"}
UNANSWERED |= {f"long_video_bench_{kind}_subtitle:test" for kind in ("no", "w")}
UNANSWERED |= {f"{name}:test" for name in ("a_okvqa_da", "a_okvqa_mc", "coco_2014_vqa")}
UNANSWERED |= {f"{name}:test" for name in ("doc_qa", "info_qa")}
"""Splits whose answers are not public."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    return tmp_path


def home(name: str, root: Path) -> Path:
    return root / dataset_rows()[name].home


def test_every_data_set_has_a_case() -> None:
    assert sorted(dataset_rows()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str, root: Path) -> None:
    """All examples of all splits of ``expected.json``, with the first choice of every draw."""
    expected = write_case(name, home(name, root))
    assert expected
    for split, found in expected.items():
        assert examples(name, split, root, seed=None) == found, split


def other_splits() -> Iterator[tuple[str, str, str]]:
    """A set, a split that its case does not have, and one that it has, of the same layout."""
    for name in NAMES:
        known = json.loads((CASES / name / "expected.json").read_text(encoding="utf-8"))
        asked = [split for split in dataset_rows()[name].splits if split in known]
        for split in set(dataset_rows()[name].splits) - set(known):
            if asked[-1] != "train":
                yield name, split, asked[-1]


@pytest.mark.parametrize(("name", "split", "like"), sorted(other_splits()))
def test_another_split_of_the_same_layout(name: str, split: str, like: str, root: Path) -> None:
    """Under the file names of that split; it may also be another name for the same one."""
    words = dataset_rows()[name].splits
    word = re.compile(rf"(?<![A-Za-z]){words[like]}(?![A-Za-z]|_test)")  # not train_val_test
    expected = write_case(name, home(name, root))[like]
    for path in sorted(home(name, root).rglob("*")):
        target = root / word.sub(words[split], str(path.relative_to(root)))
        if path.is_file() and target != path:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    found = examples(name, split, root, seed=None)
    assert found == json.loads(word.sub(words[split], json.dumps(expected)))


@pytest.mark.parametrize("name", ["perception_test_flat", "perception_test_max5"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_is_that_of_another_set(name: str, split: str, root: Path) -> None:
    expected = write_case("perception_test", home(name, root))
    assert examples(name, split, root, seed=None) == expected[split]


@pytest.mark.parametrize("name", one_of_a_kind())
def test_examples_become_conversations(name: str, root: Path) -> None:
    """With draws from the generator of the example alone."""
    for split in write_case(name, home(name, root)):
        found = []
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)
            states = random.getstate(), np.random.get_state()[1].tolist()
            found.append(examples(name, split, root))
            assert (random.getstate(), np.random.get_state()[1].tolist()) == states
        assert found[0] == found[1], "the same whatever the global seeds are"
        for example in found[0]:
            assert split == "train" or "message_list" not in example, "one question per example"
            for message in example.get("message_list", [example]):
                check(message, f"{name}:{split}")


def check(message: dict[str, Any], which: str) -> None:
    for part in message.get("multi_turn_messages", [message]):
        assert part.get("style") in KNOWN_STYLES
    training = which.endswith(":train")
    rng = np.random.RandomState(0) if training else None
    turns = FORMAT(message, rng, for_inference=not training, sizes=[(640, 480)] * 5).turns
    assert len(turns) % 2 == (0 if training else 1)
    for i, turn in enumerate(turns):
        asked = turn.removeprefix("<|im_end|>\n").startswith(USER) and turn.endswith(ASSISTANT)
        assert asked if i % 2 == 0 else turn
    assert turns[0] != USER + "<|im_end|>\n" + ASSISTANT, "an empty prompt"
    metadata = message.get("metadata", {})
    if not training and which not in UNANSWERED and metadata.get("task") != "captioning":
        known = REFERENCES & (set(message) | set(metadata))
        assert known, f"an evaluation needs the answer of {message}"


@pytest.mark.parametrize("name", one_of_a_kind())
def test_announced_draws_are_drawn_anew(name: str, root: Path) -> None:
    """With other generators an example comes out otherwise, wherever its record announces it; and
    in another process as in this one."""
    for split in write_case(name, home(name, root)):
        data = get_dataset(name, split)
        records, copy = data.records, pickle.loads(pickle.dumps(data))
        for i in range(len(data)):
            again = plain(copy.get(i, np.random.RandomState(3)), [])
            assert again == plain(data.get(i, np.random.RandomState(3)), []), "another process"
            drawn = announced(records[i])
            seeds = range(30) if drawn else range(5)
            found = (plain(data.get(i, np.random.RandomState(seed)), []) for seed in seeds)
            assert any(again != other for other in found) == drawn


def announced(record: dict[str, Any]) -> bool:
    return any("draw" in part for part in (record, *record.get("message_list", ())))


ODD_ROWS: tuple[Any, ...] = (None, {}, [], "text", 7, {"question": None, "video": [1], "points": 3})


def with_odd_rows(path: Path) -> Iterator[str]:
    """Contents of a text file with a row more that nobody can use; nothing for a file that is not
    made of rows."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".csv", ".txt"):
        lines = text.splitlines()
        yield from ("\n".join([*lines[:at], '"odd,', *lines[at:]]) + "\n" for at in (1, len(lines)))
    elif path.suffix == ".jsonl" or text.count("\n{") > 1:
        yield from (text + json.dumps(row) + "\n" for row in ODD_ROWS)
        yield text + "{cut\n"
    elif path.suffix == ".json":
        content = json.loads(text)
        rows = content
        if isinstance(content, dict):
            rows = next((v for v in content.values() if isinstance(v, list)), content)
        for row in ODD_ROWS:
            if isinstance(rows, list):
                rows.append(row)
            else:
                rows["odd"] = row
            yield json.dumps(content)
            rows.pop() if isinstance(rows, list) else rows.pop("odd")


LOOKUPS = {
    *("map_vid_vidorID.json", "class_to_question.json", "subtitles.json", "mask_dict.json"),
    *("k710_label_map.txt", "missing_clips.txt", "groundtruth.txt", "nlp.txt", "list.txt"),
    *("groundtruth_rect.txt", "Groundtruth.txt", "ab_0.txt", "language.txt", "absent.txt"),
    *("full_occlusion.txt", "out_of_view.txt", "000012.json"),
}
"""Files that are looked up in, or belong to one example, which have no rows."""
TEXTS = (".csv", ".json", ".jsonl", ".txt")


@pytest.mark.parametrize("name", one_of_a_kind())
def test_an_odd_row_costs_no_other(name: str, root: Path) -> None:
    """Whatever stands in a row more, the examples of the others stay as they are."""
    expected = write_case(name, home(name, root))
    files = [f for f in (CASES / name / "files").rglob("*") if f.suffix in TEXTS]
    for source in files:
        target = home(name, root) / source.relative_to(CASES / name / "files")
        if not target.is_file() or target.name in LOOKUPS:
            continue
        whole = target.read_bytes()
        for odd in with_odd_rows(target):
            target.write_text(odd, encoding="utf-8")
            for split, examples_before in expected.items():
                data = get_dataset(name, split)
                found = []
                for i in range(len(data)):
                    with contextlib.suppress(DatasetFormatError):  # of a row that is read late
                        found.append(plain(data.get(i, First()), [f"{home(name, root)}/"]))
                assert found == examples_before, (target, odd[-80:])
        target.write_bytes(whole)


def test_a_mixture_of_all_sets_starts_soon(root: Path) -> None:
    names = [name for name in NAMES if "train" in dataset_rows()[name].splits]
    for name in names:
        write_case(name, home(name, root))
    group = MixtureGroup(1.0, [WeightedDataset(name) for name in names])
    start = time.monotonic()
    mixture = MixtureConfig([group]).open("train")
    assert time.monotonic() - start < 30
    assert mixture.names == names
