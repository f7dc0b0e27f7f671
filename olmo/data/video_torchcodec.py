"""A video file through torchcodec, which an installation may lack."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import av
import numpy as np

from olmo.data.video_container import display_matrix, file_url, upright
from olmo.data.video_file import ONE_THREAD, VideoFile
from olmo.data.video_source import EDGE_S, Source
from olmo.limits import Limits

try:
    from torchcodec.decoders import VideoDecoder
except (ImportError, RuntimeError, OSError) as e:  # RuntimeError: no FFmpeg that it can load
    raise ImportError(f"decoder=torchcodec, but torchcodec does not load: {e}") from e


class TorchcodecFile(Source):
    """A video file through torchcodec, in one thread. Which stream and which of its frames are
    shown is worked out as for PyAV."""

    def __init__(self, path: str | Path, limits: Limits) -> None:
        super().__init__(path, limits)
        with closing(VideoFile(path, limits)) as file:
            self.timeline, index = file.timeline, int(file.video.stream.index)
            self._matrix = display_matrix(file.picture(0))
        self._decoder = VideoDecoder(
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
        self._last, self._n_decoded = -1, 0
        self._size: tuple[int, ...] | None = None

    def frame(self, number: int) -> np.ndarray:
        self._n_decoded += self._distance(number)
        self.check(self._n_decoded)
        self._last = number
        pixels = upright(np.rot90(self._decode(number), -self._turned), self._matrix)
        self._size = self._size or pixels.shape[:2]
        if pixels.shape[:2] != self._size:
            whole = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            height, width = self._size
            pixels = whole.reformat(width, height, **ONE_THREAD).to_ndarray()
        return pixels

    def _distance(self, number: int) -> int:
        """About how many frames are decoded on the way to this one."""
        line = self.timeline
        key = line.key_before(int(line.stamps[number]))
        first = 0 if key is None else int(line.stamps.searchsorted(key))
        return number + 1 - max(first, self._last + 1)

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
            raise self.named(f"{found} for that at {begin:.3f} s: use pyav")
        image = frame.data.numpy()
        return image
