"""Whatever a jsonl file holds: a mistake has its file and line, and a line that passes trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from olmo.data.custom import CustomDataError, CustomDataset
from olmo.data.mixture import MixtureConfig
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.prompts import KNOWN_STYLES

VIDEO: dict[str, Any] = {"video": "a.mp4", "question": "What?", "answer": "b"}
IMAGE: dict[str, Any] = {"image": "b.jpg", "question": "What?", "answer": "b"}
OPTIONS = {"options": ["a", "b"]}
HUGE = "1" + "0" * 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    for name in ("a.mp4", "b.jpg", "shut.mp4"):
        (folder / name).touch()
    (folder / "pictures").mkdir()
    return folder


def opened(folder: Path, data: bytes, **limits: int) -> CustomDataset:
    path = folder / "my.jsonl"
    path.write_bytes(data)
    return CustomDataset.open(path, **limits)


def line(**changes: Any) -> bytes:
    return json.dumps(VIDEO | changes).encode()


GOOD = line()
BAD: dict[str, tuple[bytes, str]] = {
    "a lone surrogate": (line(question="x\ud800y"), "half of a character"),
    "one in the answer": (line(answer="\udfff"), "half of a character"),
    "one in a path": (line(video="\udc80.mp4"), r"no file .*\\udc80\.mp4"),
    "one in a key": (line(**{"\ud800": 1}), "unknown key"),
    "400 digits": (GOOD[:-1] + f', "start": {HUGE}}}'.encode(), "'start': expected seconds"),
    "5000 digits": (GOOD[:-1] + f', "start": 1{"0" * 5000}}}'.encode(), "4300 digits"),
    "400 digits in subtitles": (
        GOOD[:-1] + f', "subtitle": [{{"start": 0, "end": {HUGE}, "text": "x"}}]}}'.encode(),
        r"'subtitle\[0\].end': expected seconds",
    ),
    "a late end": (line(end=1e308), "'end': expected seconds"),
    "an end at 0": (line(end=0), "'start' 0 is not before 'end' 0"),
    "Infinity": (GOOD[:-1] + b', "end": Infinity}', "'end': expected seconds .* got inf"),
    "NaN": (GOOD[:-1] + b', "frame_rate": NaN}', "'frame_rate': expected frames"),
    "NaN as answer": (line(answer=float("nan"), **OPTIONS), "'answer' nan is not one"),
    "a deep value": (b'{"question": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "far too deep"),
    "a deep line": (b"[" * 10**5, "far too deep"),
    "quite deep": (b'{"answer": ' + b"[" * 500 + b"]" * 500 + b"}", "'answer'|too deep"),
    "a long file name": (line(video="x" * 300 + ".mp4"), "not a usable path: .*too long"),
    "a zero byte in a path": (line(video="a\0.mp4"), r"no (file|path) .*a\\x00\.mp4"),
    "latin-1": (b'{"question": "\xe9"}', "not in UTF-8: byte 0xe9 at 15"),
    "the same key twice": (b'{"video": "z", ' + GOOD[1:], "the key 'video' stands there twice"),
    "twice within": (
        GOOD[:-1] + b', "subtitle": [{"start": 0, "start": 1, "end": 2, "text": "x"}]}',
        "the key 'start' stands there twice",
    ),
    "two objects": (GOOD + GOOD, "not valid JSON: Extra data"),
    "zero bytes": (b"\0" * 1000, "not valid JSON"),
    "a mark in the middle": (b"\xef\xbb\xbf" + GOOD, "not valid JSON: .*BOM"),
    "a line separator": (GOOD + "\u2028".encode(), "not valid JSON: Extra data"),
    "a folder as image": (
        json.dumps(IMAGE | {"image": "pictures"}).encode(),
        "no file .*pictures, it is a folder",
    ),
    "a device": (line(video="/dev/zero"), "no file /dev/zero"),
    "a number among numbers": (
        line(answer=1, options=["3", "2", "1"]),
        "'answer' 1 may be the option '1', or number 1 counted from 0, '2'",
    ),
    "another spelling": (line(answer=0, options=["3", "0.0"]), "'answer' 0 may be .* '0.0'"),
    "options without use": (
        line(style="video_short_answer", **OPTIONS),
        "style 'video_short_answer' is of no use with 'options'",
    ),
    "many unknown keys": (json.dumps({f"k{i}": 1 for i in range(10**4)}).encode(), "unknown key"),
    "a long answer": (line(answer="w" * 10**5, **OPTIONS), "'answer' 'www.* is not one of"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_mistakes_have_file_and_line(folder: Path, kind: str, ends: bytes) -> None:
    data, message = BAD[kind]
    with pytest.raises(CustomDataError, match=f"my.jsonl: 1 lines .*\n  line 2: .*{message}") as e:
        opened(folder, ends.join([GOOD, data, GOOD, b""]))
    assert len(str(e.value)) < 3500 and str(folder) in str(e.value)
    str(e.value).encode()  # it can be printed


def test_forms_of_files(folder: Path) -> None:
    for data in (GOOD, b"\xef\xbb\xbf" + GOOD + b"\n", b"\r\n \x0b\r\n" + GOOD + b"\r\n"):
        assert len(opened(folder, data)) == 1
    for name in ("utf-16", "utf-16-le"):
        with pytest.raises(CustomDataError, match=r"my\.jsonl: .* lines .*\n  line 1: .*"):
            opened(folder, GOOD.decode().encode(name))
    with pytest.raises(CustomDataError, match="line 1: the file is in UTF-16, save it as UTF-8"):
        opened(folder, GOOD.decode().encode("utf-16"))
    for path in ("a\0b.jsonl", "x" * 300 + ".jsonl", str(folder)):
        with pytest.raises(CustomDataError, match=r"jsonl|own"):
            CustomDataset.open(path)


def test_long_lines_are_passed_over(folder: Path) -> None:
    """Longer than one read, exactly as long as allowed, and the last without an end."""
    long = line(question="w " * 300)
    exact = dict(max_line_bytes=len(long))
    assert len(opened(folder, long + b"\n" + long, **exact)) == 2
    less = dict(max_line_bytes=len(long) // 5)
    with pytest.raises(CustomDataError) as e:
        opened(folder, b"\n".join([GOOD, long, GOOD, b"{", long]), **less)
    assert str(e.value).split("cannot be used:")[1] == (
        f"\n  line 2: longer than data.max_line_bytes={len(long) // 5}"
        "\n  line 4: not valid JSON: Expecting property name enclosed in double quotes at column 1"
        f"\n  line 5: longer than data.max_line_bytes={len(long) // 5}"
    )
    mixture = folder / "m.yaml"
    mixture.write_text("groups: [{rate: 1, datasets: [{name: custom, path: my.jsonl}]}]")
    config = MixtureConfig.load(str(mixture))
    opened(folder, long, **exact)
    with pytest.raises(CustomDataError, match=r"data\.max_line_bytes=9"):
        config.open("train", max_line_bytes=9)


def test_what_is_not_ambiguous_is_taken(folder: Path) -> None:
    for answer, options, index in (
        (1, ["3", "5"], 1),
        (0, ["0", "1"], 0),
        ("1", ["3", "2", "1"], 2),
        (1, ["a 1", "b"], 1),
    ):
        data = opened(folder, line(answer=answer, options=options))
        assert data.get(0, np.random.RandomState(0))["answer_idx"] == index


styles = st.sampled_from([None, *sorted(KNOWN_STYLES)])
texts = st.one_of(
    st.text(min_size=1, max_size=5), st.sampled_from(["<|image|>", "{question}", "%s"])
)
times = st.one_of(st.none(), st.integers(0, 9), st.floats(0, 9))
lines = st.fixed_dictionaries(
    {"question": texts, "answer": st.one_of(texts, st.integers(0, 3))},
    optional={
        "video": st.just("a.mp4"),
        "image": st.sampled_from(["b.jpg", ["b.jpg", "b.jpg"]]),
        "options": st.lists(texts, min_size=2, max_size=26, unique=True),
        "style": styles,
        "start": times,
        "end": times,
        "subtitle": texts,
    },
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines)
def test_what_passes_gives_a_prompt_and_an_answer(folder: Path, found: dict[str, Any]) -> None:
    try:
        data = opened(folder, json.dumps(found).encode())
    except CustomDataError as e:
        assert "\n  line 1: " in str(e)
        return
    check_formatted(data)


def check_formatted(data: CustomDataset) -> None:
    """Training in many forms, evaluation, and the other formats of messages."""
    for name in ("qwen3", "role", "none"):
        formatter = DataFormatterConfig(message_format=name).build()  # type: ignore[arg-type]
        for seed in range(10):
            rng = np.random.RandomState(seed)
            prompt, answer = formatter(data.get(0, rng), rng).turns
            assert prompt.strip() and answer.strip(" ")
        assert len(formatter(data.get(0, rng), for_inference=True).turns) == 1


@pytest.mark.slow
def test_every_style_is_refused_or_trains(folder: Path) -> None:
    refused = set()
    for style in sorted(KNOWN_STYLES):
        for form in (VIDEO, IMAGE, VIDEO | OPTIONS, IMAGE | OPTIONS):
            try:
                check_formatted(opened(folder, json.dumps(form | {"style": style}).encode()))
            except CustomDataError as e:
                assert "\n  line 1: " in str(e)
                refused.add((style, "video" in form, "options" in form))
    assert ("video_short_answer", True, True) in refused
    assert ("video_short_answer", True, False) not in refused
    assert ("user_qa", False, False) not in refused
    assert ("video_multiple_choice", True, True) not in refused


def test_where_an_example_stands(folder: Path) -> None:
    data = opened(folder, b"\n".join([b"", GOOD, b" ", GOOD]))
    assert [data.where(i) for i in range(2)] == [f"{folder}/my.jsonl:{n}" for n in (2, 4)]


def test_other_formats_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text("video,question,answer\na.mp4,What?,A cup.\n")
    with pytest.raises(CustomDataError, match=r"my\.csv: own data are \.jsonl, \.json, \.parquet"):
        CustomDataset.open(path)
