"""A video file as a source of frames through PyAV; only what is wanted is decoded and kept.

Between two wanted frames the reader jumps if a key frame lies between them, and leaves out frames
that no other frame refers to.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from olmo.data.video_container import OpenVideo, display_matrix, upright
from olmo.data.video_packets import read_timeline
from olmo.data.video_source import Source
from olmo.limits import Limits

SEEKABLE = ("mov", "matroska")
"""FFmpeg formats (beginning of the name) whose index and time stamps a jump can rely on."""
SKIPPING = ("h264", "hevc")
"""Codecs whose decoder can leave out frames that no other frame refers to."""
SMALL_FILE = 8 << 20
"""Packets of up to so many bytes stay in memory, so that the file is read only once."""
ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 18 else {}
"""For the colour conversion: FFmpeg would start threads for every frame, which takes longer than
the work. PyAV 15 has no such option."""


class VideoFile(Source):
    """Forward reader of one video stream, in one thread."""

    def __init__(self, path: str | Path, limits: Limits | None = None) -> None:
        super().__init__(path, limits or Limits())
        self._last: av.VideoFrame | None = None
        self._ahead: av.VideoFrame | None = None
        """Decoded already, but later than what was asked for."""
        self._n_decoded, self._wanted = 0, 0
        """``_wanted``: time stamp of the requested frame."""
        self._may_seek = self._may_skip = False
        self._size: tuple[int, int] | None = None
        self._colours = VideoReformatter()
        self._packets: list[av.Packet] | None = []
        """All packets of a small file, which is then read once; None for a large one."""
        self.video = OpenVideo(path, self.limits)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.video.container.close()

    def frame(self, number: int) -> np.ndarray:
        picture = self.picture(number)
        self.limits.check_pixels(picture.width, picture.height, self.named)
        self._size = self._size or (picture.width, picture.height)
        rgb = self._colours.reformat(picture, *self._size, format="rgb24", **ONE_THREAD)
        pixels: np.ndarray = rgb.to_ndarray()
        return upright(pixels, display_matrix(picture))

    def picture(self, number: int) -> av.VideoFrame:
        """Frame ``number`` as it is decoded, or the one before if it cannot be decoded."""
        self._wanted = int(self.timeline.stamps[number])
        if self._last is not None and self._last.pts >= self._wanted:
            return self._last
        if self._may_seek and self._jump_pays():
            self._jump()
        found = self._advance()
        if found is None and (self._may_skip or (self._may_seek and self._last is None)):
            # The frame did not come, and the one before it may have been skipped: decode them all.
            self._may_skip = self._may_seek = False
            self._go_to(None)
            found = self._advance()
        found = found or self._last or self._ahead
        if found is None:
            raise self.named("it has no frames")
        return found

    def _begin(self) -> None:
        """Read the timeline, and go to the first frame."""
        video = self.video
        self.timeline = line = read_timeline(self._kept(video.packets()), video, self.check)
        self._wanted = int(line.stamps[0])
        codec = video.stream.codec_context.name
        self._may_seek = video.form.startswith(SEEKABLE) and not line.in_order
        self._may_skip = codec in SKIPPING and not line.in_order
        self._go_to(None)
        if not line.in_order and not line.has_key_first:
            # A file that was cut out of another one may begin with frames that do not decode.
            self._ahead = next(self._frames, None)
            if self._ahead is not None:
                self.timeline = line.starting_at(self._ahead.pts)

    def _kept(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """``packets``; those of a small file are kept in ``_packets``."""
        size = 0
        for packet in packets:
            size += packet.size
            if size > SMALL_FILE:
                self._packets = None
            if self._packets is not None:
                self._packets.append(packet)
            yield packet

    def _go_to(self, key: int | None) -> None:
        """Decode next from the key frame with this time stamp; None: from the first packet."""
        self._last = self._ahead = None
        packets: Iterable[av.Packet]
        if self._packets is not None:
            self.video.stream.codec_context.flush_buffers()
            places = (i for i, p in enumerate(self._packets) if p.pts == key and p.is_keyframe)
            packets = itertools.islice(self._packets, 0 if key is None else next(places), None)
        else:
            if key is None and not (self._may_seek and self.timeline.has_key_first):
                self.close()
                self.video = OpenVideo(self.path, self.limits)
            else:
                first = int(self.timeline.stamps[0])
                self.video.container.seek(first if key is None else key, stream=self.video.stream)
            packets = self.video.packets()
        self._frames = self._decode(packets)

    def _jump_pays(self) -> bool:
        """Whether a key frame lies between the last frame and the wanted one."""
        key = self.timeline.key_before(self._wanted)
        reached = self._ahead or self._last
        return key is not None and (reached is None or key > reached.pts)

    def _jump(self) -> None:
        """Go to the key frame before the wanted one. After a jump that fails there are no more."""
        try:
            self._go_to(self.timeline.key_before(self._wanted))
            self._ahead = next(self._frames, None)
        except av.FFmpegError:
            self._ahead = None
        if self._ahead is None or self._ahead.pts > self._wanted:
            self._may_seek = False
            self._go_to(None)

    def _advance(self) -> av.VideoFrame | None:
        """Decode up to the wanted frame; None if it does not come."""
        several = self.timeline.copies(self._wanted)
        while True:
            frame, self._ahead = self._ahead or next(self._frames, None), None
            if frame is None or frame.pts > self._wanted:
                self._ahead = frame
                return None
            self._last = frame
            several -= frame.pts == self._wanted
            if not several:
                return frame

    def _decode(self, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
        """Frames in the order in which they are shown, with the time stamps of the timeline."""
        context, line, number = self.video.stream.codec_context, self.timeline, 0
        skips: bool | None = None
        for packet in packets:
            early = self._may_skip and packet.pts is not None and packet.pts < self._wanted
            if early != skips:
                skips = early
                context.skip_frame = "NONREF" if skips else "DEFAULT"
            for frame in packet.decode():
                self._n_decoded += 1
                self.check(self._n_decoded)
                if line.in_order:
                    frame.pts = int(line.stamps[min(number, len(line.stamps) - 1)])
                number += 1
                if frame.pts is not None:
                    yield frame
