"""Opening a video file with PyAV: files only, the stream to show, and which way up it is shown."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.stream import VideoStream

from olmo.data.video_error import VideoReadError
from olmo.limits import Limits

NOT_VIDEO = ("tty", "image2", "concat", "hls", "dash", "sdp")
"""FFmpeg formats that decode to frames but are text, a single picture (as is ``*_pipe``) or a
list of other files."""
PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
"""Streams that are no video, such as the cover of a record."""


def file_url(path: str | Path) -> str:
    """What FFmpeg takes for this very file: a name such as ``12:30.mp4`` or ``http://a/b.mp4``
    would be a protocol otherwise."""
    return "file:" + os.path.abspath(path)


def open_container(path: str | Path) -> InputContainer:
    """A file that cannot make FFmpeg open anything but files. FFmpeg's errors come as they are."""
    return av.open(file_url(path), metadata_errors="ignore", options={"protocol_whitelist": "file"})


def video_stream(container: InputContainer, path: str | Path, limits: Limits) -> VideoStream:
    """The stream that is flagged as the one to show, else the first; set up for one thread. Where
    several are flagged, one of a single frame (the still of a moving AVIF) comes last.

    Raises ``VideoReadError`` where there is none that can be decoded within ``limits``.
    """
    name = container.format.name
    streams = [s for s in container.streams.video if not s.disposition & PICTURES]
    if not streams or name in NOT_VIDEO or name.endswith("_pipe"):
        raise VideoReadError(path, f"no video stream in it (format {name})")
    flagged = [s for s in streams if s.disposition & Disposition.default] or streams[:1]
    stream = next((s for s in flagged if s.frames != 1), flagged[0])
    context = stream.codec_context
    if context is None:
        raise VideoReadError(path, "no decoder for its video stream")
    limits.check_pixels(context.width, context.height, partial(VideoReadError, path))
    context.thread_count = 1
    context.options = {"max_pixels": str(limits.max_pixels)}
    return stream


def display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """How the picture is to be turned or mirrored, ``[[a, b], [c, d]]``: the pixel at ``(x, y)``
    is shown at ``(a x + c y, b x + d y)``. None: as it is."""
    for data in frame.side_data:
        if data.type == Type.DISPLAYMATRIX:
            return np.frombuffer(bytes(data), dtype=np.int32).reshape(3, 3)[:2, :2]
    return None


def upright(pixels: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """``[h, w, 3]`` turned and mirrored as a player does; any angle counts as the nearest quarter
    turn."""
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix.astype(np.int64)
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
