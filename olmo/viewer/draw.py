"""Pieces of the pictures of pruning: frames with dim cells, heat maps, kept counts, text.

A picture is a stack of blocks; a block is a Pillow image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from olmo.viewer.cells import CellEdges, HeatScale

Colour = tuple[int, int, int]

PAPER: Colour = (250, 250, 251)
INK: Colour = (28, 32, 40)
FAINT: Colour = (112, 118, 130)
PALE: Colour = (226, 228, 233)
EDGE: Colour = (255, 176, 32)
ACCENT: Colour = (214, 104, 16)
DROPPED: Colour = (30, 31, 34)
GRID_LINE = (255, 255, 255, 60)
"""Drawn over the frames, hence the opacity."""
HEAT = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
"""Stops of the score colours, low to high: dark violet, blue, teal, green, yellow."""

DIM, DIM_COLOUR = 0.3, 0.15
"""A dropped cell keeps this share of its brightness, and of that this share of its colour."""
TITLE, TEXT, SMALL = 23, 16, 14
"""Font sizes in pixels."""
FULL_WIDTH = 1000
"""Fonts grow with wider pictures."""
PLOT_TICKS = 8
"""At most this many time stamps stand under the kept counts."""


# --- frames ------------------------------------------------------------------------------------


def light_cells(
    frame: Image.Image, keep: np.ndarray, edges: CellEdges | None = None
) -> Image.Image:
    """``frame`` with the cells outside ``keep`` (bool [rows, columns]) dark and nearly grey, a
    thin grid, and a coloured line where kept and dropped cells meet."""
    edges = edges or CellEdges.even(*keep.shape)
    pixels = np.asarray(frame, dtype=np.float32)
    grey = luminance(pixels)
    dimmed = DIM * (grey + DIM_COLOUR * (pixels - grey))
    lit = edges.spread(keep, frame.size)[..., None]
    out = Image.fromarray(np.where(lit, pixels, dimmed).round().astype(np.uint8))
    draw_borders(out, keep, edges, GRID_LINE)
    return out


def draw_borders(
    image: Image.Image, keep: np.ndarray, edges: CellEdges, other: tuple[int, ...] | None
) -> None:
    """Lines between the cells in place: in ``EDGE`` where kept and dropped ones meet, else in
    ``other`` (None: no line)."""
    draw = ImageDraw.Draw(image, "RGBA")
    thick = max(2, round(image.width / 200))
    ys, xs = edges.pixels(image.size)
    for r, (top, bottom) in enumerate(pairwise(ys)):
        for c, (left, right) in enumerate(pairwise(xs)):
            for cell, line in (
                ((r, c + 1), (right, top, right, bottom)),
                ((r + 1, c), (left, bottom, right, bottom)),
            ):
                if cell[0] == keep.shape[0] or cell[1] == keep.shape[1]:
                    continue
                if keep[r, c] != keep[cell]:
                    draw.line(line, fill=EDGE, width=thick)
                elif other is not None:
                    draw.line(line, fill=other, width=1)


def heat_map(
    frame: Image.Image, values: np.ndarray, keep: np.ndarray, edges: CellEdges
) -> Image.Image:
    """``values`` [rows, columns] of a ``HeatScale`` as colours over the grey frame, and the
    border of ``keep``."""
    colours = heat(edges.spread(values, frame.size))
    grey = luminance(np.asarray(frame, dtype=np.float32))
    block = Image.fromarray((0.7 * colours + 0.3 * grey).round().astype(np.uint8))
    draw_borders(block, keep, edges, None)
    return block


def pale_frame(frame: Image.Image, text: str) -> Image.Image:
    """Where a heat map would be: the frame nearly white, with ``text`` across it."""
    grey = luminance(np.asarray(frame, dtype=np.float32)).repeat(3, 2)
    block = Image.fromarray((255 - 0.35 * (255 - grey)).astype(np.uint8))
    lines = wrap(text, frame.width - 8, SMALL)
    for i, line in enumerate(lines):
        y = frame.height // 2 + round((i - (len(lines) - 1) / 2) * 1.3 * SMALL)
        ImageDraw.Draw(block).text((frame.width // 2, y), line, INK, font(SMALL), "mm")
    return block


def heat(values: np.ndarray) -> np.ndarray:
    """Colours, float ``[*, 3]``, of ``values`` in [0, 1]."""
    place = values * (len(HEAT) - 1)
    return np.stack([np.interp(place, range(len(HEAT)), HEAT[:, c]) for c in range(3)], -1)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """``[h, w, 3]`` -> ``[h, w, 1]``, with the weights of ITU-R BT.601."""
    return (pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]


# --- blocks ------------------------------------------------------------------------------------


def count_plot(
    counts: np.ndarray,
    n_cells: int,
    timestamps: Sequence[float] | np.ndarray,
    width: int,
    current: int | None = None,
) -> Image.Image:
    """Kept cells of every frame as bars in front of all its cells, time stamps below.

    ``counts`` int [n] of ``n_cells`` each; a dashed line marks their mean; the bar of frame
    ``current`` stands out.
    """
    letter = scaled(SMALL, width)
    small, size = font(letter), (width, 9 * letter)
    block = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(block)
    left = int(small.getlength(str(n_cells))) + 10
    top, bottom, right = 1.6 * letter, size[1] - 1.6 * letter, width - 1
    draw.text((left, 0), "kept tokens per frame", FAINT, small)
    step = (right - left) / len(counts)
    gap = min(4.0, 0.2 * step)

    def height(count: float) -> float:
        return bottom - (bottom - top) * count / n_cells

    for i, count in enumerate(counts):
        x0, x1 = left + i * step + gap / 2, left + (i + 1) * step - gap / 2
        draw.rectangle((x0, top, max(x1, x0), bottom), PALE)
        if count:
            colour = ACCENT if i == current else EDGE
            draw.rectangle((x0, height(count), max(x1, x0), bottom), colour)
    for label in (0, n_cells):
        draw.text((left - 6, height(label)), str(label), FAINT, small, "rm")
    mean = float(counts.mean())
    for x in range(left, int(right), 9):
        draw.line((x, height(mean), min(x + 4, right), height(mean)), INK, 1)
    draw.text((right, 0), f"- - -  mean {mean:.1f}", INK, small, "ra")
    every = -(-len(counts) // PLOT_TICKS)
    for i in range(0, len(counts), every):
        text = f"{float(timestamps[i]):.1f} s"
        half = small.getlength(text) / 2
        middle = min(max(left + (i + 0.5) * step, left + half), right - half)
        draw.text((middle, bottom + 4), text, FAINT, small, "ma")
    return block


def legend(keep: np.ndarray, scale: HeatScale | None, width: int) -> Image.Image:
    """What the colours mean, and the tokens kept of all."""
    text, small = font(scaled(TEXT, width)), font(scaled(SMALL, width))
    kept, side = int(keep.sum()), round(text.size) - 2
    block = Image.new("RGB", (width, side + 10), PAPER)
    draw = ImageDraw.Draw(block)
    total = f"visual tokens kept: {kept} / {keep.size} ({kept / keep.size:.0%})"
    draw.text((0, 2), total, INK, text)
    x = int(text.getlength(total)) + 24
    for name, colour in (("kept", PAPER), ("removed", DROPPED)):
        draw.rectangle((x, 4, x + side, 4 + side), colour, EDGE)
        draw.text((x + side + 7, 3), name, FAINT, small)
        x += side + 23 + int(small.getlength(name))
    if scale is not None:
        low = f"score {scale.low}"
        ramp = heat(np.linspace(0, 1, 5 * side)[None].repeat(side, 0)).astype(np.uint8)
        start = x + int(small.getlength(low)) + 6
        if start + 5 * side + 6 + small.getlength(scale.high) <= width:
            draw.text((x, 3), low, FAINT, small)
            block.paste(Image.fromarray(ramp), (start, 4))
            draw.text((start + 5 * side + 6, 3), scale.high, FAINT, small)
    return block


def scaled(size: int, width: int) -> int:
    """Font size in a picture whose blocks are ``width`` pixels wide."""
    return round(size * max(1.0, width / FULL_WIDTH))


def text_block(lines: Sequence[tuple[str, str]], width: int, size: int) -> Image.Image:
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


def row(tiles: Sequence[Image.Image], width: int, gap: int) -> Image.Image:
    """Tiles of one width side by side, in a block of ``width``."""
    block = Image.new("RGB", (width, max(tile.height for tile in tiles)), PAPER)
    for i, tile in enumerate(tiles):
        block.paste(tile, (i * (tile.width + gap), 0))
    return block


def stack(blocks: Sequence[Image.Image], gap: int, margin: int = 0) -> Image.Image:
    """Blocks under each other."""
    height = sum(b.height for b in blocks) + gap * (len(blocks) - 1)
    width = max(b.width for b in blocks)
    out = Image.new("RGB", (width + 2 * margin, height + 2 * margin), PAPER)
    y = margin
    for block in blocks:
        out.paste(block, (margin, y))
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
