"""Pictures of a synthetic scene, and which cells of them show an event."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from olmo.data.datasets.synthetic.scene import FPS, FRAME_SIZE, Scene, Thing

RGB = {
    "red": (225, 40, 40),
    "green": (30, 185, 60),
    "blue": (55, 90, 235),
    "yellow": (245, 215, 20),
    "magenta": (225, 60, 215),
    "cyan": (30, 215, 225),
    "white": (245, 245, 245),
    "grey": (118, 122, 104),
}
OUTLINE, PANEL, INK = (15, 15, 20), (205, 200, 180), (10, 10, 10)
SIZE = {"ball": 12, "square": 11, "star": 15, "lamp": 13, "sign": 15, "leaf": 18}
"""Pixels across, outline included."""
FINE = 8  # shapes are drawn this much larger, and scaled down
GLYPH_SIZE = 14
N_PATCHES = (24, 40)  # still shapes in the background
MIN_PIXELS = 10
"""A cell shows an event if so many of its pixels belong to it."""


@lru_cache(maxsize=256)
def sprite(kind: str, look: str, towards: str | None = None) -> np.ndarray:
    """A thing on transparent ground, float32 ``[size, size, 4]``, RGB in 0..255, alpha in 0..1; a
    ball that goes ``towards`` a direction opens its mouth there."""
    size = SIZE[kind]
    big = size * FINE
    image = Image.new("RGBA", (big, big))
    draw = ImageDraw.Draw(image)
    box, edge = (0, 0, big - 1, big - 1), FINE
    fill = (*RGB.get(look, PANEL), 255)
    if kind in ("ball", "leaf"):
        draw.ellipse(
            box, fill=fill, outline=(*OUTLINE, 255) if kind == "ball" else fill, width=edge
        )
        if towards is not None:
            middle = 90 * ("right", "down", "left", "up").index(towards)
            draw.pieslice(box, middle - 50, middle + 50, fill=(*OUTLINE, 255))
    elif kind == "square":
        draw.rectangle(box, fill=fill, outline=(*OUTLINE, 255), width=edge)
    elif kind == "star":
        radii = big / 2 * np.array([1.0, 0.68])[np.arange(16) % 2]
        angles = np.arange(16) * np.pi / 8
        points = np.stack([np.sin(angles), np.cos(angles)], 1) * radii[:, None] + big / 2
        draw.polygon([tuple(p) for p in points], fill=fill, outline=(*OUTLINE, 255), width=edge)
    elif kind == "lamp":
        draw.ellipse(box, fill=(*OUTLINE, 255))
        draw.ellipse((edge, edge, big - 1 - edge, big - 1 - edge), fill=fill)
        hub = (0.35 * big, 0.35 * big, 0.65 * big, 0.65 * big)
        draw.ellipse(hub, fill=(*OUTLINE, 255))
    else:
        draw.rectangle(box, fill=fill, outline=(*OUTLINE, 255), width=edge)
        font = ImageFont.load_default(GLYPH_SIZE * FINE)
        draw.text((big / 2, big / 2), look, (*INK, 255), font, anchor="mm", stroke_width=FINE // 2)
    small = np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float32).copy()
    small[..., 3] /= 255
    small.setflags(write=False)
    return small


def _sprite(thing: Thing, t: float) -> np.ndarray:
    goes = thing.kind == "ball" and thing.active(t)
    return sprite(thing.kind, thing.look, thing.direction if goes else None)


def _place(thing: Thing, t: float) -> tuple[slice, slice]:
    """Rows and columns of a frame that a thing covers."""
    size = SIZE[thing.kind]
    x, y = (c - size // 2 for c in thing.centre(t))
    return slice(y, y + size), slice(x, x + size)


def pixels_of(thing: Thing, t: float) -> np.ndarray:
    """Which pixels a thing covers, bool ``[FRAME_SIZE, FRAME_SIZE]``."""
    covered = np.zeros((FRAME_SIZE, FRAME_SIZE), dtype=bool)
    covered[_place(thing, t)] = _sprite(thing, t)[..., 3] > 0.5
    return covered


def blend(frame: np.ndarray, thing: Thing, t: float) -> None:
    """Draw a thing into a uint8 or float frame ``[FRAME_SIZE, FRAME_SIZE, 3]``."""
    picture = _sprite(thing, t)
    part = frame[_place(thing, t)]
    part[:] = part + (picture[..., :3] - part) * picture[..., 3:]


def draw_background(rng: np.random.Generator) -> np.ndarray:
    """A still board of muted colours and shapes, uint8 ``[FRAME_SIZE, FRAME_SIZE, 3]``."""
    tint = rng.uniform(70, 120) + rng.uniform(-15, 15, size=3)
    coarse = tint + rng.uniform(-22, 22, size=(5, 5, 1)) + rng.uniform(-10, 10, size=(5, 5, 3))
    image = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
    image = image.resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(int(rng.integers(*N_PATCHES))):
        x, y = rng.integers(-8, FRAME_SIZE, size=2).tolist()
        w, h = rng.integers(6, 44, size=2).tolist()
        shade = tint + rng.uniform(-55, 55) + rng.uniform(-18, 18, size=3)
        fill = (*shade.clip(0, 255).astype(int).tolist(), int(rng.integers(60, 200)))
        shape = draw.rectangle if rng.random() < 0.6 else draw.ellipse
        shape((x, y, x + w, y + h), fill=fill)
    grain = rng.integers(-7, 8, size=(FRAME_SIZE, FRAME_SIZE, 1))
    return (np.asarray(image) + grain).clip(0, 250).astype(np.uint8)


def draw_frames(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """All frames, uint8 ``[n_frames, FRAME_SIZE, FRAME_SIZE, 3]`` RGB, with camera noise."""
    board = draw_background(rng)
    for thing in scene.things:
        if thing.span is None:
            blend(board, thing, 0.0)
    noise = rng.integers(0, 4, size=(2 * FRAME_SIZE, 2 * FRAME_SIZE, 1), dtype=np.uint8)
    shifts = rng.integers(0, FRAME_SIZE, size=(scene.n_frames, 2))
    changing = [thing for thing in scene.things if thing.span is not None]
    frames = np.empty((scene.n_frames, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    for i, (dy, dx) in enumerate(shifts):
        frame = board.copy()
        for thing in changing:
            if thing.visible(i / FPS):
                blend(frame, thing, i / FPS)
        frames[i] = frame + noise[dy : dy + FRAME_SIZE, dx : dx + FRAME_SIZE]
    return frames


def informative_cells(
    scene: Scene, times: Sequence[float] | np.ndarray, grid: tuple[int, int]
) -> np.ndarray:
    """Which cells show an event that the frame before does not show in the same way: bool
    ``[n_times, rows, columns]`` of a ``grid`` of cells. ``times`` are the seconds of the frames."""
    rows, columns = grid
    found = np.zeros((len(times), rows, columns), dtype=bool)
    shown: dict[Thing, tuple[int, int]] = {}
    for i, t in enumerate(times):
        before, shown = shown, {one: one.centre(t) for one in scene.things if one.active(t)}
        none = np.zeros((FRAME_SIZE, FRAME_SIZE), dtype=bool)
        new = [pixels_of(one, t) for one, place in shown.items() if before.get(one) != place]
        y, x = np.nonzero(np.any([none, *new], 0))
        counts = np.zeros(grid, dtype=int)
        np.add.at(counts, (y * rows // FRAME_SIZE, x * columns // FRAME_SIZE), 1)
        found[i] = counts >= MIN_PIXELS
    return found
