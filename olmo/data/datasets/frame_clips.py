"""Videos that are published as folders of frames at 3 frames per second (TVQA, MVBench): where the
clip of a time span lies, or ``video.mp4`` of all frames, and how it is put together once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from olmo.files import whole_file
from olmo.preprocessing.images import load_image

FRAMES_PER_SECOND = 3
MULTIPLE = 16
"""Width and height are padded to a multiple of this, at the bottom and at the right."""

WHOLE = "video.mp4"
PICTURES = (".jpg", ".jpeg", ".png")
_PARTS = re.compile(r"(\d+)").split


def frame_span(start: float, end: float) -> tuple[int, int]:
    """First and last frame number (from 1) of the span ``start`` to ``end``, in seconds."""
    return int(FRAMES_PER_SECOND * start) + 1, int(FRAMES_PER_SECOND * end)


def frame_clip(folder: str, start: float, end: float) -> str:
    """Path of the clip of a span, beside the frames ``00001.jpg``, ... in ``folder``."""
    first, last = frame_span(start, end)
    return f"{folder}/video_{first:05d}_{last:05d}.mp4"


def write_frame_clip(clip: Path) -> bool:
    """Make ``clip``, a path of :func:`is_frame_clip`, from the frames beside it. False if it is
    there or if there are no frames for it."""
    if clip.exists():
        return False
    if clip.name == WHOLE:
        files = natural_order(f for f in clip.parent.glob("*") if f.suffix in PICTURES)
    else:
        first, last = (int(n) for n in clip.stem.split("_")[1:])
        files = [clip.parent / f"{n:05d}.jpg" for n in range(first, last + 1)]
        files = [f for f in files if f.is_file()]
    if not files:
        return False
    with whole_file(clip) as part:
        encode(files, part)
    return True


def natural_order(files: Iterable[Path]) -> list[Path]:
    """Sorted, with numbers in the names by their value."""
    return sorted(files, key=lambda f: [int(p) if p.isdecimal() else p for p in _PARTS(f.name)])


def encode(files: Iterable[Path], target: Path) -> None:
    """An H.264 mp4 file of picture files, all padded to the size of the first one."""
    import av  # imported late: only this needs it, and the names of clips do not

    from olmo.data.video_container import file_url

    with av.open(file_url(target), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.pix_fmt = "yuv420p"
        canvas: np.ndarray | None = None
        for file in files:
            pixels = load_image(file)
            if canvas is None:
                h, w = (-(-size // MULTIPLE) * MULTIPLE for size in pixels.shape[:2])
                canvas = np.zeros((h, w, 3), np.uint8)
                stream.height, stream.width = h, w
            pixels = pixels[: canvas.shape[0], : canvas.shape[1]]
            canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
            container.mux(stream.encode(av.VideoFrame.from_ndarray(canvas, format="rgb24")))
        container.mux(stream.encode(None))


def is_frame_clip(path: str) -> bool:
    """Whether ``path`` is one of :func:`frame_clip`, or ``video.mp4``, the whole folder."""
    return re.fullmatch(r"video(_\d+_\d+)?\.mp4", path.rpartition("/")[2]) is not None
