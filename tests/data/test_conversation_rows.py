"""Own conversations as the model sees them: rows, losses, references; and lines of any content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from olmo.data.custom import CustomDataError, CustomDataset
from olmo.data.examples import prepare
from olmo.eval.scoring import score_example
from olmo.eval.store import example_fingerprint
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.multimodal import ExamplePreprocessor, Molmo2PreprocessorConfig
from olmo.tokenizer import TokenizerConfig

TOKENIZER = Path(__file__).parents[1] / "fixtures" / "data" / "byte_tokenizer"
START, END = "<|im_start|>", "<|im_end|>"


def shared(*values: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if i % 2 else "human", "value": v} for i, v in enumerate(values)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "a.mp4").touch()
    for name in ("c.png", "d.png"):
        Image.new("RGB", (20, 20), (200, 0, 0)).save(folder / name)
    return folder


def opened(folder: Path, line: Any, evaluation: bool = False) -> CustomDataset:
    path = folder / "my.jsonl"
    path.write_text(json.dumps(line))
    return CustomDataset.open(path, evaluation=evaluation)


def read(folder: Path, line: Any, evaluation: bool = False) -> dict[str, Any]:
    return opened(folder, line, evaluation).get(0, np.random.RandomState(0))


@pytest.fixture(scope="module")
def preprocessor() -> ExamplePreprocessor:
    tokenizer = TokenizerConfig(str(TOKENIZER)).build(151936)
    config = Molmo2PreprocessorConfig.from_dict(
        {"image": {"max_crops": 1, "max_images": 2, "crop_mode": "resize"}}
    )
    return ExamplePreprocessor(config, DataFormatterConfig(), tokenizer, (28, 28), 14)


def rows(preprocessor: ExamplePreprocessor, example: dict[str, Any]) -> tuple[str, list[str]]:
    """The row as text, a picture as one ``#``, and the runs of targets with a loss."""
    arrays = prepare(example, preprocessor, np.random.RandomState(0))
    tokenizer = preprocessor.tokenizer
    visual = set(tokenizer.ids.values())
    ids, pieces = arrays["input_tokens"].tolist(), []
    for i, token in enumerate(ids):
        if token not in visual:
            pieces.append(tokenizer.decode([token], truncate_at_eos=False))
        elif i == 0 or ids[i - 1] not in visual:
            pieces.append("#")
    loss, said = arrays["loss_masks"] > 0, [""]
    for token, counts in zip(arrays["target_tokens"].tolist(), loss, strict=True):
        said[-1] += tokenizer.decode([token], truncate_at_eos=False) if counts else ""
        if not counts and said[-1]:
            said.append("")
    return "".join(pieces), [s for s in said if s]


def test_every_answer_has_loss(folder: Path, preprocessor: ExamplePreprocessor) -> None:
    bos = preprocessor.tokenizer.decode([preprocessor.tokenizer.bos_id], truncate_at_eos=False)
    eos = preprocessor.tokenizer.decode([preprocessor.tokenizer.eos_id], truncate_at_eos=False)
    line = {"images": ["c.png"], "conversations": shared("<image>\nQ<|im_end|>", "A", "R", "B")}
    row, said = rows(preprocessor, read(folder, line))
    asked = f"{START}user\nQ{END}{END}\n{START}assistant\n"
    again = f"{END}\n{START}user\nR{END}\n{START}assistant\n"
    assert row == f"{bos}#{asked}A{eos}{again}B"
    assert said == [f"A{eos}", f"B{eos}"]
    line = {
        "images": ["c.png", "d.png"],
        "conversations": shared("1 <image>", "A", "2 <image>", "B"),
    }
    row, said = rows(preprocessor, read(folder, line))
    assert row.count("#") == 2 and said == [f"A{eos}", f"B{eos}"]
    assert row.index("1 ") < row.index("#") < row.index("A") < row.index("2 ") < row.rindex("#")


def test_places_of_images_beyond_the_limit_go(
    folder: Path, preprocessor: ExamplePreprocessor
) -> None:
    several = ["c.png", "d.png", "c.png"]
    line = {
        "images": several,
        "conversations": shared("1 <image> 2 <image>", "A", "3 <image>.", "B"),
    }
    row, _ = rows(preprocessor, read(folder, line))
    assert row.count("#") == 2 and "<|image|>" not in row and "user\n3 ." in row


# --- to evaluate -------------------------------------------------------------------------------


def test_evaluation_has_the_last_answer_as_reference(
    folder: Path, preprocessor: ExamplePreprocessor
) -> None:
    line = {"image": "c.png", "conversations": shared("<image>\nQ", "A", "And <b>?", "B")}
    got = read(folder, line, evaluation=True)
    known = {"question": "And <b>?", "answer": "B", "example_id": "my.jsonl:1"}
    assert got["metadata"] == known
    arrays = prepare(got, preprocessor)
    asked = preprocessor.tokenizer.decode(arrays["input_tokens"].tolist(), truncate_at_eos=False)
    assert asked.endswith(f"And <b>?{END}\n{START}assistant\n") and not arrays["loss_masks"].any()
    assert arrays["metadata"].items() >= known.items()
    choice = {"image": "c.png", "question": "Q", "options": ["a cup", "b"], "answer": "a cup"}
    arrays = prepare(read(folder, choice, evaluation=True), preprocessor)
    assert arrays["metadata"].items() >= {
        **{"question": "Q", "options": ["a cup", "b"], "answer_idx": 0, "option_names": "AB"},
    }.items()  # fmt: skip
    assert "answer" not in arrays["metadata"], "a text would be read as a letter"
    for answered, right in (("A. a cup", 1), ("B. b", 0)):
        score = score_example(answered, arrays["metadata"], "question_answering")
        assert score.correct == right
    assert score_example("b", known, "question_answering").correct == 1
    assert example_fingerprint(got) == example_fingerprint(read(folder, line, evaluation=True))
    assert "answer" not in read(folder, line)["metadata"]


# --- whatever a line holds ---------------------------------------------------------------------

SAID = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
words = st.sampled_from(
    [
        *(
            "messages",
            "conversations",
            "images",
            "video",
            "role",
            "content",
            "from",
            "value",
            "type",
        ),
        *(
            "text",
            "image",
            "user",
            "gpt",
            "assistant",
            "human",
            "system",
            "tools",
            "a.mp4",
            "c.png",
        ),
        *("<image>", "<video>\nQ", "bytes", "path", "url", "image_url", "id", "", "data:;base64,a"),
    ]
)
leaves = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(), words, st.text())
values = st.recursive(
    leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=4), max_leaves=12
)
spoken = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | values},
    optional={"content": words | values, "value": values},
)
conversations = st.fixed_dictionaries(
    {"messages": st.lists(spoken | values, max_size=4)},
    optional={
        "images": values,
        "video": values,
        "image": values,
        "system": values,
        "tools": values,
    },
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values | conversations)
@example({"messages": SAID, "image": {"bytes": "x"}})
@example({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]})
@example({"messages": [{"role": ["user"], "content": 3}], "images": {"path": None}})
@example({"image": {"path": []}, "question": "Q", "answer": "A"})
@example({"messages": [{"role": "user", 3: 4}]})
def test_a_line_is_a_record_or_a_named_mistake(folder: Path, value: Any) -> None:
    try:
        data = opened(folder, value)
    except CustomDataError as e:
        assert "\n  line 1: " in str(e) and "cannot be used: " not in str(e).split("line 1")[1]
        return
    formatter = DataFormatterConfig().build()
    got = data.get(0, np.random.RandomState(0))
    assert len(formatter(got, np.random.RandomState(0)).turns) >= 2
