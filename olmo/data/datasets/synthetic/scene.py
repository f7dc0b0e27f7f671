"""What happens in a synthetic clip: things on a still board, and short events among them.

Balls, squares, a lamp and an empty sign stand on the board from the first frame to the last. An
event takes a moment and touches one or two cells of 64: a ball goes somewhere with an open mouth
and comes back, a star flashes, the sign shows a character, the lamp turns another colour, a square
meets another. All questions are about events, so a model that loses those few cells cannot answer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

FPS = 8
TICK = 4
"""Frames between two sampled frames at the usual 2 frames per second; an event lasts ticks."""
CELL, GRID = 16, 8
FRAME_SIZE = CELL * GRID
"""Pixels. The board has 8 x 8 cells of 16 pixels: one cell is one visual token."""

COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan", "white")
GLYPHS = "ACEHKTX24579"
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
EVENTS = ("move", "flash", "read", "turn", "meet")

N_BALLS, N_SQUARES = 3, 3
LANE = 3  # cells of the way that a ball may take, its own included
TOUCH = 9  # px between the centres of two squares that meet


@dataclass(frozen=True)
class Level:
    """How long a clip is and how much happens in it.

    ``ticks``: sampled frames at 2 fps. ``events``: fewest and most kinds of events.
    ``redundancy``: most ticks that an event is seen; a flash is seen in one. ``leaves``: fewest and
    most grey leaves, which drift all the time and answer nothing. ``fast``: flashes, signs and
    lamps last half a tick, so that half of them fall between the frames sampled at 2 fps.
    """

    ticks: int = 16
    events: tuple[int, int] = (3, 5)
    redundancy: int = 2
    leaves: tuple[int, int] = (1, 1)
    fast: bool = False


LEVELS = {
    "short": Level(ticks=6, events=(4, 5), leaves=(0, 0)),
    "middle": Level(ticks=10, events=(4, 5)),
    "full": Level(),
    "varied": Level(leaves=(0, 8)),
    "fast": Level(fast=True),
}


@dataclass(frozen=True)
class Thing:
    """One thing on the board; ``look`` is its colour, or the character on a sign.

    ``place`` is its centre (x, y) in pixels. Without ``span`` it never changes. With a ``shift``
    it leaves its place at the start of ``span`` (seconds), reaches ``place + shift`` within
    ``ramp`` seconds and is back at the end; without a shift it is seen in its span only.
    """

    kind: str
    look: str
    place: tuple[int, int]
    shift: tuple[int, int] = (0, 0)
    span: tuple[float, float] | None = None
    ramp: float = TICK / FPS

    @property
    def name(self) -> str:
        return f"{self.look} {self.kind}"

    @property
    def moves(self) -> bool:
        return self.shift != (0, 0)

    @property
    def happens(self) -> bool:
        """Whether a question may ask for what it does."""
        return self.span is not None and self.kind != "leaf"

    @property
    def direction(self) -> str:
        """Where it moves to: ``left``, ``right``, ``up`` or ``down``."""
        way = tuple(int(v) for v in np.sign(self.shift))
        return next(name for name, step in DIRECTIONS.items() if step == way)

    def visible(self, t: float) -> bool:
        return self.span is None or self.moves or self.span[0] <= t < self.span[1]

    def active(self, t: float) -> bool:
        """Whether it shows at second ``t`` what it does: visible, and not as in the first frame."""
        return self.happens and self.visible(t) and not (self.moves and self._away(t) == 0)

    def centre(self, t: float) -> tuple[int, int]:
        (x, y), (dx, dy), done = self.place, self.shift, self._away(t)
        return round(x + dx * done), round(y + dy * done)

    def _away(self, t: float) -> float:
        """Share of ``shift`` that it is away from its place."""
        if self.span is None:
            return 0.0
        start, stop = self.span
        return min(max(min(t - start, stop - t) / self.ramp, 0.0), 1.0)


@dataclass(frozen=True)
class Scene:
    """All things of one clip of ``n_frames`` frames. Leaves are drawn over what stands still."""

    n_frames: int
    things: tuple[Thing, ...]

    def events(self, kind: str) -> list[Thing]:
        """Things of a kind that do something, in the order in which they begin."""
        found = [(one.span, one) for one in self.things if one.kind == kind and one.happens]
        return [one for _, one in sorted(found, key=lambda pair: pair[0] or (0.0, 0.0))]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scene:
        """Of what ``to_dict`` gives, as it comes back from JSON."""
        things = []
        for found in data["things"]:
            pairs = {k: found[k] and tuple(found[k]) for k in ("place", "shift", "span")}
            values: dict[str, Any] = {**found, **pairs}
            things.append(Thing(**values))
        return cls(data["n_frames"], tuple(things))


# --- drawing a scene by lot ----------------------------------------------------------------------


class _Crowded(Exception):
    """A draw that does not fit on the board."""


class _Board:
    """Free cells, (column, row)."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.free = {(x, y) for x in range(GRID) for y in range(GRID)}

    def take(self, cells: list[tuple[int, int]]) -> None:
        if not self.free.issuperset(cells):
            raise _Crowded
        self.free.difference_update(cells)

    def lane(self, direction: str, length: int) -> list[tuple[int, int]]:
        """Take a free cell and the ``length`` cells beyond it in ``direction``."""
        step = np.array(DIRECTIONS[direction])
        first = self.rng.integers(0, GRID, size=2)
        cells = [tuple((first + i * step).tolist()) for i in range(length + 1)]
        self.take(cells)
        return cells

    def cell(self) -> tuple[int, int]:
        """Take any free cell."""
        cells = sorted(self.free)
        cell = cells[int(self.rng.integers(len(cells)))]
        self.take([cell])
        return cell

    def centre(self, cell: tuple[int, int], jitter: int = 2) -> tuple[int, int]:
        """A point near the middle of a cell."""
        middle = CELL * np.array(cell) + CELL // 2
        drawn = middle + self.rng.integers(-jitter, jitter + 1, size=2)
        x, y = drawn.clip(CELL // 2, FRAME_SIZE - CELL // 2).tolist()
        return x, y


def sample_scene(level: str, rng: np.random.Generator) -> Scene:
    """Draw a scene of a level of ``LEVELS``."""
    wanted = LEVELS[level]
    low, high = wanted.events
    chosen = set(rng.permutation(EVENTS)[: int(rng.integers(low, high + 1))].tolist())
    while True:
        try:
            things = _draw_things(wanted, chosen, rng)
        except _Crowded:
            continue
        return Scene(TICK * (wanted.ticks - 1), tuple(things))


def _draw_things(level: Level, chosen: set[str], rng: np.random.Generator) -> list[Thing]:
    board = _Board(rng)
    way, axis = (str(rng.choice(list(DIRECTIONS))) for _ in range(2))
    gap = int(rng.integers(2, 4))  # cells between the squares that meet
    lane, pair = board.lane(way, LANE), board.lane(axis, gap)
    things = _leaves(level, rng)  # under everything that happens
    things += _balls(lane[0], way, board, level, "move" in chosen)
    things += _squares(pair, axis, board, level, "meet" in chosen)
    things += _sign(board, level, "read" in chosen)
    things += _lamp(board, level, "turn" in chosen)
    return [*things, *(_stars(board, level) if "flash" in chosen else [])]


def _ticks(level: Level, rng: np.random.Generator) -> tuple[int, int]:
    """First tick of an event and how many it lasts; the first and last frame show none."""
    n = int(rng.integers(1, level.redundancy + 1))
    return int(rng.integers(1, level.ticks - n)), n


def _shown(first: int, n: int, level: Level, rng: np.random.Generator) -> tuple[float, float]:
    """Seconds in which something is seen that is seen in ``n`` sampled frames from ``first``."""
    if level.fast:
        start = TICK * first + (TICK // 2) * int(rng.integers(0, 2))
        return start / FPS, (start + TICK // 2) / FPS
    start = TICK * first - TICK // 2
    return start / FPS, (start + TICK * n) / FPS


def _away(level: Level, rng: np.random.Generator) -> tuple[float, float]:
    """Seconds in which a thing is on its way, fully out in the sampled frames of an event."""
    first, n = _ticks(level, rng)
    return (first - 1) * TICK / FPS, (first + n) * TICK / FPS


def _colours(n: int, rng: np.random.Generator) -> list[str]:
    return rng.permutation(COLOURS)[:n].tolist()


def _balls(
    home: tuple[int, int], way: str, board: _Board, level: Level, moves: bool
) -> list[Thing]:
    rng = board.rng
    first, *others = _colours(N_BALLS, rng)
    still = [Thing("ball", look, board.centre(board.cell())) for look in others]
    place = board.centre(home, jitter=0)
    if not moves:
        return [*still, Thing("ball", first, place)]
    far = CELL * int(rng.integers(1, LANE))
    x, y = DIRECTIONS[way]
    return [*still, Thing("ball", first, place, (far * x, far * y), _away(level, rng))]


def _squares(
    pair: list[tuple[int, int]], way: str, board: _Board, level: Level, meets: bool
) -> list[Thing]:
    """The last two may meet: the last one goes to the one before it."""
    rng = board.rng
    goer, met, *others = _colours(N_SQUARES, rng)
    still = [Thing("square", look, board.centre(board.cell())) for look in others]
    (x, y), place = board.centre(pair[0]), board.centre(pair[-1])
    dx, dy = DIRECTIONS[way]
    here = (x, place[1]) if dx else (place[0], y)  # in line with the other
    far = abs(place[0] - here[0]) + abs(place[1] - here[1]) - TOUCH
    mover = Thing("square", goer, here)
    if meets:
        mover = Thing("square", goer, here, (far * dx, far * dy), _away(level, rng))
    return [*still, Thing("square", met, place), mover]


def _sign(board: _Board, level: Level, read: bool) -> list[Thing]:
    rng = board.rng
    place = board.centre(board.cell(), jitter=0)
    shown = _shown(*_ticks(level, rng), level, rng)
    glyph = str(rng.choice(list(GLYPHS)))
    return [Thing("sign", "", place), *([Thing("sign", glyph, place, span=shown)] if read else [])]


def _lamp(board: _Board, level: Level, turns: bool) -> list[Thing]:
    rng = board.rng
    before, after = _colours(2, rng)
    place = board.centre(board.cell())
    shown = _shown(*_ticks(level, rng), level, rng)
    on = [Thing("lamp", after, place, span=shown)] if turns else []
    return [Thing("lamp", before, place), *on]


def _stars(board: _Board, level: Level) -> list[Thing]:
    """One to four flashes, at different ticks and in different colours."""
    rng = board.rng
    n = int(rng.integers(1, 5))
    ticks = rng.permutation(np.arange(1, level.ticks - 1))[:n].tolist()
    looks = _colours(n, rng)
    return [
        Thing("star", look, board.centre(board.cell(), 3), span=_shown(tick, 1, level, rng))
        for look, tick in zip(looks, ticks, strict=True)
    ]


def _leaves(level: Level, rng: np.random.Generator) -> list[Thing]:
    """Grey leaves that drift from one point to another through the whole clip."""
    low, high = level.leaves
    n = int(rng.integers(low, high + 1)) if low < high else low
    seconds = level.ticks * TICK / FPS
    ends = rng.integers(CELL, FRAME_SIZE - CELL, size=(n, 2, 2)).tolist()
    return [
        Thing("leaf", "grey", (x0, y0), (x1 - x0 or 1, y1 - y0), (0.0, 2 * seconds), seconds)
        for (x0, y0), (x1, y1) in ends
    ]
