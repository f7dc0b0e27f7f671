"""Pieces of the pictures of pruning: frames with dim cells, heat maps, kept counts, text.

A picture is a stack of blocks; a block is a Pillow image.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache

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
SAMPLE: Colour = (150, 190, 230)
"""What the legend shows as kept and as removed."""
GRID_LINE, HATCH = 0.22, 0.18
"""Opacity of the white lines between cells and over the removed ones."""
HEAT = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
"""Stops of the score colours, low to high: dark violet, blue, teal, green, yellow."""

DIM, DIM_COLOUR = 0.3, 0.15
"""A dropped cell keeps this share of its brightness, and of that this share of its colour."""
TITLE, TEXT, SMALL = 23, 16, 14
"""Font sizes in pixels."""
FULL_WIDTH = 1000
"""Fonts grow with wider pictures."""
WORD_GAP = 7
"""Pixels between the parts of an entry of the legend."""
PLOT_TICKS = 8
"""At most this many time stamps stand under the kept counts."""


# --- frames ------------------------------------------------------------------------------------


def resized(frame: np.ndarray, width: int) -> Image.Image:
    """``frame`` uint8 ``[h, w, 3]`` at ``width`` pixels and its own aspect ratio."""
    height = max(round(width * frame.shape[0] / frame.shape[1]), 1)
    return Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)


def light_cells(frame: Image.Image, keep: np.ndarray, edges: CellEdges) -> Image.Image:
    """``frame`` with the cells outside ``keep`` (bool [rows, columns]) dark, nearly grey and
    hatched (a black frame cannot get darker), a thin grid, and a line around the kept regions."""
    pixels = np.asarray(frame, dtype=np.float32)
    grey = luminance(pixels)
    lit = edges.spread(keep, frame.size)
    out = np.where(lit[..., None], pixels, DIM * (grey + DIM_COLOUR * (pixels - grey)))
    y, x = np.indices(lit.shape)
    hatch = ~lit & ((x + y) % max(7, frame.width // 40) == 0)
    out[hatch] += HATCH * (255 - out[hatch])
    ys, xs = edges.pixels(frame.size)
    grid = np.zeros_like(lit)
    grid[ys[1:-1]] = grid[:, xs[1:-1]] = True
    out[grid] += GRID_LINE * (255 - out[grid])
    return outlined(out, lit)


def heat_map(
    frame: Image.Image, values: np.ndarray, keep: np.ndarray, edges: CellEdges
) -> Image.Image:
    """``values`` [rows, columns] of a ``HeatScale`` as colours over the grey frame, and the line
    around the regions of ``keep``."""
    colours = heat(edges.spread(values, frame.size))
    grey = luminance(np.asarray(frame, dtype=np.float32))
    return outlined(0.7 * colours + 0.3 * grey, edges.spread(keep, frame.size))


def outlined(pixels: np.ndarray, lit: np.ndarray) -> Image.Image:
    """``pixels`` [h, w, 3] with a closed line along the inner border of the regions of ``lit``
    (bool [h, w]); a thin dark line beside it sets it off from bright pixels."""
    thick = max(2, round(lit.shape[1] / 160))
    pixels[lit & ~shrunk(lit, thick + 1)] = DROPPED
    pixels[lit & ~shrunk(lit, thick)] = EDGE
    return Image.fromarray(pixels.round().astype(np.uint8))


def shrunk(mask: np.ndarray, by: int) -> np.ndarray:
    """``mask`` without what lies less than ``by`` pixels inside its border or the image's."""
    out = np.pad(mask, by)
    for axis in (0, 1):
        shifts = [np.roll(out, shift, axis) for shift in range(-by, by + 1)]
        out = np.logical_and.reduce(shifts)
    return out[by:-by, by:-by]


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
    """The tokens kept of all, and what the colours mean, in as many lines as it takes."""
    size, kept = scaled(SMALL, width), int(keep.sum())
    total = f"visual tokens kept: {kept} / {keep.size} ({kept / keep.size:.0%})"
    items = [words(total, scaled(TEXT, width), INK)]
    sample = Image.new("RGB", (2 * size, round(1.3 * size)), SAMPLE)
    whole = CellEdges.of_patches((1, 1), (1, 1))
    for name, lit in (("kept", True), ("removed", False)):
        cell = light_cells(sample, np.array([[lit]]), whole)
        items.append(row([cell, words(name, size)], WORD_GAP))
    if scale is not None and not scale.flat:
        cut = scale.cut(keep)
        high = scale.high if cut is None else f"{scale.high}, line: the cut"
        low, bar = words(f"score {scale.low}", size), colour_bar(cut, sample.height)
        items.append(row([low, bar, words(high, size)], WORD_GAP))
    return flow(items, width, round(1.5 * size))


def colour_bar(cut: float | None, height: int) -> Image.Image:
    """The score colours, with a white line on a dark one at ``cut`` in [0, 1]."""
    colours = heat(np.linspace(0, 1, 8 * height)[None].repeat(height, 0))
    bar = Image.fromarray(colours.astype(np.uint8))
    if cut is not None:
        x = 3 + round(cut * (bar.width - 7))
        for half, colour in ((3, DROPPED), (1, PAPER)):
            ImageDraw.Draw(bar).rectangle((x - half, 0, x + half, height), colour)
    return bar


def words(text: str, size: int, colour: Colour = FAINT) -> Image.Image:
    """One line, as wide as it is."""
    block = Image.new("RGB", (int(font(size).getlength(text)) + 1, round(1.4 * size)), PAPER)
    ImageDraw.Draw(block).text((0, 0), text, colour, font(size))
    return block


def flow(items: Sequence[Image.Image], width: int, gap: int) -> Image.Image:
    """Items side by side in lines of ``width``."""
    lines: list[list[Image.Image]] = [[]]
    for item in items:
        if lines[-1] and sum(one.width + gap for one in lines[-1]) + item.width > width:
            lines.append([])
        lines[-1].append(item)
    return stack([row(line, gap, width) for line in lines], 4)


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


def row(tiles: Sequence[Image.Image], gap: int, width: int = 0) -> Image.Image:
    """Tiles side by side, in a block as wide as they are or of ``width``."""
    width = width or sum(tile.width + gap for tile in tiles) - gap
    block = Image.new("RGB", (width, max(tile.height for tile in tiles)), PAPER)
    x = 0
    for tile in tiles:
        block.paste(tile, (x, 0))
        x += tile.width + gap
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


def data_uri(frame: np.ndarray, width: int, quality: int) -> str:
    """``frame`` as a JPEG of at most ``width`` pixels, the value of an ``src``."""
    out = io.BytesIO()
    resized(frame, min(width, frame.shape[1])).save(out, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), "this Pillow was built without FreeType"
    return found
