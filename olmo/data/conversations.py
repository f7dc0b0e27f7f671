"""The chat forms of own data: ``messages`` of chat APIs, ``conversations`` of ShareGPT and LLaVA.

    {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"},
     {"type": "text", "text": "What happens?"}]}, {"role": "assistant", "content": "A jump."}]}
    {"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhat happens?"},
     {"from": "gpt", "value": "A jump."}]}

Both become ``messages`` of the formatter: turns, in which a picture has its place.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from olmo.data.records import CustomDataError, Record
from olmo.preprocessing.chat import alternating
from olmo.preprocessing.tokens import IMAGE, Turn
from olmo.types import MEDIA_KEYS

CHAT_KEYS = ("messages", "conversations")
MEDIA_NAMES = {kind: (kind, f"{kind}s") for kind in MEDIA_KEYS}
"""Kind -> the keys under which a line may list its media."""
NOT_TAUGHT = ("tools", "functions", "audio", "audios")
"""Keys of a line that say what this model cannot learn; empty ones are passed over."""
LINE_KEYS = (*CHAT_KEYS, *MEDIA_NAMES["video"], *MEDIA_NAMES["image"], *NOT_TAUGHT, "system")
SPEAKERS = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
TURN_KEYS = (("role", "content"), ("from", "value"))
MARK = re.compile(f"<({'|'.join(MEDIA_KEYS)})>")
NOTHING: tuple[Any, ...] = (None, "", [], {})


@dataclass
class Place:
    """Where a turn shows something: ``medium``, or if None the next one that the line lists."""

    kind: str
    medium: Any = None


@dataclass
class Said:
    """A turn: who speaks, and texts and places in their order."""

    speaker: str
    parts: list[str | Place] = field(default_factory=list)

    def places(self) -> list[Place]:
        return [part for part in self.parts if isinstance(part, Place)]

    def turn(self) -> Turn:
        return Turn.of(*(IMAGE if isinstance(part, Place) else part for part in self.parts))


def chat_record(line: Record, mistakes: list[str]) -> Record:
    """``messages`` (a ``Turn`` each) of a line, and what they show as ``video`` or ``image``.
    ``mistakes`` gets all that is wrong with the conversation; the record is then of no use."""
    n_before = len(mistakes)
    (key, *more) = [k for k in CHAT_KEYS if k in line]
    mistakes += [f"both {key!r} and {other!r}: give one of them" for other in more]
    mistakes += [
        f"{name!r}: the model learns neither tool calls nor sound, got {line[name]!r:.80}"
        for name in NOT_TAUGHT
        if line.get(name) not in NOTHING
    ]
    listed = {kind: _listed(line, kind, mistakes) for kind in MEDIA_KEYS}
    turns = line[key]
    if not isinstance(turns, list) or not turns:
        mistakes.append(f"{key!r}: expected a list of turns, got {turns!r:.80}")
        return {}
    named = [(f"{key}[{i}]", turn) for i, turn in enumerate(turns)]
    if line.get("system") not in NOTHING:
        named.insert(0, ("system", {"role": "system", "content": line["system"]}))
    said: list[Said] = []
    for name, turn in named:
        try:
            said.append(_said(turn))
        except CustomDataError as e:
            mistakes.append(f"{name!r}: {e}")
    if len(mistakes) > n_before:
        return {}
    try:
        return _shown(said, listed) | {"messages": _turns(said)}
    except CustomDataError as e:
        mistakes.append(f"{key!r}: {e}")
        return {}


def contents(cell: Any) -> Any:
    """The medium in a cell of a table, ``{bytes, path}``: its bytes, else its path. Anything else
    as it is."""
    if isinstance(cell, dict) and cell and cell.keys() <= {"bytes", "path"}:
        data = cell.get("bytes")
        return cell.get("path") if data is None else data
    return cell


# --- a turn ------------------------------------------------------------------------------------


def _said(turn: Any) -> Said:
    if not isinstance(turn, dict):
        raise CustomDataError(f"expected an object with role and content, got {turn!r:.80}")
    role, content = TURN_KEYS["from" in turn]
    for key, value in turn.items():
        if key not in (role, content, "name") and value not in NOTHING:
            reason = "; the model learns no tool calls" if "tool" in key or "call" in key else ""
            raise CustomDataError(f"unknown key {key!r}, expected {role} and {content}{reason}")
    name = turn.get(role)
    speaker = SPEAKERS.get(name) if isinstance(name, str) else None
    if speaker is None:
        known = ", ".join(SPEAKERS)
        raise CustomDataError(f"{role} {name!r:.80}, expected one of {known}: no tools")
    found = turn.get(content)
    if isinstance(found, str):
        said = Said(speaker, [found] if speaker == "assistant" else _marked(found))
    elif isinstance(found, list):
        said = Said(speaker, [_part(i, part) for i, part in enumerate(found)])
    else:
        raise CustomDataError(f"{content}: expected text or a list of parts, got {found!r:.80}")
    places = said.places()
    if places and speaker != "user":
        raise CustomDataError(f"only the user shows something, here the {speaker} does")
    if not places and speaker != "system":
        if not any(isinstance(part, str) and part.strip() for part in said.parts):
            raise CustomDataError(f"{content}: expected text, got {found!r:.80}")
    return said


def _marked(text: str) -> list[str | Place]:
    """A user's text whose marks are places."""
    if "<" not in text:
        return [text]
    return [Place(part) if i % 2 else part for i, part in enumerate(MARK.split(text))]


