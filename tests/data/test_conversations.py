"""Own data as conversations: turns, places and losses by hand, and what every mistake says."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from olmo.data.custom import CustomDataError, CustomDataset
from olmo.preprocessing.tokens import IMAGE, Turn

TOKENIZER = Path(__file__).parents[1] / "fixtures" / "data" / "byte_tokenizer"
START, END = "<|im_start|>", "<|im_end|>"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def says(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def shared(*values: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if i % 2 else "human", "value": v} for i, v in enumerate(values)]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    for name in ("a.mp4", "b.mp4"):
        (folder / name).touch()
    for name in ("c.png", "d.png"):
        (folder / name).write_bytes(png())
    return folder


def opened(folder: Path, *lines: Any, evaluation: bool = False) -> CustomDataset:
    path = folder / "my.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return CustomDataset.open(path, evaluation=evaluation)


def read(folder: Path, line: Any, evaluation: bool = False) -> dict[str, Any]:
    return opened(folder, line, evaluation=evaluation).get(0, np.random.RandomState(0))


def turns(*parts: Any) -> list[Turn]:
    return [Turn.of(*p) if isinstance(p, tuple) else Turn.of(p) for p in parts]


VIDEO_PART, IMAGE_PART = {"type": "video", "video": "a.mp4"}, {"type": "image", "image": "c.png"}
ANY_IMAGE, SYSTEM = {"type": "image"}, {"role": "system", "content": "Be brief."}
GOOD: dict[str, tuple[dict[str, Any], Any, list[Turn]]] = {
    "text alone": ({"messages": [user("Hi"), says("Ho")]}, None, turns("Hi", "Ho")),
    "several turns, parts": (
        {"messages": [user([VIDEO_PART, text("W?")]), says("A"), user("So?"), says([text("B")])]},
        "a.mp4",
        turns("W?", "A", "So?", "B"),
    ),
    "text in pieces": (
        {"messages": [user([text("x"), text(" y")]), says("A")]},
        None,
        turns("x y", "A"),
    ),
    "a system turn": (
        {"messages": [SYSTEM, user("Hi"), says("Ho")]},
        None,
        turns("Be brief.\n\nHi", "Ho"),
    ),
    "a system beside the turns": (
        {"system": "Be brief.", "conversations": shared("Hi", "Ho")},
        None,
        turns("Be brief.\n\nHi", "Ho"),
    ),
    "a system turn before what is shown": (
        {"messages": [SYSTEM, user([IMAGE_PART, text("Q")]), says("A")]},
        "c.png",
        turns("Be brief.\n\nQ", "A"),
    ),
    "the same side twice, and a question at the end": (
        {"messages": [user("1"), user("2"), says("3"), says("4"), user("5")]},
        None,
        turns("1\n\n2", "3\n\n4"),
    ),
    "a place after text": (
        {"messages": [user([text("Look: "), IMAGE_PART]), says("A")]},
        "c.png",
        turns(("Look: ", IMAGE), "A"),
    ),
    "places in two turns": (
        {"images": ["c.png", "d.png"], "conversations": shared("<image>\nQ", "A", "<image>R", "B")},
        ["c.png", "d.png"],
        turns((IMAGE, "\nQ"), "A", (IMAGE, "R"), "B"),
    ),
    "listed images for parts without a path": (
        {
            "images": ["c.png", "d.png"],
            "messages": [user([ANY_IMAGE, text("and"), ANY_IMAGE]), says("A")],
        },
        ["c.png", "d.png"],
        turns((IMAGE, "and", IMAGE), "A"),
    ),
    "own and listed paths": (
        {
            "images": ["d.png"],
            "messages": [user([IMAGE_PART, text("or")]), says("A"), user([ANY_IMAGE]), says("B")],
        },
        ["c.png", "d.png"],
        turns((IMAGE, "or"), "A", (IMAGE,), "B"),
    ),
    "media without any place": (
        {"images": ["c.png", "d.png"], "messages": [user("Same?"), says("No")]},
        ["c.png", "d.png"],
        turns("Same?", "No"),
    ),
    "marks at the very beginning": (
        {"images": ["c.png", "d.png"], "conversations": shared("<image>\n<image>\nSame?", "No")},
        ["c.png", "d.png"],
        turns("Same?", "No"),
    ),
    "LLaVA video": (
        {"video": "a.mp4", "conversations": shared("<image>\nWhat?", "A"), "data_source": "x"},
        "a.mp4",
        turns("What?", "A"),
    ),
    "a video's own mark": (
        {"videos": ["a.mp4"], "conversations": shared("See <video> now", "A")},
        "a.mp4",
        turns(("See ", IMAGE, " now"), "A"),
    ),
    "marks in strings of messages": (
        {"image": "c.png", "messages": [user("Who is on <image>?"), says("A")]},
        "c.png",
        turns(("Who is on ", IMAGE, "?"), "A"),
    ),
    "marks in parts and answers are text": (
        {"image": "c.png", "messages": [user([text("<image> <|image|>")]), says("<image>")]},
        "c.png",
        turns("<image> <|image|>", "<image>"),
    ),
    "a mark in a system text is text": (
        {"image": "c.png", "system": "See <image>.", "conversations": shared("<image>Q", "A")},
        "c.png",
        turns("See <image>.\n\nQ", "A"),
    ),
    "control tokens are text": (
        {"conversations": shared("<|im_end|><|image|>", "<im_patch>")},
        None,
        turns("<|im_end|><|image|>", "<im_patch>"),
    ),
    "file address, nulls of a table, a name": (
        {
            "images": None,
            "messages": [
                {"role": "user", "name": "Eva", "tool_calls": [], "content": [
                    {"type": "image", "url": "file://HOME/c.png", "text": None}, text("Q")]},
                says("A"),
            ],
        },
        "c.png",
        turns("Q", "A"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
def test_turns_and_places(folder: Path, kind: str) -> None:
    line, media, expected = GOOD[kind]
    line = json.loads(json.dumps(line).replace("HOME", str(folder)))
    got = read(folder, line)
    assert got["messages"] == expected and got["style"] == "user_qa"
    paths = (
        [str(folder / m) for m in media] if isinstance(media, list) else str(folder / str(media))
    )
    key = "video" if "mp4" in str(media) else "image"
    assert {k: got[k] for k in ("video", "image") if k in got} == ({key: paths} if media else {})


def test_other_keys(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = {
        **{"video": "a.mp4", "start": 1, "end": 2.5, "subtitle": "spoken", "id": 7},
        **{"data_source": "s", "video_id": "m", "score": {"a": 1}, "style": "video_long_caption"},
    }
    got = read(folder, line | {"conversations": shared("Q", "A")})
    assert got["metadata"] == {
        **{"example_id": "my.jsonl:1", "id": 7, "data_source": "s"},
        **{"clip_start_time": 1, "clip_end_time": 2.5},
    }
    assert got["style"] == "video_long_caption" and got["subtitle"] == "spoken"
    assert "keys without a meaning here: score, video_id" in caplog.text
    caplog.clear()
    many = {f"{i:02} \x1b[2J" + "x" * 1000: 1 for i in range(30)}
    read(folder, {"video": "a.mp4", "conversations": shared("Q", "A")} | many)
    assert "00 \\x1b[2J" in caplog.text and "and 10 more" in caplog.text
    assert "\x1b" not in caplog.text and len(caplog.text) < 3000


def test_an_image_in_the_line(folder: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    for part in (
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "image", "url": url},
    ):
        assert read(folder, {"messages": [user([part, text("Q")]), says("A")]})["image"] == png()


BAD: dict[str, tuple[Any, str]] = {
    "fewer marks": (
        {"images": ["c.png", "d.png"], "conversations": shared("<image>", "A")},
        "'conversations': 0 <video> and 1 <image> in the texts, or as parts without a path, but "
        "0 videos and 2 images are listed",
    ),
    "a mark without media": (
        {"conversations": shared("<video>", "A")},
        "1 <video> and 0 <image> in the texts, .* but 0 videos and 0 images",
    ),
    "two videos": (
        {"videos": ["a.mp4", "b.mp4"], "messages": [user("Q"), says("A")]},
        "'messages': 2 videos and 0 images; the model is shown one video, or images",
    ),
    "both kinds": (
        {"messages": [user([VIDEO_PART, IMAGE_PART, text("Q")]), says("A")]},
        "1 videos and 1 images; the model is shown one video, or images",
    ),
    "both keys of a kind": (
        {"video": "a.mp4", "videos": ["a.mp4"], "messages": [user("Q"), says("A")]},
        "both 'video' and 'videos': give one",
    ),
    "both forms": (
        {"conversations": shared("Q", "A"), "messages": [user("Q"), says("A")]},
        "both 'messages' and 'conversations'",
    ),
    "a question beside": (
        {"messages": [user("Q"), says("A")], "answer": "A"},
        "key 'answer'; it is",
    ),
    "a misspelt key": ({"messages": [user("Q"), says("A")], "vidoe": "a.mp4"}, "'vidoe'; did you"),
    "a key that may be a medium": (
        {"messages": [user("Q"), says("A")], "image_path": "c.png", "n": 3},
        "unknown key 'image_path', and the line shows nothing",
    ),
    "no answer": ({"messages": [user("Q")]}, "no turn of the assistant: there is nothing to train"),
    "an answer first": (
        {"messages": [says("A"), user("Q"), says("B")]},
        r"'messages\[0\]': the ass",
    ),
    "shown last": (
        {"messages": [user("Q"), says("A"), user([IMAGE_PART])]},
        "'messages': what is shown last has no answer",
    ),
    "shown by the assistant": (
        {"messages": [user("Q"), says([IMAGE_PART])]},
        r"'messages\[1\]': only the user shows something, here the assistant does",
    ),
    "no turns": ({"messages": []}, r"'messages': expected a list of turns, got \[\]"),
    "turns in a text": ({"messages": "Q"}, "'messages': expected a list of turns, got 'Q'"),
    "a turn in a text": ({"messages": ["Q"]}, r"'messages\[0\]': expected an object with role"),
    "an empty answer": ({"conversations": shared("Q", " ")}, r"\[1\]': value: expected text, got"),
    "no content": ({"messages": [{"role": "user"}]}, r"content: expected text or a list .* None"),
    "a tool": (
        {"messages": [user("Q"), {"role": "tool", "content": "4"}, says("A")]},
        r"'messages\[1\]': role 'tool', expected one of user, human, .*: no tools",
    ),
    "a tool call": (
        {"messages": [user("Q"), {"role": "assistant", "content": None, "tool_calls": [{"a": 1}]}]},
        r"'messages\[1\]': unknown key 'tool_calls', .* no tool calls are learnt",
    ),
    "tools": (
        {"tools": "[{}]", "conversations": shared("Q", "A")},
        "'tools': the model learns neither",
    ),
    "sound": (
        {"messages": [user([{"type": "input_audio", "input_audio": {}}]), says("A")]},
        r"'messages\[0\]': expected parts with a type text, image or video .* 'input_audio'",
    ),
    "a weight": (
        {"messages": [user("Q"), says("A") | {"weight": 0}]},
        r"'messages\[1\]': unknown key 'weight', expected role and content",
    ),
    "an address": (
        {"messages": [user([{"type": "image", "url": "https://x/y.png"}]), says("A")]},
        "only files on disk are read, got the address 'https://x/y.png'",
    ),
    "no base64": (
        {"messages": [user([{"type": "image_url", "image_url": "data:image/png;base64,%"}])]},
        "an image is not in base64",
    ),
    "frames": (
        {"messages": [user([{"type": "video", "video": ["c.png"]}, text("Q")]), says("A")]},
        r"'video': expected the path of a video, got \['c.png'\]",
    ),
    "a rate of frames": (
        {"messages": [user([VIDEO_PART | {"fps": 2}, text("Q")]), says("A")]},
        r"one other key, got {'type': 'video', 'video': 'a.mp4', 'fps': 2}",
    ),
    "a video in the line": (
        {"messages": [user([{"type": "video", "url": "data:video/mp4;base64,aaaa"}]), says("A")]},
        "'url': expected the path of a video",
    ),
    "a picture for the system": (
        {"messages": [{"role": "system", "content": [IMAGE_PART]}, user("Q"), says("A")]},
        r"'messages\[0\]': only the user shows something, here the system does",
    ),
    "an absent file": ({"image": "z.png", "messages": [user("Q"), says("A")]}, "no file .*z.png"),
    "a clip of an image": (
        {"image": "c.png", "start": 1, "messages": [user("Q"), says("A")]},
        "'start' needs a 'video'",
    ),
    "half a character": ({"messages": [user("\ud800"), says("A")]}, "half of a character"),
}


@pytest.mark.parametrize("kind", BAD)
def test_mistakes(folder: Path, kind: str) -> None:
    line, message = BAD[kind]
    with pytest.raises(CustomDataError, match=f"my.jsonl: 1 lines .*\n  line 2: .*{message}"):
        opened(folder, {"messages": [user("Q"), says("A")]}, line)


def test_all_mistakes_of_a_conversation_are_lettered(folder: Path) -> None:
    line = {"messages": [user(""), {"role": "bot"}], "audios": ["x"], "start": -1}
    with pytest.raises(CustomDataError) as caught:
        opened(folder, line)
    assert str(caught.value).split("line 1: ")[1] == (
        "(a) 'audios': the model learns neither tool calls nor sound, got ['x']; "
        "(b) 'messages[0]': content: expected text, got ''; "
        "(c) 'messages[1]': role 'bot', expected one of user, human, assistant, gpt, system, "
        "developer: no tools; (d) 'start': expected seconds from 0 on, got -1"
    )
