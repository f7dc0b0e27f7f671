"""Videos that are published as folders of frames: where the clip lies that is made of them once.

Of TVQA (3 frames per second) it is a time span, elsewhere the whole folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from PIL import Image

FRAMES_PER_SECOND = 3
MULTIPLE = 16
"""Width and height are padded to a multiple of this, at the bottom and at the right."""
_FOLDER_CLIP = re.compile(r"(.+)_(\d+)fps\.mp4")


def frame_span(start: float, end: float) -> tuple[int, int]:
    """First and last frame number (from 1) of the span ``start`` to ``end``, in seconds."""
    return int(FRAMES_PER_SECOND * start) + 1, int(FRAMES_PER_SECOND * end)


def frame_clip(folder: str, start: float, end: float) -> str:
    """Path of the clip of a span, beside the frames ``00001.jpg``, ... in ``folder``."""
    first, last = frame_span(start, end)
    return f"{folder}/video_{first:05d}_{last:05d}.mp4"


def folder_clip(folder: str, fps: int) -> str:
    """Path of the clip of all frames in ``folder``, in the order of their names; beside it."""
    return f"{folder}_{fps}fps.mp4"


def write_frame_clip(clip: Path) -> bool:
    """Make ``clip``, a path of :func:`frame_clip` or :func:`folder_clip`, from its frames. False
    if it is there or if there are no frames for it."""
    if clip.exists():
        return False
    whole = _FOLDER_CLIP.fullmatch(clip.name)
    if whole:
        files = sorted((clip.parent / whole[1]).glob("*.jpg"))
    else:
        first, last = (int(n) for n in clip.stem.split("_")[1:])
        files = [clip.parent / f"{n:05d}.jpg" for n in range(first, last + 1)]
        files = [f for f in files if f.is_file()]
    if not files:
        return False
    part = clip.with_name(f".{clip.name}.{os.getpid()}.part")
    if whole:
        encode(map(_even_picture, files), part, int(whole[2]), multiple=2)
    else:
        encode(map(_picture, files), part)
    os.replace(part, clip)
    return True


def _picture(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _even_picture(file: Path) -> np.ndarray:
    """Stretched by at most a pixel to an even size, so that padding does not move any point."""
    with Image.open(file) as image:
        size = (image.width + image.width % 2, image.height + image.height % 2)
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))


def encode(
    pictures: Iterable[np.ndarray],
    target: Path,
    fps: int = FRAMES_PER_SECOND,
    multiple: int = MULTIPLE,
) -> None:
    """An H.264 mp4 file of pictures uint8 ``[h, w, 3]``, all padded to the size of the first one,
    and this to a multiple of ``multiple``."""
    with av.open(str(target), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"
        canvas: np.ndarray | None = None
        for pixels in pictures:
            if canvas is None:
                h, w = (-(-size // multiple) * multiple for size in pixels.shape[:2])
                canvas = np.zeros((h, w, 3), np.uint8)
                stream.height, stream.width = h, w
            pixels = pixels[: canvas.shape[0], : canvas.shape[1]]
            canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
            container.mux(stream.encode(av.VideoFrame.from_ndarray(canvas, format="rgb24")))
        container.mux(stream.encode(None))


def is_frame_clip(path: str) -> bool:
    """Whether ``path`` is one of :func:`frame_clip`."""
    name = path.rpartition("/")[2]
    return bool(re.fullmatch(r"video_\d+_\d+\.mp4", name) or _FOLDER_CLIP.fullmatch(name))
