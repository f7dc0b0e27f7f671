"""Pictures of what token pruning keeps: the sampled frames of a video, its dropped cells dark.

Each is a sheet: title, frames, kept counts, legend, caption. ``pruning_picture`` shows rows of
frames with their score heat maps below, ``pruning_frames`` one frame beside its own at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from olmo.viewer import draw
from olmo.viewer.cells import HeatScale
from olmo.viewer.kept import KeptVideo

MARGIN, GAP = 24, 14
LEGEND_WIDTH = 420
"""A picture of one or two small frames is at least this wide."""

Caption = Sequence[tuple[str, str]]
"""(label, text) lines below a picture, such as question and answer."""


def pruning_picture(
    kept: KeptVideo,
    title: str = "",
    caption: Caption = (),
    columns: int = 4,
    width: int = 200,
    plot: bool = False,
    by_rank: bool = False,
) -> Image.Image:
    """All frames, ``columns`` in a row and ``width`` pixels wide, and with ``plot`` the kept counts
    over time; ``by_rank`` colours the heat maps by the order of the scores, not by their values."""
    n = len(kept.video.frames)
    columns = min(columns, n)
    total = max(columns * width + (columns - 1) * GAP, LEGEND_WIDTH)
    sheet = _Sheet(kept, kept.heat_scale(by_rank), title, caption, total)
    size = max(draw.SMALL, min(draw.scaled(draw.SMALL, total), width // 13))
    tiles = [
        draw.stack([sheet.header(i, width, size), *sheet.pictures(i, width)], 4) for i in range(n)
    ]
    rows = [draw.row(tiles[i : i + columns], GAP, total) for i in range(0, n, columns)]
    return sheet.whole([*rows, sheet.counts()] if plot else rows)


def pruning_frames(
    kept: KeptVideo, title: str, caption: Caption, width: int, by_rank: bool
) -> Iterator[Image.Image]:
    """A picture of each frame in turn, all of one size, for a video; ``width`` is a frame's."""
    total = 2 * width + GAP
    sheet = _Sheet(kept, kept.heat_scale(by_rank), title, caption, total)
    for i in range(len(kept.video.frames)):
        header = sheet.header(i, total, draw.scaled(draw.TEXT, total))
        pictures = draw.row(sheet.pictures(i, width), GAP, total)
        yield sheet.whole([draw.stack([header, pictures], 4), sheet.counts(i)])


@dataclass(frozen=True)
class _Sheet:
    """What all pictures of a video have in common; blocks are ``width`` pixels wide."""

    kept: KeptVideo
    scale: HeatScale | None
    title: str
    caption: Caption
    width: int

    def whole(self, blocks: Sequence[Image.Image]) -> Image.Image:
        """``blocks`` between the title and legend and caption."""
        above, below = [], [draw.legend(self.kept.keep, self.scale, self.width)]
        if self.title:
            title = draw.scaled(draw.TITLE, self.width)
            above = [draw.text_block([("", self.title)], self.width, title)]
        if self.caption:
            text = draw.scaled(draw.TEXT, self.width)
            below.append(draw.text_block(self.caption, self.width, text))
        return draw.stack([*above, *blocks, *below], GAP, MARGIN)

    def counts(self, current: int | None = None) -> Image.Image:
        """The kept counts over time."""
        counts, times = self.kept.keep.sum(1), self.kept.video.timestamps
        return draw.count_plot(counts, self.kept.edges.n_cells, times, self.width, current)

    def header(self, index: int, width: int, size: int) -> Image.Image:
        """Time stamp on the left; on the right how many cells are kept, or why all of them are."""
        cells, protected = self.kept.keep[index], self.kept.protected
        text = f"{int(cells.sum())} / {cells.size} kept"
        if protected is not None and protected[index]:
            text = "new: all kept"
        block = Image.new("RGB", (width, size + 6), draw.PAPER)
        pen, font = ImageDraw.Draw(block), draw.font(size)
        pen.text((0, 1), f"{self.kept.video.timestamps[index]:.1f} s", draw.INK, font)
        pen.text((width, 1), text, draw.FAINT, font, "ra")
        return block

    def pictures(self, index: int, width: int) -> list[Image.Image]:
        """The frame and, where cells are scored, its heat map or the reason why it has none."""
        edges, scale = self.kept.edges, self.scale
        lit = self.kept.keep[index].reshape(edges.shape)
        frame = draw.resized(self.kept.video.frames[index], width)
        tiles = [draw.light_cells(frame, lit, edges)]
        if scale is not None:
            if index == 0:  # it stays whole whatever its scores are
                tiles.append(draw.pale_frame(frame, "first frame: always kept"))
            elif scale.flat:
                tiles.append(draw.pale_frame(frame, "all scores are equal"))
            else:
                values = scale.values[index].reshape(edges.shape)
                tiles.append(draw.heat_map(frame, values, lit, edges))
        return tiles
