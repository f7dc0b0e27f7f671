"""A picture of what token pruning keeps: the sampled frames of a video, its dropped cells dark.

``kept_cells`` asks the vision backbone of a model, ``pruning_picture`` draws. The picture is a
stack of blocks of one width: title, rows of tiles (one per frame), legend, caption.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from olmo.nn.temporal_vision_backbone import TemporalVisionBackbone
from olmo.patch_grid import pooled_grid
from olmo.types import MultimodalType

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config

Colour = tuple[int, int, int]

PAPER: Colour = (250, 250, 251)
INK: Colour = (28, 32, 40)
FAINT: Colour = (112, 118, 130)
EDGE: Colour = (255, 176, 32)
DROPPED: Colour = (30, 31, 34)
GRID_LINE = (255, 255, 255, 60)
"""Drawn over the frames, hence the opacity."""
HEAT = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
"""Stops of the score colours, low to high: dark violet, blue, teal, green, yellow."""

DIM, DIM_COLOUR = 0.3, 0.15
"""A dropped cell keeps this share of its brightness, and of that this share of its colour."""
MARGIN, GAP = 24, 14
TITLE, TEXT, SMALL = 23, 16, 14
"""Font sizes in pixels."""
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
    grid_shape: tuple[int, int],
    timestamps: Sequence[float] | np.ndarray,
    title: str = "",
    caption: Sequence[tuple[str, str]] = (),
    scores: np.ndarray | None = None,
    columns: int = 4,
    width: int = 200,
) -> Image.Image:
    """Draw the frames of a video with kept cells lit and dropped ones dimmed.

    Args:
        frames: uint8 ``[n, h, w, 3]`` RGB.
        keep: bool ``[n, cells]``, cells in raster order; they divide a frame evenly.
        grid_shape: cells (rows, columns) of a frame.
        timestamps: seconds, one per frame.
        caption: (label, text) lines below the picture, such as question and answer.
        scores: ``[n, cells]``, drawn as a heat map below each row of frames.
        columns: frames per row.
        width: of a frame in the picture, in pixels.

    Raises:
        ValueError: the numbers of frames, cells and time stamps do not agree.
    """
    n, n_cells = len(frames), grid_shape[0] * grid_shape[1]
    for name, cells in (("keep", keep), ("scores", keep if scores is None else scores)):
        if cells.shape != (n, n_cells):
            raise ValueError(f"{name} is {cells.shape}, expected {n} frames of {n_cells} cells")
    if len(timestamps) != n or n == 0:
        raise ValueError(f"{len(timestamps)} time stamps for {n} frames")
    span = None if scores is None else _score_range(scores)
    tiles = []
    for i, frame in enumerate(frames):
        height = max(round(width * frame.shape[0] / frame.shape[1]), 1)
        small = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        lit = keep[i].reshape(grid_shape)
        parts = [_tile_header(float(timestamps[i]), lit, width), light_cells(small, lit)]
        if scores is not None and span is not None:
            # the first frame of a video stays whole whatever its scores are
            rated = None if i == 0 and n > 1 else scores[i].reshape(grid_shape)
            parts.append(_heat_map(small, rated, span))
        tiles.append(_stack(parts, 4))
    columns = min(columns, n)
    total = max(columns * width + (columns - 1) * GAP, LEGEND_WIDTH)
    rows = [_row(tiles[i : i + columns], total) for i in range(0, n, columns)]
    blocks = [_text_block([("", title)], total, TITLE)] if title else []
    blocks += [*rows, _legend(keep, span, total)]
    if caption:
        blocks.append(_text_block(caption, total, TEXT))
    body = _stack(blocks, GAP)
    picture = Image.new("RGB", (body.width + 2 * MARGIN, body.height + 2 * MARGIN), PAPER)
    picture.paste(body, (MARGIN, MARGIN))
    return picture


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


def light_cells(frame: Image.Image, keep: np.ndarray) -> Image.Image:
    """``frame`` with the cells outside ``keep`` (bool [rows, columns]) dark and nearly grey, a
    thin grid, and a coloured line where kept and dropped cells meet."""
    pixels = np.asarray(frame, dtype=np.float32)
    grey = _luminance(pixels)
    dimmed = DIM * (grey + DIM_COLOUR * (pixels - grey))
    lit = _per_pixel(keep, frame.size)[..., None]
    out = Image.fromarray(np.where(lit, pixels, dimmed).round().astype(np.uint8))
    draw = ImageDraw.Draw(out, "RGBA")
    ys, xs = (_edges(n, size) for n, size in zip(keep.shape, reversed(frame.size), strict=True))
    for r, (top, bottom) in enumerate(pairwise(ys)):
        for c, (left, right) in enumerate(pairwise(xs)):
            for other, line in (
                ((r, c + 1), (right, top, right, bottom)),
                ((r + 1, c), (left, bottom, right, bottom)),
            ):
                if other[0] == keep.shape[0] or other[1] == keep.shape[1]:
                    continue
                meets = keep[r, c] != keep[other]
                draw.line(line, fill=EDGE if meets else GRID_LINE, width=2 if meets else 1)
    return out


# --- blocks ------------------------------------------------------------------------------------


def _tile_header(time: float, cells: np.ndarray, width: int) -> Image.Image:
    """Time stamp on the left, kept cells on the right."""
    block = Image.new("RGB", (width, SMALL + 6), PAPER)
    draw = ImageDraw.Draw(block)
    draw.text((0, 1), f"{time:.1f} s", INK, font(SMALL))
    draw.text((width, 1), f"{int(cells.sum())} / {cells.size} kept", FAINT, font(SMALL), "ra")
    return block


def _heat_map(
    frame: Image.Image, scores: np.ndarray | None, span: tuple[float, float]
) -> Image.Image:
    """Scores as colours over the grey frame; ``scores`` None: a frame that is always kept."""
    grey = np.broadcast_to(_luminance(np.asarray(frame, dtype=np.float32)), (*frame.size[::-1], 3))
    if scores is None:
        block = Image.fromarray((255 - 0.35 * (255 - grey)).astype(np.uint8))
        middle = (frame.width // 2, frame.height // 2)
        ImageDraw.Draw(block).text(middle, "first frame: always kept", INK, font(SMALL), "mm")
        return block
    colours = _heat(_per_pixel(scores, frame.size), span)
    return Image.fromarray((0.7 * colours + 0.3 * grey).astype(np.uint8))


def _legend(keep: np.ndarray, span: tuple[float, float] | None, width: int) -> Image.Image:
    """What the colours mean, and the tokens kept of all."""
    kept = int(keep.sum())
    block = Image.new("RGB", (width, TEXT + 8), PAPER)
    draw = ImageDraw.Draw(block)
    total = f"visual tokens kept: {kept} / {keep.size} ({kept / keep.size:.0%})"
    draw.text((0, 2), total, INK, font(TEXT))
    x = int(font(TEXT).getlength(total)) + 24
    entries = [("kept", PAPER), ("dropped", DROPPED)]
    for name, colour in entries:
        draw.rectangle((x, 4, x + TEXT - 2, 2 + TEXT), colour, EDGE)
        draw.text((x + TEXT + 5, 3), name, FAINT, font(SMALL))
        x += TEXT + 5 + int(font(SMALL).getlength(name)) + 16
    if span is not None and x + 210 <= width:
        low, high = (f"{value:.2g}" for value in span)
        text = f"score {low}"
        draw.text((x, 3), text, FAINT, font(SMALL))
        x += int(font(SMALL).getlength(text)) + 6
        ramp = _heat(np.linspace(*span, 70)[None].repeat(TEXT - 2, 0), span)
        block.paste(Image.fromarray(ramp.astype(np.uint8)), (x, 4))
        draw.text((x + 76, 3), high, FAINT, font(SMALL))
    return block


def _text_block(lines: Sequence[tuple[str, str]], width: int, size: int) -> Image.Image:
    """Labelled lines, wrapped; the texts stand under each other, right of the longest label."""
    indent = max(int(font(size).getlength(f"{label}  ")) if label else 0 for label, _ in lines)
    wrapped = [(label, wrap(text, width - indent, size)) for label, text in lines]
    step = round(1.4 * size)
    block = Image.new("RGB", (width, step * sum(len(texts) for _, texts in wrapped)), PAPER)
    draw, y = ImageDraw.Draw(block), 0
    for label, texts in wrapped:
        draw.text((0, y), label, FAINT, font(size))
        for text in texts:
            draw.text((indent, y), text, INK, font(size))
            y += step
    return block


def _row(tiles: Sequence[Image.Image], width: int) -> Image.Image:
    block = Image.new("RGB", (width, max(tile.height for tile in tiles)), PAPER)
    for i, tile in enumerate(tiles):
        block.paste(tile, (i * (tile.width + GAP), 0))
    return block


def _stack(blocks: Sequence[Image.Image], gap: int) -> Image.Image:
    height = sum(b.height for b in blocks) + gap * (len(blocks) - 1)
    out = Image.new("RGB", (max(b.width for b in blocks), height), PAPER)
    y = 0
    for block in blocks:
        out.paste(block, (0, y))
        y += block.height + gap
    return out


def wrap(text: str, width: int, size: int) -> list[str]:
    """Lines of at most ``width`` pixels, broken at spaces; a longer word has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(size).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), "this Pillow was built without FreeType"
    return found


# --- pixels ------------------------------------------------------------------------------------


def _edges(n: int, size: int) -> list[int]:
    """Pixel positions of the borders of ``n`` cells, both ends included."""
    return [round(i * size / n) for i in range(n + 1)]


def _per_pixel(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``cells`` [rows, columns] spread over an image of ``size`` (width, height)."""
    heights, widths = (np.diff(_edges(n, s)) for n, s in zip(cells.shape, size[::-1], strict=True))
    return cells.repeat(heights, 0).repeat(widths, 1)


def _luminance(pixels: np.ndarray) -> np.ndarray:
    """``[h, w, 3]`` -> ``[h, w, 1]``, with the weights of ITU-R BT.601."""
    return (pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]


def _score_range(scores: np.ndarray) -> tuple[float, float]:
    """Lowest and highest score behind the first frame, which is never pruned."""
    later = scores[1:] if len(scores) > 1 else scores
    return float(later.min()), float(later.max())


def _heat(values: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """Colours, float ``[*, 3]``, of ``values`` between the ends of ``span``."""
    place = (values - span[0]) / max(span[1] - span[0], 1e-12) * (len(HEAT) - 1)
    return np.stack([np.interp(place, range(len(HEAT)), HEAT[:, c]) for c in range(3)], -1)
