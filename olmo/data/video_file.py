"""A video file as a stream of frames through PyAV: only what is wanted is decoded and kept.

Between two wanted frames the reader jumps if a key frame lies between them, and leaves out frames
that no other frame refers to.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from olmo.data.video_container import display_matrix, open_container, upright, video_stream
from olmo.data.video_error import VideoReadError
from olmo.data.video_packets import packets_of, read_timeline
from olmo.limits import Limits

SEEKABLE = ("mov", "matroska")
"""FFmpeg formats (beginning of the name) whose index and time stamps a jump can rely on."""
SKIPPING = ("h264", "hevc")
"""Codecs whose decoder can leave out frames that no other frame refers to."""
SMALL_FILE = 8 << 20
"""Bytes of packets that are kept in memory, to be read once."""
ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 18 else {}
"""For the conversion of colours: else FFmpeg starts threads for every frame, which takes longer
than the work. PyAV 15 cannot be told."""


@dataclass
class Shown:
    """A decoded frame, its time stamp, and that in seconds from the begin of the video."""

    frame: av.VideoFrame
    stamp: int
    start: float


class VideoFile:
    """Forward reader of one video stream, in one thread. FFmpeg's errors come as they are."""

    def __init__(self, path: str | Path, limits: Limits | None = None) -> None:
        self.path, self._limits = path, limits or Limits()
        self._named = partial(VideoReadError, path)
        self._check = self._limits.clock(self._named)
        self._n_decoded = 0
        self._last: Shown | None = None
        self._ahead: Shown | None = None
        """Decoded already, but later than what was asked for."""
        self._size: tuple[int, int] | None = None
        self._colours = VideoReformatter()
        self._wanted = 0
        """Time stamp of the frame that is looked for."""
        self._packets: list[av.Packet] | None = []
        """All packets of a small file, which is then read once; None for a large one."""
        self._at = 0
        """Where in ``_packets`` decoding begins."""
        self._open()
        try:
            packets = self._kept(packets_of(self._container, self._stream))
            self.timeline = read_timeline(packets, self._container, self._stream, path, self._check)
            self._wanted, in_order = int(self.timeline.stamps[0]), self.timeline.in_order
            form, codec = self._container.format.name, self._stream.codec_context.name
            self._may_seek = form.startswith(SEEKABLE) and not in_order
            self._may_skip = codec in SKIPPING and not in_order
            self._rewind(reopen=not (self._may_seek and self.timeline.has_key_first))
            self._drop_what_lacks_its_key()
        except BaseException:
            self.close()
            raise

    @property
    def duration(self) -> float:
        return self.timeline.duration

    @property
    def stream_index(self) -> int:
        return int(self._stream.index)

    def close(self) -> None:
        self._container.close()

    def frame_at(self, t: float) -> Shown:
        """The frame shown at ``t``; later calls must not ask for an earlier time."""
        number = self.timeline.number_at(t)
        self._wanted = int(self.timeline.stamps[number])
        if self._last is not None and self._last.stamp >= self._wanted:
            return self._last
        if self._may_seek and self._jump_pays(t):
            self._jump()
        found = self._advance()
        if found is None and (self._may_skip or (self._may_seek and self._last is None)):
            # What was to come did not, and the frame before it may be one that was left out.
            self._may_skip = self._may_seek = False
            self._rewind()
            found = self._advance()
        found = found or self._last or self._ahead
        if found is None:
            raise VideoReadError(self.path, "it has no frames")
        return found

    def pixels(self, shown: Shown) -> np.ndarray:
        """uint8 ``[h, w, 3]`` RGB, turned upright; all frames get the size of the first one."""
        frame = shown.frame
        self._limits.check_pixels(frame.width, frame.height, self._named)
        self._size = self._size or (frame.width, frame.height)
        rgb = self._colours.reformat(frame, *self._size, format="rgb24", **ONE_THREAD)
        pixels: np.ndarray = rgb.to_ndarray()
        return upright(pixels, display_matrix(frame))

    def _open(self) -> None:
        self._container = open_container(self.path)
        try:
            self._stream = video_stream(self._container, self.path, self._limits)
        except BaseException:
            self._container.close()
            raise

    def _kept(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """``packets``, kept on the way as long as they are few."""
        size = 0
        for packet in packets:
            size += packet.size
            if size > SMALL_FILE:
                self._packets = None
            if self._packets is not None:
                self._packets.append(packet)
            yield packet

    def _rewind(self, reopen: bool = True) -> None:
        """To the first packet."""
        self._last = self._ahead = None
        if self._packets is not None:
            self._from(0)
        elif reopen:
            self._container.close()
            self._open()
        else:
            self._container.seek(int(self.timeline.stamps[0]), stream=self._stream)
        self._frames = self._decode()

    def _from(self, at: int) -> None:
        """Decode packet ``at`` of a small file next."""
        self._stream.codec_context.flush_buffers()
        self._at = at

    def _seek(self, key: int) -> None:
        """To the key frame with this time stamp."""
        if self._packets is None:
            self._container.seek(key, stream=self._stream)
        else:
            found = (i for i, p in enumerate(self._packets) if p.pts == key and p.is_keyframe)
            self._from(next(found))

    def _drop_what_lacks_its_key(self) -> None:
        """A file cut out of another one may begin with frames that nothing can be made of."""
        if self.timeline.in_order or self.timeline.has_key_first:
            return
        self._ahead = next(self._frames, None)
        if self._ahead is not None:
            self.timeline = self.timeline.starting_at(self._ahead.stamp)

    def _advance(self) -> Shown | None:
        """Decode up to the wanted frame; None if it does not come."""
        several = self.timeline.copies(self._wanted)
        while True:
            shown, self._ahead = self._ahead or next(self._frames, None), None
            if shown is None or shown.stamp > self._wanted:
                self._ahead = shown
                return None
            self._last = shown
            several -= shown.stamp == self._wanted
            if not several:
                return shown

    def _decode(self) -> Iterator[Shown]:
        """Frames in the order of showing, from where the file stands."""
        context, line, number = self._stream.codec_context, self.timeline, 0
        skips: bool | None = None
        if self._packets is None:
            packets = packets_of(self._container, self._stream)
        else:
            packets = itertools.islice(self._packets, self._at, None)
        for packet in packets:
            early = self._may_skip and packet.pts is not None and packet.pts < self._wanted
            if early != skips:
                skips = early
                context.skip_frame = "NONREF" if skips else "DEFAULT"
            for frame in packet.decode():
                self._n_decoded += 1
                self._check(self._n_decoded)
                stamp = frame.pts
                if line.in_order:
                    stamp = int(line.stamps[min(number, len(line.stamps) - 1)])
                number += 1
                if stamp is not None:
                    yield Shown(frame, stamp, line.seconds(stamp))

    def _jump_pays(self, t: float) -> bool:
        """Whether a key frame lies between the last frame and the wanted one."""
        key = self.timeline.key_before(self._wanted)
        reached = self._ahead or self._last
        return key is not None and (reached is None or key > reached.stamp)

    def _jump(self) -> None:
        """Move to the key frame before the wanted one. A jump that fails is the last."""
        try:
            self._seek(self.timeline.key_before(self._wanted) or 0)
            self._frames = self._decode()
            first = next(self._frames, None)
        except av.FFmpegError:
            first = None
        if first is not None and first.stamp <= self._wanted:
            self._last, self._ahead = None, first
            return
        self._may_seek = False
        self._rewind()