def _part(number: int, part: Any) -> str | Place:
    where = f"part {number}"
    if not isinstance(part, dict):
        raise CustomDataError(f"{where}: expected an object with its type, got {part!r:.80}")
    part = {k: v for k, v in part.items() if v is not None}
    kind = part.pop("type", None)
    if kind == "text":
        text = part.pop("text", None)
        if not isinstance(text, str) or part:
            raise CustomDataError(f"{where}: expected its text alone, got {text!r:.80}, {[*part]}")
        return text
    kind = kind.removesuffix("_url") if isinstance(kind, str) else kind
    if kind not in MEDIA_KEYS:
        raise CustomDataError(
            f"{where}: type {kind!r:.80}, expected text, image or video: no sound"
        )
    part.pop("detail", None)
    keys = [k for k in (kind, "path", f"{kind}_url", "url") if k in part]
    unknown = [k for k in part if k not in keys]
    if unknown or len(keys) > 1:
        raise CustomDataError(f"{where}: expected one of {kind}, path, url, got {[*part]}")
    if not keys:
        return Place(kind)
    (key,) = keys
    medium = part[key]
    if key.endswith("url"):
        medium = medium.get("url") if isinstance(medium, dict) else medium
        medium = _from_url(medium, where) if isinstance(medium, str) else medium
    return Place(kind, _medium(medium, kind, f"{where}, {key}"))


def _from_url(url: str, where: str) -> str | bytes:
    """The path of a ``file:`` address, the contents of a ``data:`` one. A path stays."""
    scheme, colon, rest = url.partition(":")
    if scheme == "data" and colon:
        try:
            return base64.b64decode(rest.partition(";base64,")[2], validate=True)
        except (binascii.Error, ValueError) as e:
            raise CustomDataError(f"{where}: not in base64: {e}") from e
    if scheme == "file" and rest.startswith("//"):
        return unquote(rest.removeprefix("//").removeprefix("localhost"))
    if rest.startswith("//"):
        raise CustomDataError(f"{where}: only files on disk are read, got the address {url!r:.80}")
    return url


def _medium(value: Any, kind: str, where: str) -> str | bytes:
    value = contents(value)
    if isinstance(value, bytes) and value and kind == "image":
        return value
    if not isinstance(value, str) or not value.strip():
        raise CustomDataError(f"{where!r}: expected the path of a {kind}, got {value!r:.80}")
    return value


# --- turns together ----------------------------------------------------------------------------


def _listed(line: Record, kind: str, mistakes: list[str]) -> list[Any]:
    """Media that stand beside the conversation."""
    names = [name for name in MEDIA_NAMES[kind] if line.get(name) not in NOTHING]
    if not names:
        return []
    if len(names) > 1:
        mistakes.append(f"both {names[0]!r} and {names[1]!r}: give one of them")
    value = line[names[0]]
    try:
        return [_medium(v, kind, names[0]) for v in (value if isinstance(value, list) else [value])]
    except CustomDataError as e:
        mistakes.append(str(e))
        return []


def _shown(said: list[Said], listed: dict[str, list[Any]]) -> Record:
    """What is shown, in the order of the places; those without a medium take the listed ones.
    Without any place all of it comes first."""
    places = [place for one in said for place in one.places()]
    kinds = [place.kind for place in places]
    if not listed["image"] and kinds == ["image"] * len(listed["video"]) and places:
        for place in places:  # <image> is written for a video as well
            place.kind = "image" if place.medium else "video"
    shown: dict[str, list[Any]] = {}
    for kind, media in listed.items():
        of_kind = [place for place in places if place.kind == kind]
        empty = [place for place in of_kind if place.medium is None]
        if places and len(empty) != len(media):
            raise CustomDataError(
                f"{len(empty)} places for a listed {kind} (<{kind}> in a text, or a part without "
                f"path), but {len(media)} listed; a text part is never a place"
            )
        for place, medium in zip(empty, media, strict=False):
            place.medium = medium
        shown[kind] = [place.medium for place in of_kind] if places else media
    n_videos, n_images = len(shown["video"]), len(shown["image"])
    if n_videos > 1 or (n_videos and n_images):
        raise CustomDataError(
            f"{n_videos} videos and {n_images} images; the model is shown one video, or images, "
            "and has no layout for more videos in an example"
        )
    return {kind: m[0] if len(m) == 1 else m for kind, m in shown.items() if m}


def _turns(said: list[Said]) -> list[Turn]:
    """User and assistant in alternation. What is shown at the very beginning of the first question
    needs no place: it is put before it, as it is everywhere."""
    speakers = [one.speaker for one in said if one.speaker != "system"]
    if "assistant" not in speakers:
        raise CustomDataError("no turn of the assistant: there is nothing to train on")
    if speakers[0] == "assistant":
        raise CustomDataError("the assistant speaks first: nothing asks for that")
    last = max(i for i, one in enumerate(said) if one.speaker == "assistant")
    if any(one.places() for one in said[last:]):
        raise CustomDataError("what is shown last has no answer")
    first = next(one for one in said if one.speaker == "user")
    opening = 0
    while opening < len(first.parts) and not _is_text(first.parts[opening]):
        opening += 1
    n_opening = sum(isinstance(part, Place) for part in first.parts[:opening])
    if n_opening and n_opening == sum(len(one.places()) for one in said):
        first.parts = first.parts[opening:] or [""]
        if isinstance(text := first.parts[0], str):
            first.parts[0] = text.removeprefix("\n")
    return alternating((one.speaker == "assistant", one.turn()) for one in said)


def _is_text(part: str | Place) -> bool:
    return isinstance(part, str) and bool(part.strip())
