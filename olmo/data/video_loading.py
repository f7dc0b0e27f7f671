"""Frames of a video file through PyAV, decoded as a stream: only the wanted ones are kept.

Frame for time ``t``: the first one that ends after ``t``; past the last frame, the last one.
Times count from the start of the video stream, or from ``clip_start``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from olmo.data.frame_sampling import FrameSampling, sample_times
from olmo.preprocessing.chat import Rng
from olmo.types import VideoFrames

SEEK_GAP_S = 6.0
"""Decoding jumps over a gap longer than this instead of decoding every frame in it."""

SEEKABLE = ("mov", "matroska")
"""FFmpeg formats (beginning of the name) whose index and time stamps a jump can rely on."""

NOT_VIDEO = ("tty", "image2")
"""FFmpeg formats that decode to frames but are text or a single picture (as is ``*_pipe``)."""


class VideoReadError(ValueError, OSError):
    """A video file that cannot be used. ``path`` and ``reason`` are kept as attributes."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"cannot read video {path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[type[VideoReadError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # so that it crosses worker processes


def load_video(
    path: str | Path,
    sampling: FrameSampling,
    rng: Rng | None = None,
    is_training: bool = False,
    clip_start: float | None = None,
    clip_end: float | None = None,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> VideoFrames:
    """Decode the frames that ``sampling`` asks for.

    ``transform`` maps uint8 ``[1, h, w, 3]`` to ``[1, h', w', 3]`` and is applied to every frame
    as soon as it is decoded (a resize keeps memory low). Raises :class:`VideoReadError` for a
    missing, unreadable, empty or truncated file and for a clip outside the video.
    """
    if not Path(path).is_file():
        raise VideoReadError(path, "no such file")
    try:
        with _Reader(path) as reader:
            start, end = _clip(path, reader.duration, clip_start, clip_end)
            times = sample_times(sampling, end - start, rng, is_training)
            frames = _collect(reader, times + start, transform)
    except av.FFmpegError as e:
        raise VideoReadError(path, f"{type(e).__name__}: {e.strerror or e}") from e
    return VideoFrames(frames=frames, timestamps=times, duration=end - start)


def _clip(
    path: str | Path, duration: float, start: float | None, end: float | None
) -> tuple[float, float]:
    first = 0.0 if start is None else float(start)
    last = duration if end is None else min(float(end), duration)
    if not 0 <= first < last:
        raise VideoReadError(path, f"clip {start} to {end} s is not inside its {duration:.3f} s")
    return first, last


def _collect(
    reader: _Reader, wanted: np.ndarray, transform: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    """Frames uint8 ``[n, h, w, 3]`` for the ascending stream times ``wanted``."""
    out: list[np.ndarray] = []
    shown, width, height = None, 0, 0
    for t in wanted:
        span = reader.frame_at(float(t))
        if span is shown:
            out.append(out[-1])
            continue
        shown = span
        width, height = width or span.frame.width, height or span.frame.height
        pixels = span.frame.to_ndarray(format="rgb24", width=width, height=height)
        out.append(pixels if transform is None else transform(pixels[None])[0])
    return np.stack(out)


@dataclass
class _Span:
    """A decoded frame and the time it covers, in seconds from the start of the stream."""

    frame: av.VideoFrame
    start: float
    end: float


class _Reader:
    """Forward reader of one video stream."""

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
        self._spans = self._decode()
        self._last: _Span | None = None
        self._may_seek = self._container.format.name.startswith(SEEKABLE)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._container.close()

    def frame_at(self, t: float) -> _Span:
        """The frame shown at ``t``; later calls must not ask for an earlier time."""
        if self._last is not None and self._last.end > t:
            return self._last
        if self._may_seek and t - (self._last.end if self._last else 0.0) > SEEK_GAP_S:
            self._jump(t)
            if self._last is not None and self._last.end > t:
                return self._last
        for span in self._spans:
            self._last = span
            if span.end > t:
                return span
        if self._last is None:
            raise VideoReadError(self.path, "it has no frames")
        self._check_complete(t)
        return self._last

    def _open(self) -> InputContainer:
        return av.open(str(self.path), metadata_errors="ignore")

    def _video_stream(self) -> VideoStream:
        name = self._container.format.name
        pictures = av.stream.Disposition.attached_pic
        streams = [s for s in self._container.streams.video if not s.disposition & pictures]
        if not streams or name in NOT_VIDEO or name.endswith("_pipe"):
            raise VideoReadError(self.path, f"no video stream in it (format {name})")
        if streams[0].codec_context is None:
            raise VideoReadError(self.path, "no decoder for its video stream")
        streams[0].codec_context.thread_count = 1
        return streams[0]

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

    def _decode(self) -> Iterator[_Span]:
        end = Fraction(0)
        for frame in self._container.decode(self._stream):
            begin, length, base = end, self._interval, frame.time_base
            if not self._count_only and base is not None:
                begin = end if frame.pts is None else (frame.pts - self._start) * base
                length = frame.duration * base if frame.duration else length
            end = begin + length
            yield _Span(frame, float(begin), float(end))

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
