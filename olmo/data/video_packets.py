"""The timeline of a video file: one pass over its packets, nothing is decoded. Packets that an edit
list hides are no frames.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from olmo.data.video_container import open_container
from olmo.data.video_error import VideoReadError
from olmo.data.video_timeline import Timeline

USUAL_RATE = 25
"""Frames per second of a stream that says nothing."""
JOINT_S = Fraction(1, 10)
"""Time stamps that go back so far belong to a file that another one was joined to."""
STATES_LENGTH = ("matroska", "flv", "asf")
"""Formats (beginning of the name) whose header says when the file ends, besides MOV and AVI."""
JOINABLE = ("mpegts", "mpeg", "ogg")
"""Formats that can be joined by just writing one file after the other."""
CHECK_EVERY = 64
"""Packets between two looks at the clock."""

_Seen = tuple[int | None, int | None, int, bool]
"""What the pass keeps of a packet: pts, dts, duration, whether it is a key frame."""


def read_timeline(
    packets: Iterable[av.Packet],
    container: InputContainer,
    stream: VideoStream,
    path: str | Path,
    check: Callable[[int], None],
) -> Timeline:
    """Read all ``packets`` of ``stream``; ``check`` is called now and then.

    ``VideoReadError`` for a file without frames.
    """
    shown: list[_Seen] = []
    n_packets = 0
    for packet in packets:
        if n_packets % CHECK_EVERY == 0:
            check(0)
        if not packet.size:
            break
        n_packets += 1
        if not packet.is_discard:
            shown.append((packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe))
    if not shown:
        raise VideoReadError(path, "it has no frames")
    stamped = [one for one in shown if one[0] is not None]
    if container.format.name == "avi" or 2 * len(stamped) <= len(shown):
        line = _in_order(shown, stream, path)
    else:
        line = _by_stamps(stamped, container, stream, path)
    stated = _stated_if_cut(line, n_packets, container, stream, check)
    return dataclasses.replace(line, stated=stated)


def time_base(stream: VideoStream) -> Fraction:
    """Seconds of a tick."""
    return stream.time_base or Fraction(1, USUAL_RATE)


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets of ``stream`` in the order of decoding, the last one empty: it flushes the decoder.

    Where files were joined, the time stamps of the second go on from those of the first. A file
    that breaks off ends there.
    """
    jumps, base = container.format.name in JOINABLE, time_base(stream)
    shift, last, length = 0, None, 0
    for packet in container.demux(stream):
        empty = not packet.size and packet.dts is not None  # an AVI has them; not to be decoded
        if empty or (packet.is_corrupt and not jumps):
            continue
        if jumps and packet.dts is not None:
            if last is not None and (last - packet.dts - shift) * base > JOINT_S:
                shift = last + length - packet.dts
            last, length = packet.dts + shift, packet.duration or 0
            if shift:
                packet.dts += shift
                packet.pts = None if packet.pts is None else packet.pts + shift
        yield packet


def _by_stamps(
    shown: list[_Seen], container: InputContainer, stream: VideoStream, path: str | Path
) -> Timeline:
    """Frames as their time stamps say; ``shown`` are those that have one."""
    pts, dts, durations, is_key = zip(*shown, strict=True)
    stamps = np.array(pts, dtype=np.int64)
    keys = np.sort(stamps[np.array(is_key)])
    base, last = time_base(stream), int(stamps.argmax())
    rate = Fraction(stream.base_rate or stream.average_rate or USUAL_RATE)
    length = Fraction(durations[last])
    # FFmpeg from version 8 on tells the distance in the order of decoding.
    if not length or (container.format.name.startswith("mov") and pts != dts):
        length = 1 / (rate * base)
    end = int(stamps[last]) + max(round(length), 1)
    return Timeline(path, np.sort(stamps), keys, end, base)


def _in_order(shown: list[_Seen], stream: VideoStream, path: str | Path) -> Timeline:
    """Frames without time stamps of their own: an AVI numbers its packets, mostly as they are
    decoded, and a bare stream says at most how long each frame stays."""
    base = time_base(stream)
    usual = max(round(1 / (USUAL_RATE * base)), 1)
    pts, dts, durations, _ = zip(*shown, strict=True)
    numbers = next((one for one in (pts, dts) if len({*one, None}) == len(one) + 1), None)
    if numbers is None:
        lengths = [duration or usual for duration in durations]
        stamps = np.cumsum([0, *lengths[:-1]], dtype=np.int64)
    else:
        stamps = np.sort(np.array(numbers, dtype=np.int64))
    end = int(stamps[-1]) + (durations[-1] or usual)
    return Timeline(path, stamps, stamps[:1], end, base, in_order=True)


# --- files that were cut off -------------------------------------------------------------------


def _stated_if_cut(
    line: Timeline,
    n_packets: int,
    container: InputContainer,
    stream: VideoStream,
    check: Callable[[int], None],
) -> float | None:
    """Seconds that the header promises if the frames end too early for it, else None."""
    name, end = container.format.name, float(line.end * line.base)
    slack = max(1.0, 2 * (end - float(line.begins[-1])))
    if name.startswith("mov"):
        index = getattr(stream, "index_entries", None)  # PyAV 15 does not show it
        promised = len(index) if index else stream.frames
        stated = float(((stream.start_time or 0) + (stream.duration or 0)) * line.base)
        cut = n_packets < promised and end < stated
    elif name == "avi":
        stated = float((int(line.stamps[0]) + stream.frames) * line.base)
        cut = end + (0.0 if _is_short_riff(line.path) else slack) < stated
    elif name.startswith(STATES_LENGTH):
        stated, own = _stated_end(container, stream)
        cut = end + slack < stated and (
            own or _others_end(line.path, stream, check) + slack < stated
        )
    else:
        return None
    return stated - float(line.begins[0]) if cut else None


def _is_short_riff(path: str | Path) -> bool:
    """Whether an AVI is shorter than its first eight bytes say."""
    with open(path, "rb") as file:
        return os.path.getsize(path) < 8 + int.from_bytes(file.read(8)[4:], "little")


def _stated_end(container: InputContainer, stream: VideoStream) -> tuple[float, bool]:
    """When the file ends as the header says, and whether it says so of this very stream."""
    whole = float(Fraction(container.duration or 0, av.time_base))
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag is None:
        return whole, False
    own = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    return min(own, whole or own), True


def _others_end(path: str | Path, stream: VideoStream, check: Callable[[int], None]) -> float:
    """When the sound and the like end, in seconds."""
    end = 0.0
    with open_container(path) as container:
        for number, packet in enumerate(container.demux()):
            if number % CHECK_EVERY == 0:
                check(0)
            if packet.stream.index != stream.index and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end
