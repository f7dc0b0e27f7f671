"""Small videos whose frames show their own number, of every container that PyAV writes, and odd
ones made of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")

import av
import numpy as np
from PIL import Image

H264 = {"g": "12", "crf": "20"}
VFR = [0, 1, 2, 3, 20, 21, 22, 40, 41, 42, 60, 61, 62, 63, 80]
"""Tenths of a second; stills of up to 1.8 s between them."""


def picture(number: int, width: int = 64, height: int = 64) -> np.ndarray:
    """16 bits of ``number`` as two rows of eight dark or bright fields, the first one top left."""
    bits = np.array([number >> i & 1 for i in range(16)], dtype=np.uint8).reshape(2, 8)
    grey = np.kron(bits, np.ones((height // 2, width // 8), dtype=np.uint8)) * 255
    padded = np.zeros((height, width), dtype=np.uint8)
    padded[: grey.shape[0], : grey.shape[1]] = grey
    return np.repeat(padded[:, :, None], 3, axis=2)


def frame_number(rgb: np.ndarray) -> int:
    """The number that a frame ``[h, w, 3]`` shows."""
    h, w = rgb.shape[0] // 2, rgb.shape[1] // 8
    fields = rgb[: 2 * h, : 8 * w].astype(float).reshape(2, h, 8, w, 3).mean(axis=(1, 3, 4))
    return int(sum(1 << i for i, v in enumerate(fields.ravel()) if v > 127))


def encode(
    path: Path,
    ticks: Sequence[int],
    codec: str = "libx264",
    tick: Fraction = Fraction(1, 10),
    options: dict[str, str] | None = None,
    **more: Any,
) -> Path:
    """One picture for each of ``ticks``, which last ``tick`` seconds.

    ``more``: ``size``, ``pix_fmt``, ``container_options`` and the length of a silent sound,
    ``audio_s``, with its ``audio_codec``.
    """
    width, height = more.get("size", (64, 64))
    with av.open(str(path), "w", options=more.get("container_options", {})) as out:
        video = out.add_stream(codec, rate=1 / tick)
        video.width, video.height = width, height
        video.pix_fmt = more.get("pix_fmt", "yuv420p")
        video.options = options or {}
        video.time_base = video.codec_context.time_base = tick
        audio = None
        if "audio_s" in more:
            audio = out.add_stream(more.get("audio_codec", "aac"), rate=48000)
            audio.layout = "mono"
        for number, at in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(number, width, height), format="rgb24")
            frame.pts, frame.time_base = at, tick
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio is not None:
            for at in range(0, int(more["audio_s"] * 48000), 960):
                silence = np.zeros((1, 960), dtype=np.float32)
                part = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = 48000, at, Fraction(1, 48000)
                out.mux(audio.encode(part))
            out.mux(audio.encode(None))
    return path


def cut(path: Path, source: Path, cut_s: float) -> Path:
    """Copies the packets from the key frame before ``cut_s`` on, times less ``cut_s``: MP4 then
    hides the frames before 0 by an edit list."""
    with av.open(str(source)) as inp, av.open(str(path), "w") as out:
        stream = inp.streams.video[0]
        copy = out.add_stream_from_template(stream)
        shift = round(Fraction(str(cut_s)) / stream.time_base)
        inp.seek(shift, stream=stream)
        for packet in inp.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                out.mux(packet)
    return path


def make_recipes(recipes: list[dict[str, Any]], folder: Path) -> None:
    """The files of ``video_timing.json``."""
    for recipe in recipes:
        path = folder / recipe["file"]
        if "cut_from" in recipe:
            cut(path, folder / recipe["cut_from"], recipe["cut_s"])
            continue
        ticks = recipe["ticks"]
        if isinstance(ticks, dict):
            ticks = range(ticks["from"], ticks["to"] + 1)
        more = {k: recipe[k] for k in ("audio_codec", "audio_s") if k in recipe}
        tick = Fraction(recipe["tick"])
        encode(path, list(ticks), recipe["codec"], tick, recipe.get("options"), **more)


def turned(path: Path, source: Path, a: int, b: int, c: int, d: int) -> Path:
    """An MP4 with another display matrix."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    values = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", *values)
    path.write_bytes(data)
    return path


