"""An image as tokens: one crop of the whole image, then overlapping tiles of an enlarged one.

The image is squashed to the canvas of ``rows x cols`` tiles that fits it best. Neighbouring tiles
overlap by the margins of both, so that the ViT sees context on every inner side; in an overlap
each patch is taken from the tile that owns it, so the canvas is one seamless grid of patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from olmo.config import Config
from olmo.patch_grid import POOL, group_windows, join_pooling, pooled_grid, pooling_windows
from olmo.preprocessing.images import cell_tokens, resize_frames
from olmo.tokenizer import MolmoTokenizer

Size = tuple[int, int]
"""Height and width."""


@dataclass
class ImagePreprocessorConfig(Config):
    """How images are cut into crops and written into the token row.

    Limits and windows with ``multi_image`` in their name hold for examples with a list of images.
    """

    crop_mode: Literal["overlap-and-resize-c2", "resize"] = "overlap-and-resize-c2"
    """``resize``: the whole image alone, without tiles."""
    max_crops: int = 8
    """Most tiles of an image; the crop of the whole image comes on top."""
    high_res_max_crops: int = 24
    p_high_res: float = 0.0
    """How often training shows a single image with ``high_res_max_crops`` instead. An example's
    own ``p_high_res`` goes before it."""
    overlap_margins: tuple[int, int] = (4, 4)
    """Patches that a tile leaves to its neighbour: left and top, right and bottom."""
    pooling_w: int = 2
    pooling_h: int = 2
    max_images: int | None = 5
    """Images of an example; further ones are left out. None: no lists of images."""
    max_multi_image_crops: int = 8
    multi_image_pooling_w: int = 2
    multi_image_pooling_h: int = 2
    use_col_tokens: bool = True
    """``<im_col>`` behind every row of the tiles' tokens."""
    use_single_crop_col_tokens: bool | None = False
    """The same for the whole image; None follows ``use_col_tokens``."""
    use_single_crop_start_token: bool = True
    """``<low_res_im_start>`` before the whole image if tiles follow; otherwise ``<im_start>``."""

    def __post_init__(self) -> None:
        self.at_least(1, "max_crops", "high_res_max_crops", "max_images", "max_multi_image_crops")
        self.in_range(
            POOL, "pooling_h", "pooling_w", "multi_image_pooling_h", "multi_image_pooling_w"
        )
        self.in_range("[0, 1]", "p_high_res")
        self.in_range("[0, inf)", "overlap_margins")

    def pooling(self, multi_image: bool) -> Size:
        """Window (height, width) in patches."""
        if multi_image:
            return self.multi_image_pooling_h, self.multi_image_pooling_w
        return self.pooling_h, self.pooling_w

    def fits(self, crop_grid: Size) -> bool:
        """Whether the margins leave a part of a crop of ``crop_grid`` patches."""
        return self.crop_mode == "resize" or min(crop_grid) > sum(self.overlap_margins)

    def tilings(self, max_crops: int) -> list[Size]:
        """Every (rows, columns) of at most ``max_crops`` tiles, by their number, then by rows;
        (0, 0), the whole image alone, where images are not cut."""
        if self.crop_mode == "resize":
            return [(0, 0)]
        rows = range(1, max_crops + 1)
        found = [(r, c) for r in rows for c in range(1, max_crops // r + 1)]
        return sorted(found, key=lambda t: (t[0] * t[1], t[0]))

    def most_crops(self) -> int:
        """Of one example: a single image, or all of a list."""
        cut = self.crop_mode != "resize"
        single = 1 + cut * max(self.max_crops, self.high_res_max_crops)
        return max(single, (self.max_images or 0) * (1 + cut * self.max_multi_image_crops))


@dataclass(frozen=True)
class ImageLayout:
    """How an image is cut, pooled and written; depends on its size alone.

    Attributes:
        tiles: rows and columns of tiles, (0, 0) for the whole image alone.
        step: patches from one tile to the next.
        low: rows and columns of tokens of the whole image.
        high: the same of the tiles together.
        pooling: int64 ``[tokens, window]``, patches of each ``<im_patch>`` token: the whole
            image's, then the tiles'. Patch ids run through the crops; -1 is an empty slot.
    """

    tiles: Size
    step: Size
    low: Size
    high: Size
    pooling: np.ndarray


def image_layout(
    config: ImagePreprocessorConfig,
    image_size: Size,
    crop_grid: Size,
    patch: int,
    max_crops: int,
    multi_image: bool = False,
) -> ImageLayout:
    """Layout of an image of ``image_size`` pixels for crops of ``crop_grid`` patches of
    ``patch x patch`` pixels, with at most ``max_crops`` tiles.

    Raises ``ValueError`` when the margins leave nothing of a crop.
    """
    if not config.fits(crop_grid):
        raise ValueError(
            f"image.overlap_margins {config.overlap_margins} leave nothing of a crop of "
            f"{crop_grid[0]} x {crop_grid[1]} patches"
        )
    margin = sum(config.overlap_margins)
    beyond = (image_size[0] - margin * patch, image_size[1] - margin * patch)
    step = (crop_grid[0] - margin, crop_grid[1] - margin)
    in_pixels = (step[0] * patch, step[1] * patch)
    tiles = select_tiling(beyond, in_pixels, config.tilings(max_crops))
    pool = config.pooling(multi_image)
    windows, low = pooling_windows(*crop_grid, *pool), pooled_grid(*crop_grid, *pool)
    if tiles == (0, 0):
        return ImageLayout(tiles, step, low, (0, 0), windows)
    canvas = tile_patches(tiles, crop_grid, config.overlap_margins)
    rows, cols = canvas.shape
    high, n_patches = pooled_grid(rows, cols, *pool), [crop_grid[0] * crop_grid[1], 0]
    pooling = join_pooling([windows, group_windows(canvas, *pool)], n_patches)
    return ImageLayout(tiles, step, low, high, pooling)


def select_tiling(size: Size, step: Size, tilings: list[Size]) -> Size:
    """One of ``tilings`` (rows and columns) for an image of ``size`` pixels beyond the margins
    (taken as at least 1) and tiles that add ``step`` pixels each.

    The smallest enlargement that fills the tiles, or the least reduction if all reduce; of equal
    ones the first. In float32, as checkpoints were trained.
    """
    pixels = np.array(tilings, dtype=np.float32) * np.array(step, dtype=np.float32)
    scale = (pixels / np.maximum(np.array(size, dtype=np.float32), 1)).min(1)
    if (scale < 1).all():
        return tilings[int(scale.argmax())]
    return tilings[int(np.where(scale < 1, np.inf, scale).argmin())]


def tile_patches(tiles: Size, crop_grid: Size, margins: Size) -> np.ndarray:
    """Patch id of every place of the canvas, int64 ``[rows, cols]`` in patches.

    Tiles are numbered in raster order, patches inside a tile too. A place in an overlap belongs
    to the tile in whose margin it does not lie.
    """
    owner, inside = [], []
    for n, crop in zip(tiles, crop_grid, strict=True):
        window = crop - sum(margins)
        place = np.arange(n * window + sum(margins), dtype=np.int64)
        tile = np.clip((place - margins[0]) // window, 0, n - 1)
        owner.append(tile)
        inside.append(place - tile * window)
    tile = owner[0][:, None] * tiles[1] + owner[1]
    patch = inside[0][:, None] * crop_grid[1] + inside[1]
    return tile * (crop_grid[0] * crop_grid[1]) + patch


def image_crops(image: np.ndarray, layout: ImageLayout, crop_size: Size, patch: int) -> np.ndarray:
    """Crops of an image uint8 ``[h, w, 3]``: uint8 ``[1 + tiles, *crop_size, 3]``, the whole image
    first, then the tiles in raster order."""
    (h, w), (rows, cols) = crop_size, layout.tiles
    crops = [resize_frames(image[None], crop_size)]
    if rows:
        down, right = layout.step[0] * patch, layout.step[1] * patch
        canvas = resize_frames(image[None], ((rows - 1) * down + h, (cols - 1) * right + w))
        places = [(r * down, c * right) for r in range(rows) for c in range(cols)]
        crops += [canvas[:, y : y + h, x : x + w] for y, x in places]
    return np.concatenate(crops)


def image_token_ids(
    config: ImagePreprocessorConfig, tokenizer: MolmoTokenizer, layout: ImageLayout
) -> list[int]:
    """Token ids of an image: the whole image's, then the tiles', each with start and end."""
    low_columns = config.use_single_crop_col_tokens
    if low_columns is None:
        low_columns = config.use_col_tokens
    if not layout.tiles[0]:
        return cell_tokens(tokenizer, "im", layout.low, low_columns)
    kind = "low_res_im" if config.use_single_crop_start_token else "im"
    whole = cell_tokens(tokenizer, kind, layout.low, low_columns)
    return whole + cell_tokens(tokenizer, "im", layout.high, config.use_col_tokens)
