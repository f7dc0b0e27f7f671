"""Media that cannot be used, and odd ones that can: each a function that makes the file."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")

import av
import numpy as np
from PIL import Image

Example = dict[str, Any]
Make = Callable[[Path], Example]
BROKEN: dict[str, Make] = {}
LEGAL: dict[str, Make] = {}


def broken(make: Make) -> Make:
    BROKEN[make.__name__] = make
    return make


def legal(make: Make) -> Make:
    LEGAL[make.__name__] = make
    return make


def write_video(path: Path, stamps: list[int], size: tuple[int, int] = (64, 48), **options: str):
    """H.264 file whose frames are shown at ``stamps`` (tenths of a second); each frame's left
    half is dark, its right half has the brightness ``20 * number``."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"g": "12", **options})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for number, stamp in enumerate(stamps):
            pixels = np.zeros((size[1], size[0], 3), np.uint8)
            pixels[:, size[0] // 2 :] = min(20 * number, 255)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def sample(path: Path, suffix: str = ".mp4", n: int = 60, **options: str) -> bytes:
    whole = path.with_suffix(f".whole{suffix}")
    return write_video(whole, list(range(n)), **options).read_bytes()


def video(path: Path, content: bytes, suffix: str = ".mp4", **clip: float) -> Example:
    path = path.with_suffix(suffix)
    path.write_bytes(content)
    return {"video": str(path), "metadata": clip}


def image(path: Path, content: bytes, suffix: str) -> Example:
    return {"image": video(path, content, suffix)["video"]}


def noise_image(path: Path, suffix: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = path.with_suffix(f".whole{suffix}")
    Image.fromarray(pixels).save(whole)
    return whole.read_bytes()


@broken
def mp4_cut_at_5_percent(path: Path) -> Example:
    data = sample(path)
    return video(path, data[: len(data) // 20])


@broken
def mp4_cut_at_half(path: Path) -> Example:
    data = sample(path)
    return video(path, data[: len(data) // 2])


@broken
def mp4_without_its_last_bytes(path: Path) -> Example:
    return video(path, sample(path)[:-200])


@broken
def mkv_cut_at_half(path: Path) -> Example:
    data = sample(path, ".mkv")
    return video(path, data[: len(data) // 2], ".mkv")


@broken
def zero_bytes(path: Path) -> Example:
    return video(path, b"")


@broken
def audio_only(path: Path) -> Example:
    path = path.with_suffix(".mp4")
    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 16000), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
        out.mux(sound.encode(frame))
        out.mux(sound.encode())
    return {"video": str(path)}


@broken
def no_key_frames(path: Path) -> Example:
    """The first packet, which holds the only key frame, is zeros."""
    whole = path.with_suffix(".whole.mp4")
    write_video(whole, list(range(60)), g="1000")
    with av.open(str(whole)) as container:
        packets = [p for p in container.demux(video=0) if p.is_keyframe]
        data = bytearray(whole.read_bytes())
        for packet in packets:
            if packet.size:
                data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    return video(path, bytes(data))


@broken
def text_called_mp4(path: Path) -> Example:
    return video(path, b"just some words\n" * 200)


@broken
def web_page_called_webm(path: Path) -> Example:
    return video(path, b"<html><body>404 not found</body></html>", ".webm")


@broken
def picture_called_mp4(path: Path) -> Example:
    return video(path, noise_image(path, ".png"))


@broken
def list_of_other_files(path: Path) -> Example:
    write_video(path.with_name("other.mp4"), list(range(20)))
    return video(path, b"ffconcat version 1.0\nfile other.mp4\n", ".ffconcat")


@broken
def playlist_of_the_network(path: Path) -> Example:
    lines = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://192.0.2.1/a.ts\n#EXT-X-ENDLIST\n"
    return video(path, lines.encode(), ".m3u8")


@broken
def folder_without_pictures(path: Path) -> Example:
    path.mkdir()
    return {"video": str(path)}


@broken
def missing(path: Path) -> Example:
    return {"video": str(path.with_suffix(".mp4"))}


@broken
def link_to_nowhere(path: Path) -> Example:
    path.symlink_to(path.with_name("nowhere.mp4"))
    return {"video": str(path)}


@broken
def link_to_itself(path: Path) -> Example:
    path.symlink_to(path)
    return {"video": str(path)}


@broken
def pipe_as_video(path: Path) -> Example:
    os.mkfifo(path)
    return {"video": str(path)}


@broken
def pipe_as_image(path: Path) -> Example:
    os.mkfifo(path)
    return {"image": str(path)}


@broken
def endless_device(path: Path) -> Example:
    return {"video": "/dev/zero"}


@broken
def zero_byte_in_the_name(path: Path) -> Example:
    return {"video": f"{path}\0.mp4"}


@broken
def damaged_header(path: Path) -> Example:
    data = sample(path)
    return video(path, b"\xff" * 512 + data[512:])


@broken
def damaged_index(path: Path) -> Example:
    data = bytearray(sample(path))
    at = data.index(b"stsz")
    data[at : at + 200] = b"\xff" * 200
    return video(path, bytes(data))


@broken
def huge_declared_frames(path: Path) -> Example:
    """A raw video of one frame whose header asks for 65000 x 65000 pixels."""
    return video(path, b"YUV4MPEG2 W65000 H65000 F10:1\nFRAME\n" + bytes(1000), ".y4m")


@broken
def no_duration(path: Path) -> Example:
    """A container without a single frame."""
    path = path.with_suffix(".mp4")
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    return {"video": str(path)}


@broken
def clip_from_nan(path: Path) -> Example:
    return video(path, sample(path), clip_start_time=math.nan)


@broken
def clip_to_nan(path: Path) -> Example:
    return video(path, sample(path), clip_start_time=0.0, clip_end_time=math.nan)


@broken
def clip_before_the_start(path: Path) -> Example:
    return video(path, sample(path), clip_start_time=-2.0, clip_end_time=1.0)


@broken
def clip_behind_the_end(path: Path) -> Example:
    return video(path, sample(path), clip_start_time=6.5, clip_end_time=9.0)


@broken
def clip_the_wrong_way_round(path: Path) -> Example:
    return video(path, sample(path), clip_start_time=3.0, clip_end_time=1.0)


@broken
def jpeg_cut_at_half(path: Path) -> Example:
    data = noise_image(path, ".jpg")
    return image(path, data[: len(data) // 2], ".jpg")


@broken
def png_with_a_damaged_middle(path: Path) -> Example:
    data = bytearray(noise_image(path, ".png"))
    data[len(data) // 2 : len(data) // 2 + 99] = bytes(99)
    return image(path, bytes(data), ".png")


@broken
def png_that_unfolds_to_gigabytes(path: Path) -> Example:
    def part(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = part(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    body = part(b"IDAT", zlib.compress(bytes(1 << 20)))
    return image(path, b"\x89PNG\r\n\x1a\n" + header + body + part(b"IEND", b""), ".png")


@broken
def text_called_jpg(path: Path) -> Example:
    return image(path, b"words", ".jpg")


@broken
def folder_as_image(path: Path) -> Example:
    path.mkdir()
    return {"image": str(path)}


@broken
def one_bad_image_of_two(path: Path) -> Example:
    good = image(path.with_name("good"), noise_image(path, ".png"), ".png")["image"]
    return {"image": [good, str(path.with_suffix(".gone.png"))]}


@legal
def one_frame(path: Path) -> Example:
    return {"video": str(write_video(path.with_suffix(".mp4"), [0]))}


@legal
def odd_size(path: Path) -> Example:
    return {"video": str(write_video(path.with_suffix(".mp4"), list(range(20)), (53, 31)))}


@legal
def wrong_extension(path: Path) -> Example:
    return video(path, sample(path), ".avi")


@legal
def clip_over_the_end(path: Path) -> Example:
    return video(path, sample(path), clip_start_time=1.0, clip_end_time=99.0)


@legal
def variable_frame_rate(path: Path) -> Example:
    """Frames 0 to 4 at 0, 0.1, 0.2, 2 and 4 seconds."""
    return {"video": str(write_video(path.with_suffix(".mp4"), [0, 1, 2, 20, 40], bf="0"))}


@legal
def turned_by_90_degrees(path: Path) -> Example:
    """The matrix of the track header says: a quarter turn clockwise."""
    data = bytearray(sample(path))
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    return video(path, bytes(data))


@legal
def damaged_middle(path: Path) -> Example:
    """The decoder conceals it, as a player does."""
    data = bytearray(sample(path))
    at = data.index(b"mdat") + 400
    data[at : at + 60] = b"\xaa" * 60
    return video(path, bytes(data))


@legal
def animated_gif_as_image(path: Path) -> Example:
    frames = [Image.new("RGB", (20, 10), (i * 50, 0, 0)) for i in range(4)]
    frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])
    return {"image": str(path.with_suffix(".gif"))}


@legal
def animated_gif_as_video(path: Path) -> Example:
    return {"video": animated_gif_as_image(path)["image"]}