def two_streams(path: Path, default: int) -> Path:
    """Stream 0 shows the numbers 0 … 9, stream 1 the numbers 100 … 109."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=10, options=H264) for _ in range(2)]
        for index, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            default_flag = av.stream.Disposition.default
            stream.disposition = default_flag.value if index == default else 0
        for index, stream in enumerate(streams):
            for number in range(10):
                pixels = picture(100 * index + number)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            out.mux(stream.encode(None))
    return path


def moving_picture(path: Path, n: int = 20, ms: int = 100) -> Path:
    """A GIF, WebP or PNG of ``n`` pictures."""
    frames = [Image.fromarray(picture(number)) for number in range(n)]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=ms, **options)
    return path


def all_kinds(folder: Path) -> list[Path]:
    """One file of many containers and codecs, each with its own trouble."""
    plain, b_frames = list(range(40)), {**H264, "bf": "3"}
    base = encode(folder / "base.mp4", plain, options=b_frames)
    open_gop = {**b_frames, "x264-params": "open-gop=1:b-adapt=0"}
    open_source = encode(folder / "open_gop.mkv", plain, options=open_gop)
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    rgb = {"pix_fmt": "rgb24"}
    files = [
        base,
        open_source,
        cut(folder / "cut.mp4", base, 1.45),
        cut(folder / "cut.mkv", base, 1.45),
        cut(folder / "cut.ts", base, 1.45),
        cut(folder / "open_gop_cut.mp4", open_source, 1.75),
        cut(folder / "open_gop_cut.mkv", open_source, 1.75),
        encode(folder / "vfr.mp4", VFR, options=b_frames),
        encode(folder / "vfr.mkv", VFR, options=b_frames),
        encode(folder / "vfr.ts", VFR, options=b_frames),
        encode(folder / "vfr.flv", VFR, options=b_frames),
        encode(folder / "vfr_fragments.mp4", VFR, options=b_frames, container_options=fragments),
        encode(folder / "vfr.webm", VFR, "libvpx", options={"auto-alt-ref": "1", "g": "9"}),
        encode(folder / "vfr.avi", VFR, "mpeg4", options={"g": "12"}),
        encode(folder / "fast.mp4", plain, container_options={"movflags": "faststart"}),
        encode(folder / "late.mov", [at + 25 for at in plain], options=H264),
        encode(folder / "live.webm", plain, "libvpx", container_options={"live": "1"}),
        encode(folder / "b.avi", plain, "mpeg4", options={"bf": "2", "g": "12"}),
        encode(folder / "b.mpg", plain, "mpeg2video", Fraction(1, 25), {"bf": "2", "g": "12"}),
        encode(folder / "b.ts", plain, "mpeg2video", Fraction(1, 25), {"bf": "2", "g": "12"}),
        encode(folder / "a.ogg", plain, "libvpx", options={"g": "12"}),
        encode(folder / "a.wmv", plain, "wmv2"),
        encode(folder / "a.flv", plain, "flv"),
        encode(folder / "a.nut", plain, "ffv1"),
        encode(folder / "odd.mp4", plain, size=(53, 31), pix_fmt="yuv444p"),
        encode(folder / "ten_bits.mp4", plain, pix_fmt="yuv420p10le"),
        encode(folder / "alpha.mov", plain[:9], "qtrle", pix_fmt="argb"),
        encode(folder / "one.ts", [0], options=H264),
        encode(folder / "bare.h264", plain, options=b_frames),
        encode(folder / "bare.mjpeg", plain, "mjpeg", Fraction(1, 25), pix_fmt="yuvj420p"),
        encode(folder / "png.mov", plain[:9], "png", **rgb),
        moving_picture(folder / "a.gif"),
        moving_picture(folder / "a.png"),
    ]
    joined = folder / "joined.ts"
    joined.write_bytes((folder / "b.ts").read_bytes() + (folder / "b.ts").read_bytes())
    return [*files, joined]
