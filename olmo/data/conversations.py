"""The chat forms of own data: ``messages`` of chat APIs, ``conversations`` of ShareGPT and LLaVA.

    {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"},
     {"type": "text", "text": "What happens?"}]}, {"role": "assistant", "content": "A jump."}]}
    {"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhat happens?"},
     {"from": "gpt", "value": "A jump."}]}

Both become ``messages`` of the formatter: turns, in which a picture has its place.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from olmo.data.records import CustomDataError, Record
from olmo.preprocessing.chat import alternating
from olmo.preprocessing.tokens import IMAGE, Turn
from olmo.types import MEDIA_KEYS

CHAT_KEYS = ("messages", "conversations")
KIND_OF = {name: kind for kind in MEDIA_KEYS for name in (kind, f"{kind}s")}
"""Key under which a line may list media -> their kind."""
NOT_TAUGHT = ("tools", "functions", "audio", "audios")
"""Keys of a line that say what this model cannot learn; empty ones are passed over."""
LINE_KEYS = {*CHAT_KEYS, *KIND_OF, *NOT_TAUGHT, "system"}
SPEAKERS = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
MARK = re.compile(f"<({'|'.join(MEDIA_KEYS)})>")
NOTHING: tuple[Any, ...] = (None, "", [], {})


@dataclass(slots=True)
class Place:
    """Where a turn shows something: ``medium``, or if None the next one that the line lists."""

    kind: str
    medium: Any = None


Parts = list[str | Place]
Said = tuple[str, Parts]
"""A turn: who speaks, and texts and places in their order."""


def chat_of(line: Record, mistakes: list[str]) -> Record:
    """What a conversation shows, as ``video`` or ``image``, and ``messages``, for ``turns_of``.
    ``mistakes`` gets all that is wrong with it; what is returned is then of no use."""
    n_before = len(mistakes)
    key = "messages" if "messages" in line else "conversations"
    if "messages" in line and "conversations" in line:
        mistakes.append("both 'messages' and 'conversations': give one of them")
    if not line.keys().isdisjoint(NOT_TAUGHT):
        given = [name for name in NOT_TAUGHT if line.get(name) not in NOTHING]
        reason = "the model learns neither tool calls nor sound"
        mistakes += [f"{name!r}: {reason}, got {line[name]!r:.80}" for name in given]
    listed = _listed(line, mistakes)
    turns = line[key]
    if not isinstance(turns, list) or not turns:
        mistakes.append(f"{key!r}: expected a list of turns, got {turns!r:.80}")
        return {}
    said: list[Said] = []
    places: list[Place] = []
    try:
        if "system" in line and line["system"] not in NOTHING:
            said.append(_said({"role": "system", "content": line["system"]}, places))
    except CustomDataError as e:
        mistakes.append(f"'system': {e}")
    asks = n_answered = 0
    for i, turn in enumerate(turns):
        try:
            speaker, parts = _said(turn, places)
        except CustomDataError as e:
            mistakes.append(f"'{key}[{i}]': {e}")
            asks = asks or 1
            continue
        said.append((speaker, parts))
        if speaker == "assistant":
            if not asks:
                mistakes.append(f"'{key}[{i}]': the assistant speaks first, nothing asks for that")
            asks, n_answered = -1, len(places)
        elif speaker == "user" and not asks:
            asks = 1
    if len(mistakes) > n_before:
        return {}
    try:
        if asks >= 0:
            raise CustomDataError("no turn of the assistant: there is nothing to train on")
        if n_answered < len(places):
            raise CustomDataError("what is shown last has no answer")
        return {**_shown(places, listed), "messages": said}
    except CustomDataError as e:
        mistakes.append(f"{key!r}: {e}")
        return {}


def turns_of(said: list[Said]) -> list[Turn]:
    """User and assistant in alternation. What is shown at the very beginning of the first question
    needs no place: it is put before it, as it is everywhere."""
    n_places = sum(isinstance(part, Place) for _, parts in said for part in parts)
    number = next(i for i, (speaker, _) in enumerate(said) if speaker == "user")
    first = said[number][1]
    texts = (i for i, part in enumerate(first) if isinstance(part, str) and part.strip())
    begin = next(texts, len(first))
    if n_places and n_places == sum(isinstance(part, Place) for part in first[:begin]):
        question = [p.removeprefix("\n") for p in first[begin : begin + 1] if isinstance(p, str)]
        said = [*said[:number], ("user", [*question, *first[begin + 1 :]]), *said[number + 1 :]]
    return alternating(
        (speaker == "assistant", Turn.of(*(IMAGE if isinstance(p, Place) else p for p in parts)))
        for speaker, parts in said
    )


def contents(cell: Any) -> Any:
    """The medium in a cell of a table, ``{bytes, path}``: its bytes, else its path. Anything else
    as it is."""
    if isinstance(cell, dict) and cell and cell.keys() <= {"bytes", "path"}:
        data = cell.get("bytes")
        return cell.get("path") if data is None else data
    return cell


# --- a turn ------------------------------------------------------------------------------------


def _said(turn: Any, places: list[Place]) -> Said:
    """One turn; ``places`` gets those in it."""
    if not isinstance(turn, dict):
        raise CustomDataError(f"expected an object with role and content, got {turn!r:.80}")
    role, content = ("from", "value") if "from" in turn else ("role", "content")
    if len(turn) > 2:
        for key, value in turn.items():
            if key not in (role, content, "name") and value not in NOTHING:
                reason = "; no tool calls are learnt" if "tool" in key or "call" in key else ""
                raise CustomDataError(f"unknown key {key!r}, expected {role} and {content}{reason}")
    name, found = turn.get(role), turn.get(content)
    speaker = SPEAKERS.get(name) if isinstance(name, str) else None
    if speaker is None:
        known = ", ".join(SPEAKERS)
        raise CustomDataError(f"{role} {name!r:.80}, expected one of {known}: no tools")
    parts: Parts
    if isinstance(found, str):
        parts, has_text = [found], bool(found.strip())
        if "<" in found and speaker == "user":  # its marks are places
            parts = [Place(p) if i % 2 else p for i, p in enumerate(MARK.split(found))]
    elif isinstance(found, list):
        parts = [_part(part) for part in found]
        has_text = any(isinstance(part, str) and part.strip() for part in parts)
    else:
        raise CustomDataError(f"{content}: expected text or a list of parts, got {found!r:.80}")
    if len(parts) > 1 or not has_text:
        shown = [part for part in parts if isinstance(part, Place)]
        if shown and speaker != "user":
            raise CustomDataError(f"only the user shows something, here the {speaker} does")
        if not has_text and not shown and speaker != "system":
            raise CustomDataError(f"{content}: expected text, got {found!r:.80}")
        places += shown
    return speaker, parts


def _part(part: Any) -> str | Place:
    if not isinstance(part, dict):
        raise CustomDataError(f"expected parts with a type each, got {part!r:.80}")
    kind, text = part.get("type"), part.get("text")
    keys = [k for k, v in part.items() if v is not None and k != "type"]
    if kind == "text" and keys == ["text"] and isinstance(text, str):
        return text
    kind = kind.removesuffix("_url") if isinstance(kind, str) else ""
    keys = [k for k in keys if k != "detail"]
    if kind not in MEDIA_KEYS or len(keys) > 1:
        wanted = "a type text, image or video and one other key"
        raise CustomDataError(f"expected parts with {wanted}, got {part!r:.80}")
    if not keys:
        return Place(kind)
    key, medium = keys[0], part[keys[0]]
    if key not in (kind, "path", f"{kind}_url", "url"):
        raise CustomDataError(f"unknown key {key!r} in a part, expected {kind}, path or url")
    if key.endswith("url"):
        medium = medium.get("url") if isinstance(medium, dict) else medium
        medium = _from_url(medium) if isinstance(medium, str) else medium
    return Place(kind, _medium(medium, key, kind))


def _from_url(url: str) -> str | bytes:
    """The path of a ``file:`` address, the contents of a ``data:`` one. A path stays."""
    scheme, colon, rest = url.partition(":")
    if scheme == "data" and colon:
        try:
            return base64.b64decode(rest.partition(";base64,")[2], validate=True)
        except ValueError as e:
            raise CustomDataError(f"an image is not in base64: {e}") from e
    if scheme == "file" and rest.startswith("//"):
        return unquote(rest.removeprefix("//").removeprefix("localhost"))
    if rest.startswith("//"):
        raise CustomDataError(f"only files on disk are read, got the address {url!r:.80}")
    return url


def _medium(value: Any, key: str, kind: str) -> str | bytes:
    found = contents(value)
    if isinstance(found, str) and found.strip():
        return found
    if isinstance(found, bytes) and found and kind == "image":
        return found
    raise CustomDataError(f"{key!r}: expected the path of a {kind}, got {value!r:.80}")


# --- what is shown -----------------------------------------------------------------------------


def _listed(line: Record, mistakes: list[str]) -> dict[str, list[Any]]:
    """Media that stand beside the conversation, by their kind."""
    listed: dict[str, list[Any]] = {"video": [], "image": []}
    for name, value in line.items():
        if name not in KIND_OF or value in NOTHING:
            continue
        kind = KIND_OF[name]
        if listed[kind]:
            mistakes.append(f"both {kind!r} and '{kind}s': give one of them")
        try:
            values = value if isinstance(value, list) else [value]
            listed[kind] = [_medium(v, name, kind) for v in values]
        except CustomDataError as e:
            mistakes.append(str(e))
    return listed


def _shown(places: list[Place], listed: dict[str, list[Any]]) -> Record:
    """What is shown, in the order of the places; those without a medium take the listed ones (for
    a video ``<image>`` is written as well). Without any place all of it comes first."""
    videos, images = listed["video"], listed["image"]
    if places:
        more_videos, more_images = iter(videos), iter(images)
        shown: dict[str, list[Any]] = {"video": [], "image": []}
        for place in places:
            kind, medium = place.kind, place.medium
            if medium is None:
                kind = "video" if videos and not images else kind
                medium = next(more_videos if kind == "video" else more_images, None)
            shown[kind].append(medium)
        if None in shown["video"] or None in shown["image"] or [*more_videos, *more_images]:
            empty = [place.kind for place in places if place.medium is None]
            marks = " and ".join(f"{empty.count(kind)} <{kind}>" for kind in listed)
            raise CustomDataError(
                f"{marks} in the texts, or as parts without a path, but {len(videos)} videos and "
                f"{len(images)} images are listed; what looks like a mark in a text part is text"
            )
        videos, images = shown["video"], shown["image"]
    if len(videos) > 1 or (videos and images):
        raise CustomDataError(
            f"{len(videos)} videos and {len(images)} images; the model is shown one video, or "
            "images, and has no layout for more videos in an example"
        )
    if videos:
        return {"video": videos[0]}
    return {"image": images[0] if len(images) == 1 else images} if images else {}
