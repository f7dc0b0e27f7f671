"""The timeline of a video file, from one pass over its packets, without decoding. Packets that an
edit list hides do not count as frames.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from olmo.data.video_container import USUAL_RATE, OpenVideo, open_container
from olmo.data.video_source import Timeline, VideoReadError

STATES_LENGTH = ("matroska", "flv", "asf")
"""Formats (beginning of the name) whose header says when the file ends, besides MOV and AVI."""
CHECK_EVERY = 64
"""Packets between two looks at the clock."""

Check = Callable[[int], None]
_Seen = tuple[int | None, int | None, int, bool]
"""Of a packet: pts, dts, duration, whether it is a key frame."""


def read_timeline(packets: Iterable[av.Packet], video: OpenVideo, check: Check) -> Timeline:
    """Read all ``packets`` of ``video``; ``check`` is called every ``CHECK_EVERY`` packets.

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
        raise VideoReadError(video.path, "it has no frames")
    stamped = [one for one in shown if one[0] is not None]
    in_order = video.form == "avi" or 2 * len(stamped) <= len(shown)
    line = _in_order(shown, video) if in_order else _by_stamps(stamped, video)
    return dataclasses.replace(line, stated=_stated_if_cut(line, n_packets, video, check))


def _by_stamps(shown: list[_Seen], video: OpenVideo) -> Timeline:
    """Frames as their time stamps say; ``shown`` are those that have one."""
    pts, dts, durations, is_key = zip(*shown, strict=True)
    stamps = np.array(pts, dtype=np.int64)
    keys, last = np.sort(stamps[np.array(is_key)]), int(stamps.argmax())
    length = Fraction(durations[last])
    # FFmpeg from version 8 on gives the time to the next frame in the order of decoding.
    if not length or (video.form.startswith("mov") and pts != dts):
        rate = video.stream.base_rate or video.stream.average_rate or USUAL_RATE
        length = Fraction(rate.denominator, rate.numerator) / video.base
    end = int(stamps[last]) + max(round(length), 1)
    return Timeline(np.sort(stamps), keys, end, video.base)


def _in_order(shown: list[_Seen], video: OpenVideo) -> Timeline:
    """Frames without time stamps of their own: an AVI numbers its packets, mostly as they are
    decoded, and a bare stream says at most how long each frame stays."""
    usual = max(round(1 / (USUAL_RATE * video.base)), 1)
    pts, dts, durations, _ = zip(*shown, strict=True)
    numbers = next((one for one in (pts, dts) if len({*one, None}) == len(one) + 1), None)
    if numbers is None:
        lengths = [duration or usual for duration in durations]
        stamps = np.cumsum([0, *lengths[:-1]], dtype=np.int64)
    else:
        stamps = np.sort(np.array(numbers, dtype=np.int64))
    end = int(stamps[-1]) + (durations[-1] or usual)
    return Timeline(stamps, stamps[:1], end, video.base, in_order=True)


# --- files that were cut off -------------------------------------------------------------------


def _stated_if_cut(line: Timeline, n_packets: int, video: OpenVideo, check: Check) -> float | None:
    """Seconds that the header promises if the frames end too early for it, else None."""
    stream, end = video.stream, float(line.end * line.base)
    slack = max(1.0, 2 * (end - float(line.begins[-1])))
    if video.form.startswith("mov"):
        index = getattr(stream, "index_entries", None)  # PyAV 15 does not show it
        promised = len(index) if index else stream.frames
        stated = float(((stream.start_time or 0) + (stream.duration or 0)) * line.base)
        cut = n_packets < promised and end < stated
    elif video.form == "avi":
        stated = float((int(line.stamps[0]) + stream.frames) * line.base)
        cut = end + (0.0 if _is_short_riff(video.path) else slack) < stated
    elif video.form.startswith(STATES_LENGTH):
        stated, own = _stated_end(video)
        cut = end + slack < stated and (own or _others_end(video, check) + slack < stated)
    else:
        return None
    return stated - float(line.begins[0]) if cut else None


def _is_short_riff(path: str | Path) -> bool:
    """Whether an AVI is shorter than its first eight bytes say."""
    with open(path, "rb") as file:
        return os.path.getsize(path) < 8 + int.from_bytes(file.read(8)[4:], "little")


def _stated_end(video: OpenVideo) -> tuple[float, bool]:
    """When the file ends as the header says, and whether it says so of this very stream."""
    whole = float(Fraction(video.container.duration or 0, av.time_base))
    stated = video.stream.metadata.get("DURATION", "")
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stated)
    if tag is None:
        return whole, False
    own = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    return min(own, whole or own), True


def _others_end(video: OpenVideo, check: Check) -> float:
    """When the sound and the like end, in seconds."""
    end = 0.0
    with open_container(video.path) as container:
        for number, packet in enumerate(container.demux()):
            if number % CHECK_EVERY == 0:
                check(0)
            if packet.stream.index != video.stream.index and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end
