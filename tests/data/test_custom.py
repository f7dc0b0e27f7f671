"""Own data in a jsonl file: what an example becomes, and what every mistake says."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.data.custom import CustomDataError, CustomDataset

VIDEO = {"video": "clips/a.mp4", "question": "What?", "answer": "This."}
CHOICE = {"video": "clips/a.mp4", "question": "Which?", "options": ["x", "y"], "answer": "y"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for name in ("clips/a.mp4", "b.jpg", "c.png"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "my.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def read(folder: Path, *lines: Any) -> list[dict[str, Any]]:
    data = CustomDataset.open(write(folder, *lines))
    return [data.get(i, np.random.RandomState(0)) for i in range(len(data))]


def test_open_question_and_multiple_choice(folder: Path) -> None:
    video = str(folder / "clips/a.mp4")
    clip = {"start": 2, "end": 9.5}
    lines = [{"start": 2.5, "end": 4, "text": "Look!"}]
    assert read(folder, VIDEO, "", CHOICE, CHOICE | clip | {"subtitle": lines, "answer": 0}) == [
        {
            "video": video,
            "question": "What?",
            "answer": "This.",
            "style": "user_qa",
            "metadata": {"example_id": "my.jsonl:1"},
        },
        {
            "video": video,
            "question": "Which?",
            "options": ["x", "y"],
            "answer_idx": 1,
            "style": "video_multiple_choice",
            "metadata": {"example_id": "my.jsonl:3"},
        },
        {
            "video": video,
            "question": "Which?",
            "options": ["x", "y"],
            "answer_idx": 0,
            "subtitle": {(2.5, 4.0): "Look!"},
            "style": "video_multiple_choice_w_subtitle",
            "metadata": {
                "example_id": "my.jsonl:4",
                "clip_start_time": 2,
                "clip_end_time": 9.5,
            },
        },
    ]


def test_images_style_and_plain_subtitle(folder: Path) -> None:
    one, several, styled = read(
        folder,
        {"image": "b.jpg", "question": "Which?", "options": ["x", "y"], "answer": "x"},
        {"image": ["b.jpg", "c.png"], "question": "Same?", "answer": "No."},
        VIDEO | {"style": "video_short_answer", "subtitle": "spoken words", "start": 3},
    )
    assert one["image"] == str(folder / "b.jpg") and one["style"] == "a_okvqa_mc"
    assert several["image"] == [str(folder / "b.jpg"), str(folder / "c.png")]
    assert styled["style"] == "video_short_answer" and styled["subtitle"] == "spoken words"
    assert styled["metadata"]["clip_start_time"] == 3
    assert styled["metadata"]["clip_end_time"] is None


def test_a_video_as_a_folder_of_pictures(folder: Path) -> None:
    (example,) = read(folder, {**VIDEO, "video": "clips", "frame_rate": 2.5, "end": 3})
    assert example["video"] == str(folder / "clips")
    assert example["metadata"]["frame_rate"] == 2.5 and example["metadata"]["clip_end_time"] == 3


@pytest.mark.parametrize("name", ["a7", "", 7])
def test_an_id_of_the_users_own_is_kept(folder: Path, name: Any) -> None:
    (example,) = read(folder, VIDEO | {"id": name})
    assert example["metadata"] == {"example_id": "my.jsonl:1", "id": name}
    assert example.keys() == read(folder, VIDEO)[0].keys()


def test_a_whole_number_is_its_text(folder: Path) -> None:
    several = {k: v for k, v in VIDEO.items() if k != "answer"} | {"answers": [3, "3", 4]}
    one, some = read(folder, VIDEO | {"answer": 3}, several)
    assert one["answer"] == "3" and some["answers"] == ["3", "3", "4"]


def test_a_category_is_kept(folder: Path) -> None:
    said = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    chat = {"video": "clips/a.mp4", "conversations": said, "sub_category": "passed over"}
    lines = [VIDEO, VIDEO | {"category": "colour"}, CHOICE | {"category": 2}]
    lines += [VIDEO | {"category": ""}, chat | {"category": "colour"}]
    lines += [chat | {"category": "colour", "data_source": "s"}, chat | {"data_source": "s"}]
    trained = [example["metadata"].get("category") for example in read(folder, *lines)]
    assert trained == [None, "colour", 2, None, "colour", "colour", None]
    data = CustomDataset.open(folder / "my.jsonl", evaluation=True)
    asked = [data.get(i, np.random.RandomState(0))["metadata"] for i in range(len(data))]
    assert [m.get("category") for m in asked] == [*trained[:-1], "s"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'video': 1}", "not valid JSON: .* at column 2"),
        ("[1]", r"expected an object in braces, got '\[1\]'"),
        ({**VIDEO, "qestion": "x"}, "unknown key 'qestion'; did you mean 'question'"),
        (
            {**VIDEO, "zzz": 2},
            "unknown key 'zzz'; known: answer, answers, category, conversations, end, frame_rate",
        ),
        ({**VIDEO, "": 2}, "unknown key ''; known: answer"),
        ({"video": "clips/a.mp4", "answer": "x"}, "no 'question'"),
        ({"video": "clips/a.mp4", "question": "x"}, "no 'answer'"),
        ({"question": "x", "answer": "y"}, "expected either 'video' or 'image'"),
        ({**VIDEO, "image": "b.jpg"}, "expected either 'video' or 'image'"),
        ({**VIDEO, "video": "clips/z.mp4"}, "no file .*clips/z.mp4"),
        ({**VIDEO, "image": ["b.jpg", "z.png"], "video": None}, "no file .*z.png"),
        (
            {**VIDEO, "image": [], "video": None},
            r"'image': expected a path or a list of .*, got \[\]",
        ),
        ({**VIDEO, "question": "  "}, "'question': expected text"),
        ({**VIDEO, "prompt": "x"}, "unknown key 'prompt'; did you mean 'question'"),
        ({**VIDEO, "Response": "x"}, "unknown key 'Response'; did you mean 'answer'"),
        ({**VIDEO, "answer": 2.5}, "'answer': expected text, got 2.5: write numbers in quotes"),
        ({**VIDEO, "answer": True}, "'answer': expected text, got True$"),
        ({**CHOICE, "answer": "B"}, r"'answer' 'B' is .* number from 0; letters are not read$"),
        ({**CHOICE, "answer": "(b) y"}, r"'answer' .* number from 0; letters are not read$"),
        ({**CHOICE, "answer": "why"}, r"'answer' .*: give the text of one, or its number from 0$"),
        ({**CHOICE, "options": [1, 2]}, r"'options': .* got \[1, 2\]: write numbers in quotes"),
        ({**VIDEO, "category": ["a"]}, r"'category': expected text or a whole number, got"),
        ({**CHOICE, "answer": "z"}, r"'answer' 'z' is not one of the options \['x', 'y'\]"),
        ({**CHOICE, "answer": 2}, "'answer' 2 is not one of the options"),
        ({**CHOICE, "answer": True}, "'answer' True is not one of the options"),
        ({**CHOICE, "options": ["x"]}, "'options': expected 2 to 26 texts"),
        ({**CHOICE, "options": ["x", "x"]}, "'options': the same text twice"),
        ({**VIDEO, "start": 5, "end": 5}, "'start' 5 is not before 'end' 5"),
        ({**VIDEO, "start": -1}, "'start': expected seconds from 0 on, got -1"),
        ({**VIDEO, "end": "4"}, "'end': expected seconds from 0 on, got '4'"),
        ('{"video": "clips/a.mp4", "question": "x", "answer": "y", "end": NaN}', "'end': expected"),
        ({**VIDEO, "subtitle": 3}, "'subtitle': expected text or a list"),
        ({**VIDEO, "subtitle": [{"start": 1}]}, r"'subtitle\[0\]': expected the keys start"),
        (
            {**VIDEO, "subtitle": [{"start": 2, "end": 1, "text": "x"}]},
            r"'subtitle\[0\]': it starts after its end",
        ),
        ({"image": "b.jpg", "question": "x", "answer": "y", "start": 1}, "'start' needs a 'video'"),
        ({**VIDEO, "style": ""}, "'style': expected text"),
        ({**VIDEO, "style": 4}, "'style': expected text, got 4"),
        (
            {**VIDEO, "style": "video_short_answr"},
            "'style': unknown style 'video_short_answr'; did you mean 'video_short_answer'",
        ),
        ({**VIDEO, "style": "short_answer"}, "'style': .*; did you mean 'video_short_answer'"),
        (
            {"image": "b.jpg", "question": "x", "answer": "y", "style": "short_answer"},
            "'style': .*; did you mean 'eval_short_answer'",
        ),
        ({**VIDEO, "style": "zzz"}, "'style': unknown style 'zzz'; known: a_okvqa_da, "),
        (
            {"image": "b.jpg", "question": "x", "answer": "y", "style": "video_short_answer"},
            "style 'video_short_answer' needs a 'video'",
        ),
        ({**VIDEO, "video": None}, "expected either 'video' or 'image'"),
        ({**VIDEO, "video": ["a", "b"]}, r"'video': .* one video per line, got \['a', 'b'\]"),
        ({**VIDEO, "video": "clips"}, ".*clips is a folder of pictures: give its 'frame_rate'"),
        ({**VIDEO, "video": "clips", "frame_rate": 0}, "'frame_rate': expected frames per second"),
        ({**VIDEO, "video": "clips", "frame_rate": "2"}, "'frame_rate': expected frames"),
        ({**VIDEO, "frame_rate": 2}, "'frame_rate' is for a folder of pictures, .*a.mp4 is a file"),
        ({**VIDEO, "image": "clips", "video": None}, "no file .*clips"),
        (
            {**VIDEO, "image": ["b.jpg", 3], "video": None},
            r"'image': expected a path or a list of paths, got \['b.jpg', 3\]",
        ),
        ({**VIDEO, "question": ["x"]}, r"'question': expected text, got \['x'\]"),
        ({**VIDEO, "answer": " "}, "'answer': expected text, got ' '"),
        ({**VIDEO, "answer": ["a"]}, r"'answer': .* got \['a'\]: several go into 'answers'"),
        ({**CHOICE, "answer": -1}, "'answer' -1 is not one of the options"),
        ({**CHOICE, "answer": 0.0}, "'answer' 0.0 is not one of the options"),
        ({**CHOICE, "answer": {"a": 1}}, "'answer' {'a': 1} is not one of the options"),
        ({**CHOICE, "options": "xy"}, "'options': expected 2 to 26 texts, got 'xy'"),
        ({**CHOICE, "options": ["x", 1]}, r"'options': expected 2 to 26 texts, got \['x', 1\]"),
        ({**CHOICE, "options": ["x", ""]}, "'options': expected 2 to 26 texts"),
        ({**CHOICE, "options": [str(i) for i in range(27)]}, "'options': expected 2 to 26 texts"),
        ({**VIDEO, "start": True}, "'start': expected seconds from 0 on, got True"),
        ({**VIDEO, "start": 1, "end": 1e400}, "'end': expected seconds from 0 on, got inf"),
        ({**VIDEO, "subtitle": ["x"]}, r"'subtitle\[0\]': expected the keys start, end, text"),
        (
            {**VIDEO, "subtitle": [{"start": "0", "end": 1, "text": "x"}]},
            r"'subtitle\[0\].start': expected seconds",
        ),
        (
            {**VIDEO, "subtitle": [{"start": 0, "end": 1, "text": 5}]},
            r"'subtitle\[0\].text': expected text, got 5",
        ),
        ({**VIDEO, "id": True}, "'id': expected text or a whole number, got True"),
        ({**VIDEO, "id": ["a"]}, r"'id': expected text or a whole number, got \['a'\]"),
        ("null", "expected an object in braces, got 'null'"),
        ('{"video": "clips/a.mp4"} x', "not valid JSON: Extra data at column"),
    ],
)
def test_a_mistake_names_its_line(folder: Path, line: Any, message: str) -> None:
    with pytest.raises(CustomDataError, match=f"my.jsonl: 1 lines .*\n  line 2: {message}"):
        read(folder, VIDEO, line)


def test_all_mistakes_of_a_line_are_lettered(folder: Path) -> None:
    line = {"vidoe": 1, "video": "z.mp4", "start": -1, "options": ["x"], "style": "user_q"}
    with pytest.raises(CustomDataError) as caught:
        read(folder, VIDEO, line)
    assert str(caught.value).split("line 2: ")[1] == (
        "(a) unknown key 'vidoe'; did you mean 'video'?; "
        "(b) 'options': expected 2 to 26 texts, got ['x']; "
        "(c) 'start': expected seconds from 0 on, got -1; "
        "(d) 'style': unknown style 'user_q'; did you mean 'user_qa'?; "
        "(e) no 'question'; (f) no 'answer'; "
        f"(g) no file {folder / 'z.mp4'}"
    )


def test_all_mistakes_come_at_once(folder: Path) -> None:
    with pytest.raises(CustomDataError) as caught:
        read(folder, VIDEO, "{", "", *["[]"] * 30)
    text = str(caught.value)
    assert "31 lines" in text and "line 2:" in text and "line 4:" in text and "11 more" in text


def test_no_file_no_lines_no_text(folder: Path) -> None:
    with pytest.raises(CustomDataError, match=r"nothing\.jsonl: no such file"):
        CustomDataset.open(folder / "nothing.jsonl")
    with pytest.raises(CustomDataError, match="it is empty"):
        read(folder, "", " ")
    (folder / "my.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CustomDataError, match="UTF-8"):
        CustomDataset.open(folder / "my.jsonl")


def test_it_crosses_to_another_process(folder: Path) -> None:
    data = CustomDataset.open(write(folder, VIDEO))
    copy = pickle.loads(pickle.dumps(data))
    assert copy.get(0, np.random.RandomState(0)) == data.get(0, np.random.RandomState(0))
