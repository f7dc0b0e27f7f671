"""A video of pruning: each sampled frame, dim where it is pruned, beside its score heat map."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from olmo.data.video_container import file_url

X264 = {"crf": "16", "preset": "medium", "tune": "stillimage"}


def write_video(path: Path, pictures: Iterable[Image.Image], fps: float = 2.0) -> None:
    """Write an H.264 MP4 of ``pictures`` of one size, ``fps`` of them per second; odd sides grow by
    a pixel of the colour in the corner."""
    with av.open(file_url(path), "w", format="mp4", options={"movflags": "faststart"}) as out:
        rate = Fraction(fps).limit_denominator(1000)
        stream = out.add_stream("libx264", rate=rate, options=X264)
        stream.pix_fmt = "yuv420p"
        for i, picture in enumerate(pictures):
            odd = (picture.height % 2, picture.width % 2)
            pixels = np.pad(np.asarray(picture), [(0, odd[0]), (0, odd[1]), (0, 0)], "edge")
            if i == 0:
                stream.height, stream.width = pixels.shape[:2]
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
