"""Opening a video file with PyAV: files only, the stream to show, and which way up it is shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.stream import VideoStream

from olmo.data.video_source import VideoReadError
from olmo.limits import Limits

NOT_VIDEO = ("tty", "image2", "concat", "hls", "dash", "sdp")
"""FFmpeg formats that decode to frames but are text, a single picture (as is ``*_pipe``) or a
list of other files."""
PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
"""Streams that only hold pictures, such as the cover of a record."""
USUAL_RATE = 25
"""Frames per second of a stream that states none."""
JOINT_S = Fraction(1, 10)
"""Time stamps that go back by more than this mark the start of another, joined file."""
JOINABLE = ("mpegts", "mpeg", "ogg")
"""Formats whose files can be joined by writing one after the other."""
UNDECODABLE_METADATA: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
)
"""Names and titles that are no UTF-8 are no error. From PyAV 19 on they never are, and it has no
such argument."""


def file_url(path: str | Path) -> str:
    """The file as FFmpeg wants it: it would read a protocol from a name such as ``12:30.mp4`` or
    ``http://a/b.mp4``."""
    return "file:" + os.path.abspath(path)


def open_container(path: str | Path) -> InputContainer:
    """Open a file, which cannot make FFmpeg open anything but files. Its errors pass through."""
    # As ``options`` it would go to each stream too: PyAV before 18 crashes where a file shows a
    # stream only later.
    only_files = {"protocol_whitelist": "file"}
    return av.open(file_url(path), container_options=only_files, **UNDECODABLE_METADATA)


class OpenVideo:
    """An open file and the stream to show, decoded in one thread.

    ``VideoReadError`` where no stream can be decoded within ``limits``.
    """

    def __init__(self, path: str | Path, limits: Limits) -> None:
        self.path = path
        self.container = open_container(path)
        self.form: str = self.container.format.name
        try:
            self.stream = _shown_stream(self.container, path, limits)
        except BaseException:
            self.container.close()
            raise
        tick = self.stream.time_base or Fraction(1, USUAL_RATE)
        self.base = Fraction(tick.numerator, tick.denominator)  # PyAV 19 has fractions of its own
        """Seconds per tick."""

    def packets(self) -> Iterator[av.Packet]:
        """Packets of the stream in the order of decoding, the last one empty: it flushes the
        decoder.

        Where files were joined, the time stamps of the second go on from those of the first. A
        file that breaks off ends there.
        """
        jumps, shift, last, length = self.form in JOINABLE, 0, None, 0
        for packet in self.container.demux(self.stream):
            empty = not packet.size and packet.dts is not None  # in AVI files; not decodable
            if empty or (packet.is_corrupt and not jumps):
                continue
            if jumps and packet.dts is not None:
                if last is not None and (last - packet.dts - shift) * self.base > JOINT_S:
                    shift = last + length - packet.dts
                last, length = packet.dts + shift, packet.duration or 0
                if shift:
                    packet.dts += shift
                    packet.pts = None if packet.pts is None else packet.pts + shift
            yield packet


def _shown_stream(container: InputContainer, path: str | Path, limits: Limits) -> VideoStream:
    """The stream that is flagged as the one to show, else the first. Where several are flagged,
    one of a single frame (the still of a moving AVIF) comes last."""
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
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return None
    return np.frombuffer(bytes(data), dtype=np.int32).reshape(3, 3)[:2, :2]


def upright(pixels: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """``[h, w, 3]`` turned and mirrored as a player does; any angle counts as the nearest quarter
    turn."""
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix.astype(np.int64)
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
