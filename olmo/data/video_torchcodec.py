"""A video file through torchcodec, which an installation may lack."""

from __future__ import annotations

import importlib
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from olmo.data.video_container import display_matrix, file_url, upright
from olmo.data.video_error import VideoReadError
from olmo.data.video_file import ONE_THREAD, VideoFile
from olmo.limits import Limits

if TYPE_CHECKING:
    from torchcodec.decoders import VideoDecoder

EDGE_S = 1e-6
"""Times that differ by less are the same."""


@dataclass(frozen=True)
class TorchcodecFrame:
    """A decoded frame, uint8 ``[h, w, 3]``, and its number."""

    image: np.ndarray
    number: int


class TorchcodecFile:
    """A video file through torchcodec, in one thread. Which stream and which of its frames are
    shown is worked out as for PyAV. What torchcodec raises comes as it is."""

    def __init__(self, path: str | Path, limits: Limits) -> None:
        from torchcodec.decoders import VideoDecoder

        with closing(VideoFile(path, limits)) as file:
            self.timeline, index = file.timeline, file.stream_index
            self._matrix = display_matrix(file.frame_at(0.0).frame)
        self.path = path
        self._check = limits.clock(partial(VideoReadError, path))
        self._n_decoded = 0
        self._decoder: VideoDecoder = VideoDecoder(
            file_url(path),
            stream_index=index,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
        )
        about = self._decoder.metadata
        self._end = float(about.end_stream_seconds)
        self._turned = round((getattr(about, "rotation", None) or 0.0) / 90)
        """Quarter turns that torchcodec makes by itself; it does not mirror."""
        self._last: TorchcodecFrame | None = None
        self._size: tuple[int, ...] | None = None

    @property
    def duration(self) -> float:
        return self.timeline.duration

    def close(self) -> None:
        pass

    def frame_at(self, t: float) -> TorchcodecFrame:
        number = self.timeline.number_at(t)
        if self._last is None or self._last.number != number:
            self._n_decoded += self.timeline.distance(
                number, self._last.number if self._last else -1
            )
            self._check(self._n_decoded)
            self._last = TorchcodecFrame(self._decode(number), number)
        return self._last

    def pixels(self, frame: TorchcodecFrame) -> np.ndarray:
        pixels = upright(np.rot90(frame.image, -self._turned), self._matrix)
        self._size = self._size or pixels.shape[:2]
        if pixels.shape[:2] != self._size:  # as in PyAV's reader: all have the size of the first
            whole = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            height, width = self._size
            pixels = whole.reformat(width, height, **ONE_THREAD).to_ndarray()
        return pixels

    def _decode(self, number: int) -> np.ndarray:
        if self.timeline.in_order:
            image: np.ndarray = self._decoder.get_frame_at(number).data.numpy()
            return image
        begin = self.timeline.begins[number]
        end = min(*self.timeline.begins[number + 1 : number + 2], self._end, np.inf)
        # Just after it comes on: torchcodec may take a later moment for the next one.
        frame = self._decoder.get_frame_played_at(min(begin + EDGE_S, (begin + end) / 2))
        if abs(frame.pts_seconds - begin) > EDGE_S:
            found = f"torchcodec gives the frame at {frame.pts_seconds:.3f} s"
            raise VideoReadError(self.path, f"{found} for that at {begin:.3f} s: use pyav")
        image = frame.data.numpy()
        return image


def check_torchcodec() -> None:
    """``ImportError`` where torchcodec does not load."""
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, RuntimeError, OSError) as e:  # no FFmpeg that it can load
        raise ImportError(f"decoder=torchcodec, but torchcodec does not load: {e}") from e
