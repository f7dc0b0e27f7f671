"""A video of pruning: each sampled frame, dim where it is pruned, beside its score heat map."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from olmo.data.video_container import file_url
from olmo.viewer import draw
from olmo.viewer.picture import GAP, MARGIN, frame_and_scores, tile_header
from olmo.viewer.scores import ScoredVideo

X264 = {"crf": "16", "preset": "medium", "tune": "stillimage"}


def write_pruning_video(
    path: Path,
    scored: ScoredVideo,
    title: str,
    fps: float = 2.0,
    width: int = 520,
    by_rank: bool = False,
) -> None:
    """Write an H.264 MP4 of one picture per sampled frame.

    ``fps`` pictures are shown per second; ``width`` is that of a frame, in pixels; ``by_rank``
    colours the heat map by the order of the scores, not by their values.
    """
    with av.open(file_url(path), "w", format="mp4", options={"movflags": "faststart"}) as out:
        rate = Fraction(fps).limit_denominator(1000)
        stream = out.add_stream("libx264", rate=rate, options=X264)
        stream.pix_fmt = "yuv420p"
        for i, picture in enumerate(pruning_frames(scored, title, width, by_rank)):
            if i == 0:
                stream.width, stream.height = picture.size
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def pruning_frames(
    scored: ScoredVideo, title: str, width: int, by_rank: bool
) -> Iterator[Image.Image]:
    """Pictures of one size, both sides even."""
    keep, protected, edges = scored.keep(), scored.protected(), scored.edges
    scale = scored.heat_scale(by_rank)
    total = 2 * width + GAP
    text = draw.scaled(draw.TEXT, total)
    above = draw.text_block([("", title)], total, draw.scaled(draw.TITLE, total))
    below = draw.text_block(scored.caption(), total, text)
    key = draw.legend(keep, scale, total)
    for i, frame in enumerate(scored.video.frames):
        lit, time = keep[i].reshape(edges.shape), float(scored.video.timestamps[i])
        tiles = frame_and_scores(frame, i, lit, edges, scale, width)
        header = tile_header(time, lit, total, bool(protected[i]), text)
        plot = draw.count_plot(keep.sum(1), edges.n_cells, scored.video.timestamps, total, i)
        pictures = draw.stack([header, draw.row(tiles, total, GAP)], 4)
        whole = draw.stack([above, pictures, plot, key, below], GAP, MARGIN)
        size = (-(-whole.width // 2) * 2, -(-whole.height // 2) * 2)
        even = Image.new("RGB", size, draw.PAPER)
        even.paste(whole)
        yield even
