"""Chat messages and the images and videos in them: what a user hands in, in one common form."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from olmo.data.animation import moves
from olmo.data.frame_sampling import FrameSampling
from olmo.data.video_loading import load_video
from olmo.preprocessing.images import ImageSource, resize_frames
from olmo.preprocessing.tokens import CONTROL, IMAGE, Mark, Turn
from olmo.preprocessing.visual import VisualInput, VisualPreprocessor
from olmo.types import VideoFrames

log = logging.getLogger(__name__)

VideoSource = str | Path | VideoFrames | np.ndarray | list[Image.Image]
"""Path of a video file, decoded frames, or frames without times: uint8 ``[n, h, w, 3]`` or a list
of PIL images, taken to be ``FRAME_RATE`` apart."""

FRAME_RATE = 2.0
"""Frames per second of frames that come without times."""

VIDEO = Mark("<|video|>")
Kind = Literal["image", "video"]
KINDS: dict[Mark, Kind] = {IMAGE: "image", VIDEO: "video"}
"""What is shown at a place in a text that is written as a template."""


@dataclass(frozen=True)
class Medium:
    """One image or video of a prompt."""

    kind: Kind
    source: Any


@dataclass
class PromptInput:
    """One prompt: turns, user and assistant alternating, and what it shows, in order.

    ``turns`` hold ``IMAGE`` for each medium, or none at all: then the media precede the text.
    ``prefill`` begins the answer; a ``verbatim`` turn is not put into chat form; ``style`` and
    ``options`` are those of a single question, as in training data.
    """

    turns: list[Turn]
    media: list[Medium] = field(default_factory=list)
    prefill: str = ""
    verbatim: bool = False
    style: str = ""
    options: Sequence[str] = ()


def from_messages(messages: Sequence[dict[str, Any]], continue_final: bool = False) -> PromptInput:
    """A conversation in transformers' chat form. Its text is ordinary text; what it shows comes
    from its content parts alone.

    ``continue_final``: the last message is the beginning of the answer. ``ValueError`` for roles
    that do not alternate between user and assistant, and for content of an unknown form.
    """
    turns: list[str] = []
    media: list[Medium] = []
    for i, message in enumerate(messages):
        expected = "assistant" if i % 2 else "user"
        if message.get("role") != expected:
            raise ValueError(
                f"message {i} has the role {message.get('role')!r}, expected {expected!r}: roles "
                "alternate, the user begins, there is no system prompt"
            )
        text, shown = _content(message.get("content"))
        if shown and expected == "assistant":
            raise ValueError(f"message {i}: only the user shows images and videos")
        turns.append(text)
        media += shown
    if not turns:
        raise ValueError("a conversation needs at least one message")
    prefill = ""
    if continue_final:
        if len(turns) % 2:
            raise ValueError("continue_final_message needs a last message of the assistant")
        prefill = turns.pop()
    return PromptInput([Turn.of(turn) for turn in turns], media, prefill)


def from_question(text: str, images: Sequence[Any], videos: Sequence[Any]) -> PromptInput:
    """A question, ordinary text, with its images and then its videos in front."""
    media = [Medium("image", x) for x in images] + [Medium("video", x) for x in videos]
    return PromptInput([Turn.of(text)], media)


def from_template(
    text: str, images: list[Any], videos: list[Any], verbatim: bool = False
) -> PromptInput:
    """A text that was written as a template: its placeholders are places, and a ``verbatim`` one
    has the control tokens of the chat form as well.

    ``ValueError`` when placeholders and inputs do not match. Without any input they are text.
    """
    if not isinstance(text, str):
        raise ValueError(f"a prompt is text, got {text!r}")
    turn = Turn.read(text, CONTROL if verbatim else ())
    prompt = from_question("", images, videos)
    prompt.turns, prompt.verbatim = [turn], verbatim
    order = places_in(text)
    if not images and order == ["image"] * len(videos):  # <|image|> is written for both kinds
        order = ["video"] * len(videos)
    if order and prompt.media:
        queues = {"image": iter(images), "video": iter(videos)}
        given: dict[Kind, int] = {"image": len(images), "video": len(videos)}
        asked = {kind: order.count(kind) for kind in given}
        if asked != given:
            raise ValueError(f"the text has placeholders for {asked}, but there are {given}")
        prompt.media = [Medium(kind, next(queues[kind])) for kind in order]
        prompt.turns = [_with_places(turn)]
    return prompt


def places_in(text: str) -> list[Kind]:
    """Kinds of the placeholders of a template, in order."""
    pieces = Turn.read(text, list(KINDS)).pieces
    return [KINDS[piece] for piece in pieces if isinstance(piece, Mark)]


def _with_places(turn: Turn) -> Turn:
    """The turn with ``IMAGE`` for each placeholder in its texts."""
    parts = (p if isinstance(p, Mark) else Turn.read(p, list(KINDS)) for p in turn.pieces)
    found = Turn.of(*parts).pieces
    return Turn(tuple(IMAGE if piece == VIDEO else piece for piece in found))


def _content(content: Any) -> tuple[str, list[Medium]]:
    """Text and media of a message's content: a string, or a list of typed parts."""
    if isinstance(content, str):
        return content, []
    text, media = "", []
    for part in content if isinstance(content, (list, tuple)) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text += part["text"]
            continue
        if kind not in ("image", "video"):
            raise ValueError(
                f"message content {part!r}: expected a part of type text, image or video"
            )
        found = [part[key] for key in (kind, "path", "url") if part.get(key) is not None]
        if len(found) != 1:
            raise ValueError(f"message content {part!r}: give one of {kind}, path or url")
        media.append(Medium(kind, found[0]))
    return text, media


