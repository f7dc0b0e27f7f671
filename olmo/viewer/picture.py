"""A picture of what token pruning keeps: the sampled frames of a video, its dropped cells dark.

``kept_cells`` asks the vision backbone of a model, ``pruning_picture`` draws: title, rows of
tiles (one per frame), kept counts, legend, caption.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from olmo.nn.temporal_vision_backbone import TemporalVisionBackbone
from olmo.patch_grid import pooled_grid
from olmo.types import MultimodalType
from olmo.viewer import draw
from olmo.viewer.cells import CellEdges, HeatScale
from olmo.viewer.draw import SMALL

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config

MARGIN, GAP = 24, 14
LEGEND_WIDTH = 420
"""A picture of one or two small frames is at least this wide."""


def cell_grid(config: Molmo2Config) -> tuple[int, int]:
    """Cells of one video frame (rows, columns)."""
    video = config.mm_preprocessor.video
    grid = config.vision_backbone.vit.image_num_patch
    return pooled_grid(*grid, video.pooling_h, video.pooling_w)


@torch.no_grad()
def kept_cells(model: Molmo2, batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """What the vision backbone of ``model`` keeps of one video.

    ``batch`` is a collated batch of one row with one video. Returns keep, bool
    ``[frames, cells]``, and the scores, float32 of the same shape (high = keep), or None if
    nothing was scored. Raises ``ValueError`` for any other batch.
    """
    n_rows = batch["images"].shape[0]
    real = batch["num_images"].flatten() > 0
    counts = batch["num_images"].flatten()[real].tolist()
    kinds = batch["multimodal_type"].flatten()[real].tolist()
    if n_rows != 1 or kinds != [MultimodalType.VIDEO]:
        raise ValueError(f"expected one row with one video, got {n_rows} rows and inputs {kinds}")
    backbone, was_training = model.vision_backbone.eval(), model.training
    images, pooling = (batch[k].to(model.device) for k in ("images", "token_pooling"))
    try:
        out = backbone(images, None, pooling, batch["num_images"], batch["multimodal_type"])
    finally:
        backbone.train(was_training)
    n_frames = counts[0]
    has_row = (pooling >= 0).any(-1)
    keep = out.keep[has_row].view(n_frames, -1).cpu().numpy()
    if out.scores is None or not isinstance(backbone, TemporalVisionBackbone):
        return keep, None
    return keep, out.scores[:n_frames].float().cpu().numpy()


def pruning_picture(
    frames: np.ndarray,
    keep: np.ndarray,
    grid_shape: tuple[int, int] | CellEdges,
    timestamps: Sequence[float] | np.ndarray,
    title: str = "",
    caption: Sequence[tuple[str, str]] = (),
    scores: np.ndarray | None = None,
    columns: int = 4,
    width: int = 200,
    plot: bool = False,
    protected: np.ndarray | None = None,
    by_rank: bool = False,
) -> Image.Image:
    """Draw the frames of a video with kept cells lit and dropped ones dimmed.

    Args:
        frames: uint8 ``[n, h, w, 3]`` RGB.
        keep: bool ``[n, cells]``, cells in raster order.
        grid_shape: cells (rows, columns) that divide a frame evenly, or the borders of the cells.
        timestamps: seconds, one per frame.
        caption: (label, text) lines below the picture, such as question and answer.
        scores: ``[n, cells]``, drawn as a heat map below each row of frames.
        columns: frames per row.
        width: of a frame in the picture, in pixels.
        plot: draw the kept counts over time.
        protected: bool ``[n]``, frames that the method keeps whole although they have scores.
        by_rank: colour the heat map by the order of the scores, not by their values.

    Raises:
        ValueError: the numbers of frames, cells and time stamps do not agree.
    """
    edges = grid_shape if isinstance(grid_shape, CellEdges) else CellEdges.even(*grid_shape)
    n, n_cells = len(frames), edges.n_cells
    for name, cells in (("keep", keep), ("scores", keep if scores is None else scores)):
        if cells.shape != (n, n_cells):
            raise ValueError(f"{name} is {cells.shape}, expected {n} frames of {n_cells} cells")
    if len(timestamps) != n or n == 0:
        raise ValueError(f"{len(timestamps)} time stamps for {n} frames")
    scale = None
    if scores is not None:
        scale = HeatScale.of_ranks(scores) if by_rank else HeatScale.of_scores(scores)
    columns = min(columns, n)
    total = max(columns * width + (columns - 1) * GAP, LEGEND_WIDTH)
    header = max(SMALL, min(draw.scaled(SMALL, total), width // 13))
    tiles = []
    for i, frame in enumerate(frames):
        lit = keep[i].reshape(edges.shape)
        new = protected is not None and bool(protected[i])
        above = tile_header(float(timestamps[i]), lit, width, new, header)
        tiles.append(draw.stack([above, *frame_and_scores(frame, i, lit, edges, scale, width)], 4))
    blocks = (
        [draw.text_block([("", title)], total, draw.scaled(draw.TITLE, total))] if title else []
    )
    blocks += [draw.row(tiles[i : i + columns], total, GAP) for i in range(0, n, columns)]
    if plot:
        blocks.append(draw.count_plot(keep.sum(1), n_cells, timestamps, total))
    blocks.append(draw.legend(keep, scale, total))
    if caption:
        blocks.append(draw.text_block(caption, total, draw.scaled(draw.TEXT, total)))
    return draw.stack(blocks, GAP, MARGIN)


def frame_and_scores(
    frame: np.ndarray,
    index: int,
    lit: np.ndarray,
    edges: CellEdges,
    scale: HeatScale | None,
    width: int,
) -> list[Image.Image]:
    """The frame at ``index`` of a video with the cells of ``lit`` (bool [rows, columns]) lit, and,
    with a ``scale``, its heat map or the reason why it has none."""
    small = draw.resized(frame, width)
    tiles = [draw.light_cells(small, lit, edges)]
    if scale is not None:
        if index == 0:  # it stays whole whatever its scores are
            tiles.append(draw.pale_frame(small, "first frame: always kept"))
        elif scale.flat:
            tiles.append(draw.pale_frame(small, "all scores are equal"))
        else:
            values = scale.values[index].reshape(edges.shape)
            tiles.append(draw.heat_map(small, values, lit, edges))
    return tiles


def answer_lines(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Caption of a scored row of ``predictions.json``: question, options, answer, prediction."""
    lines = [("question", str(row["question"])), ("answer", str(row["reference"]))]
    options = row.get("options")
    if options and row["reference"] in options:
        lines.insert(1, ("options", " / ".join(options)))
    elif options:
        texts = dict(zip(string.ascii_uppercase, options, strict=False))
        lines[1] = ("answer", f"{row['reference']}. {texts[row['reference']]}")
        lines.insert(1, ("options", " / ".join(f"{k}. {v}" for k, v in texts.items())))
    verdict = "right" if row["correct"] else "wrong"
    return [*lines, ("prediction", f"{row['prediction'] or 'nothing'} ({verdict})")]


def tile_header(
    time: float, cells: np.ndarray, width: int, new: bool = False, size: int = SMALL
) -> Image.Image:
    """Time stamp on the left, kept cells on the right; ``new``: why all of them are."""
    block = Image.new("RGB", (width, size + 6), draw.PAPER)
    pen = ImageDraw.Draw(block)
    pen.text((0, 1), f"{time:.1f} s", draw.INK, draw.font(size))
    text = "new: all kept" if new else f"{int(cells.sum())} / {cells.size} kept"
    pen.text((width, 1), text, draw.FAINT, draw.font(size), "ra")
    return block
