"""A video file as a stream of frames through PyAV: only what is wanted is decoded and kept.

Between two wanted frames the reader jumps if a key frame lies between them, and leaves out frames
that no other frame refers to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

SEEK_GAP_S = 6.0
"""Without an index of key frames: decoding jumps over a gap longer than this."""
INDEX_GAP_S = 60.0
"""An index that ends so long before the wanted moment is no whole one."""
MAX_PIXELS = 1 << 26
"""A frame with more pixels (8K has half as many) is taken for damage, not decoded."""

SEEKABLE = ("mov", "matroska")
"""FFmpeg formats (beginning of the name) whose index and time stamps a jump can rely on."""
SKIPPING = ("h264", "hevc")
"""Codecs whose decoder can leave out frames that no other frame refers to."""
SKIP_MARGIN_S = 1.0
"""Frames that end so long before the wanted moment may be left out."""
ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 18 else {}
"""For the conversion of colours: else FFmpeg starts threads for every frame, which takes longer
than the work. PyAV 15 cannot be told."""
NOT_VIDEO = ("tty", "image2", "concat", "hls", "dash", "sdp")
"""FFmpeg formats that decode to frames but are text, a single picture (as is ``*_pipe``) or a
list of other files."""


class VideoReadError(ValueError, OSError):
    """A video that cannot be used. ``path`` and ``reason`` are kept as attributes."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"cannot read video {path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[type[VideoReadError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # so that it crosses worker processes


@dataclass
class Span:
    """A decoded frame and the time it covers, in seconds from the start of the stream."""

    frame: av.VideoFrame
    start: float
    end: float


class VideoFile:
    """Forward reader of one video stream, in one thread. FFmpeg's errors come as they are."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._container = self._open()
        try:
            self._stream = self._video_stream()
            self._start = self._stream.start_time or 0
            rate = self._stream.average_rate or self._stream.guessed_rate
            # The time stamps of an AVI follow decoding, not showing.
            self._count_only = self._container.format.name == "avi"
            self._interval = 1 / rate if rate else Fraction(1, 25)
            self.duration, self._own_duration = self._find_duration()
            if not self.duration > 0:
                raise VideoReadError(path, "it has no frames")
        except BaseException:
            self._container.close()
            raise
        self._last: Span | None = None
        self._may_seek = self._container.format.name.startswith(SEEKABLE)
        self._may_skip = self._stream.codec_context.name in SKIPPING and not self._count_only
        self._left_out_to = -1.0
        """End of the last frame that the decoder may have left out."""
        self._size: tuple[int, int] | None = None
        self._colours = VideoReformatter()
        self._wanted = 0.0
        self._spans = self._decode()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._container.close()

    def pixels(self, span: Span) -> np.ndarray:
        """uint8 ``[h, w, 3]`` RGB, turned upright; all frames get the size of the first one."""
        frame = span.frame
        self._size = self._size or (frame.width, frame.height)
        rgb = self._colours.reformat(frame, *self._size, format="rgb24", **ONE_THREAD)
        pixels: np.ndarray = rgb.to_ndarray()
        quarters = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels

    def frame_at(self, t: float) -> Span:
        """The frame shown at ``t``; later calls must not ask for an earlier time."""
        if self._last is not None and self._last.end > t:
            return self._last
        self._wanted = t
        if self._may_seek and self._jump_pays(t):
            self._jump(t)
            if self._last is not None and self._last.end > t:
                return self._last
        for span in self._spans:
            self._last = span
            if span.end > t:
                return span
        if self._last is None or self._last.end < self._left_out_to:
            if not self._may_skip:
                raise VideoReadError(self.path, "it has no frames")
            # The stream ends early: its last frame is wanted, and may be one that was left out.
            self._may_skip = self._may_seek = False
            self._restart()
            return self.frame_at(t)
        self._check_complete(t)
        return self._last

    def _open(self) -> InputContainer:
        only_files = {"protocol_whitelist": "file"}
        return av.open(str(self.path), metadata_errors="ignore", options=only_files)

    def _video_stream(self) -> VideoStream:
        name = self._container.format.name
        pictures = av.stream.Disposition.attached_pic
        streams = [s for s in self._container.streams.video if not s.disposition & pictures]
        if not streams or name in NOT_VIDEO or name.endswith("_pipe"):
            raise VideoReadError(self.path, f"no video stream in it (format {name})")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoReadError(self.path, "no decoder for its video stream")
        if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
            size = f"{stream.codec_context.width} x {stream.codec_context.height}"
            raise VideoReadError(self.path, f"frames of {size} pixels, at most {MAX_PIXELS}")
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        return stream

    def _find_duration(self) -> tuple[float, bool]:
        """Seconds, and whether that is the stream's own length and not the whole file's."""
        stream, base = self._stream, self._stream.time_base
        if self._count_only and stream.frames:
            return float(stream.frames * self._interval), True
        if stream.duration and base:
            return float(stream.duration * base), True
        tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
        if tag:
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]), True
        if self._container.duration:
            return self._container.duration / av.time_base, False
        return self._packets_end("video") - float(self._start * (base or 0)), True

    def _packets_end(self, kind: str) -> float:
        """End of the last packet of a kind of stream, in seconds; nothing is decoded."""
        end = 0.0
        with self._open() as container:
            for packet in container.demux():
                if packet.stream.type == kind and packet.pts is not None and packet.time_base:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        return end

    def _decode(self) -> Iterator[Span]:
        end = Fraction(0)
        context, base = self._stream.codec_context, self._stream.time_base
        for packet in self._container.demux(self._stream):
            if self._may_skip:
                context.skip_frame = self._importance(packet, base)
            for frame in packet.decode():
                begin, length, unit = end, self._interval, frame.time_base
                if not self._count_only and unit is not None:
                    begin = end if frame.pts is None else (frame.pts - self._start) * unit
                    length = frame.duration * unit if frame.duration else length
                end = begin + length
                yield Span(frame, float(begin), float(end))

    def _importance(self, packet: av.Packet, base: Fraction | None) -> Literal["DEFAULT", "NONREF"]:
        """Which frames of a packet the decoder may leave out."""
        if packet.pts is None or base is None or not packet.duration:
            return "DEFAULT"
        end = float((packet.pts + packet.duration - self._start) * base)
        if end > self._wanted - SKIP_MARGIN_S:
            return "DEFAULT"
        self._left_out_to = max(self._left_out_to, end)
        return "NONREF"

    def _jump_pays(self, t: float) -> bool:
        """Whether a key frame lies between the last frame and ``t``."""
        reached = self._last.end if self._last else 0.0
        index = getattr(self._stream, "index_entries", None)  # PyAV 15 does not show it
        base = self._stream.time_base
        if not index or not base or index[len(index) - 1].timestamp * base < t - INDEX_GAP_S:
            return t - reached > SEEK_GAP_S
        before = index.search_timestamp(self._start + int(t / base))
        return before >= 0 and float((index[before].timestamp - self._start) * base) > reached

    def _jump(self, t: float) -> None:
        """Move to the key frame before ``t``. A jump that fails or gains nothing is the last."""
        reached = self._last.end if self._last else 0.0
        try:
            base = self._stream.time_base or Fraction(1, av.time_base)
            self._container.seek(self._start + int(t / base), stream=self._stream)
            spans = self._decode()
            first = next(spans, None)
        except av.FFmpegError:
            first = None
        if first is not None and first.start <= t:
            self._may_seek = first.start > reached
            self._spans, self._last = spans, first
            return
        self._may_seek = False
        self._restart()

    def _restart(self) -> None:
        self._container.close()
        self._container = self._open()
        self._stream = self._video_stream()
        self._spans, self._last = self._decode(), None

    def _check_complete(self, t: float) -> None:
        """Raise if the stream ended before ``t`` and the file is cut off, not just shorter."""
        assert self._last is not None
        slack = max(float(self._interval), self._last.end - self._last.start) + 1e-6
        if t - self._last.end <= slack:
            return
        if not self._own_duration and self._packets_end("audio") >= self.duration - slack:
            return  # the sound runs on after the last frame
        raise VideoReadError(
            self.path,
            f"truncated: frames end at {self._last.end:.3f} s of {self.duration:.3f} s",
        )