def visual_inputs(visual: VisualPreprocessor, media: Sequence[Medium]) -> Iterator[VisualInput]:
    """Decode, cut and pool; neighbouring images form one group, numbered from 1.

    Raises ``VideoReadError`` and ``ImageReadError`` for files that cannot be used, ``ValueError``
    for more images than the model takes.
    """
    for kind, group in groupby(media, key=lambda medium: medium.kind):
        sources = [medium.source for medium in group]
        if kind == "image":
            _say_what_is_left_out(sources)
        if kind == "video":
            yield from (visual.of_video(video_frames(visual, source)) for source in sources)
        elif len(sources) == 1:
            yield visual.of_image(sources[0])
        else:
            yield _images(visual, sources)


def _say_what_is_left_out(sources: Sequence[ImageSource]) -> None:
    for source in sources:
        if isinstance(source, (str, Path)) and moves(source):
            log.warning("%s moves: as an image it is its first frame, give it as a video", source)


def _images(visual: VisualPreprocessor, sources: list[ImageSource]) -> VisualInput:
    limit = visual.config.image.max_images if visual.config.image else None
    if limit is not None and len(sources) > limit:
        raise ValueError(f"{len(sources)} images, but image.max_images is {limit}")
    return visual.of_images(sources)


def video_frames(visual: VisualPreprocessor, source: VideoSource) -> VideoFrames:
    """Frames of a video: chosen and decoded from a file, or those that are given."""
    if isinstance(source, VideoFrames):
        return source
    if isinstance(source, (str, Path)):
        return load_video(
            source,
            FrameSampling.from_config(visual.config.video),
            transform=lambda frames: resize_frames(frames, visual.image_size),
            limits=visual.config.limits,
        )
    frames: Any = source
    if isinstance(source, list) and all(isinstance(f, Image.Image) for f in source):
        if len({f.size for f in source}) != 1:
            raise ValueError(f"the {len(source)} frames of a video must be of one size")
        frames = np.stack([np.asarray(f.convert("RGB")) for f in source])
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4:
        expected = "a path, VideoFrames, uint8 [n, h, w, 3] or PIL images"
        shape, dtype = getattr(source, "shape", None), getattr(source, "dtype", None)
        got = f"{source!r:.80}" if shape is None else f"{dtype} of the shape {tuple(shape)}"
        raise ValueError(f"a video is {expected}, got {got} ({type(source).__name__})")
    if frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"a video is uint8 [n, h, w, 3], got the shape {frames.shape}")
    times = np.arange(len(frames)) / FRAME_RATE
    return VideoFrames(frames, times, len(frames) / FRAME_RATE)
