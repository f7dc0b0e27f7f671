"""Scenes of coloured characters that move, appear and leave, and questions about them.

A scene is drawn so that every question below has exactly one answer: colours and glyphs differ
within a scene, at most one character moves, and nothing appears or leaves at the same time.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

FPS = 4
FRAME_SIZE = 96
LEVELS = ("one", "two", "full")
COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan", "white")
GLYPHS = "ACEHKTX24579"
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
STYLE_MC, STYLE_SHORT = "video_multiple_choice", "video_short_answer"
STYLE_CAPTION, CAPTION_QUESTION = "video_short_caption", "Describe the video."

EDGE = 16  # px; smallest distance of a centre from the border of the frame
CLEAR_X, CLEAR_Y = 26, 29  # px; centres this far apart in x or y do not overlap
MIN_QUIET = 5  # frames without an appearance or a leave at either end of the clip
MIN_GAP = 6  # frames between two such events
MIN_VISIBLE = 12  # frames

STILL_ROLES = {"stays": 0.25, "appears": 0.3, "leaves": 0.3, "visits": 0.15}
ONE_ROLES = {"moves": 0.5, "stays": 0.1, "appears": 0.15, "leaves": 0.15, "visits": 0.1}


@dataclass(frozen=True)
class Character:
    """One glyph. Times in seconds, places are centres (x, y) in pixels; a still character has
    ``start == end``. Visible while ``enter <= t < leave``."""

    colour: str
    glyph: str
    start: tuple[int, int]
    end: tuple[int, int]
    enter: float
    leave: float
    move_from: float
    move_to: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.glyph}"

    @property
    def direction(self) -> str | None:
        """``left``, ``right``, ``up``, ``down``, or None when it stands still."""
        step = tuple(int(np.sign(b - a)) for a, b in zip(self.start, self.end, strict=True))
        return next((d for d, s in DIRECTIONS.items() if s == step), None)

    def centre(self, t: float) -> tuple[int, int]:
        done = min(max((t - self.move_from) / (self.move_to - self.move_from), 0.0), 1.0)
        (x0, y0), (x1, y1) = self.start, self.end
        return round(x0 + (x1 - x0) * done), round(y0 + (y1 - y0) * done)


@dataclass(frozen=True)
class Scene:
    """All that happens in one clip of ``duration`` seconds. The mover, if any, comes last."""

    duration: float
    characters: tuple[Character, ...]

    @cached_property
    def mover(self) -> Character | None:
        return next((c for c in self.characters if c.direction), None)

    @cached_property
    def appearing(self) -> list[Character]:
        """Characters that appear after the start, in that order."""
        late = [c for c in self.characters if c.enter > 0]
        return sorted(late, key=lambda c: c.enter)

    @cached_property
    def leaving(self) -> list[Character]:
        """Characters that leave before the end, in that order."""
        early = [c for c in self.characters if c.leave < self.duration]
        return sorted(early, key=lambda c: c.leave)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scene:
        """Of what ``to_dict`` gives, as it comes back from JSON."""
        places = [{k: tuple(c[k]) for k in ("start", "end")} for c in data["characters"]]
        found = (Character(**c | p) for c, p in zip(data["characters"], places, strict=True))
        return cls(data["duration"], tuple(found))


# --- drawing a scene ---------------------------------------------------------------------------


def sample_scene(level: str, rng: np.random.Generator) -> Scene:
    """Draw a scene of ``one``, ``two`` or three to four (``full``) characters."""
    if level == "one":
        roles = _draw_roles(ONE_ROLES, 1, rng)
    else:
        n_still = 1 if level == "two" else int(rng.integers(2, 4))
        roles = [*_draw_roles(STILL_ROLES, n_still, rng), "moves"]
    colours = rng.permutation(COLOURS)
    glyphs = rng.permutation(list(GLYPHS))
    spans = paths = None
    while spans is None:
        n_frames = int(rng.integers(8 * FPS, 16 * FPS + 1))
        spans = _draw_spans(roles, n_frames, rng)
    while paths is None:
        paths = _draw_paths(roles, rng)
    characters = []
    for i, (span, path) in enumerate(zip(spans, paths, strict=True)):
        slack = rng.integers(0, n_frames // 5 + 1, size=2)  # the mover may start late, stop early
        move_from, move_to = slack[0] / FPS, (n_frames - slack[1]) / FPS
        enter, leave = (frame / FPS for frame in span)
        look = str(colours[i]), str(glyphs[i])
        characters.append(Character(*look, *path, enter, leave, float(move_from), float(move_to)))
    return Scene(n_frames / FPS, tuple(characters))


def _draw_roles(table: dict[str, float], n: int, rng: np.random.Generator) -> list[str]:
    return [str(r) for r in rng.choice(list(table), size=n, p=list(table.values()))]


def _draw_spans(
    roles: list[str], n_frames: int, rng: np.random.Generator
) -> list[tuple[int, int]] | None:
    """First frame and frame past the last of every character; None when the draw is crowded."""
    spans, events = [], []
    for role in roles:
        enter, leave = 0, n_frames
        if role in ("appears", "visits"):
            enter = int(rng.integers(MIN_QUIET, n_frames - MIN_VISIBLE + 1))
            events.append(enter)
        if role in ("leaves", "visits"):
            leave = int(rng.integers(MIN_VISIBLE, n_frames - MIN_QUIET + 1))
            events.append(leave)
        if leave - enter < MIN_VISIBLE:
            return None
        spans.append((enter, leave))
    events.sort()
    crowded = any(b - a < MIN_GAP for a, b in itertools.pairwise(events))
    return None if crowded else spans


def _draw_paths(
    roles: list[str], rng: np.random.Generator
) -> list[tuple[tuple[int, int], tuple[int, int]]] | None:
    """Start and end of every character; still ones keep clear of each other and of the lane."""
    near, far = rng.integers(0, 9, size=2)
    along = EDGE + int(near), FRAME_SIZE - EDGE - int(far)
    lane = int(rng.integers(EDGE, FRAME_SIZE - EDGE + 1))
    direction = str(rng.choice(list(DIRECTIONS)))
    horizontal = direction in ("left", "right")
    if direction in ("left", "up"):
        along = along[::-1]
    taken: list[tuple[int, int]] = []
    paths = []
    for role in roles:
        if role == "moves":
            start, end = ((a, lane) if horizontal else (lane, a) for a in along)
            paths.append((start, end))
            continue
        for x, y in rng.integers(EDGE, FRAME_SIZE - EDGE + 1, size=(40, 2)).tolist():
            in_lane = abs(y - lane) < CLEAR_Y if horizontal else abs(x - lane) < CLEAR_X
            hits = any(abs(x - a) < CLEAR_X and abs(y - b) < CLEAR_Y for a, b in taken)
            if not hits and not ("moves" in roles and in_lane):
                break
        else:
            return None
        taken.append((x, y))
        paths.append(((x, y), (x, y)))
    return paths


# --- questions ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """``answer`` is the short answer; ``options`` are the right option and three wrong ones."""

    category: str
    wordings: tuple[str, ...]
    answer: str
    options: tuple[str, ...]

    def message(self, multiple_choice: bool, rng: np.random.RandomState) -> dict[str, Any]:
        """A message dict; wording and option order are drawn from ``rng``."""
        text = self.wordings[int(rng.choice(len(self.wordings)))]
        if not multiple_choice:
            return {"question": text, "answer": self.answer, "style": STYLE_SHORT}
        order = rng.permutation(len(self.options)).tolist()
        return {
            "question": text,
            "unlabelled_options": [self.options[i] for i in order],
            "answer_idx": order.index(0),
            "style": STYLE_MC,
        }


WHO: dict[str, tuple[str, ...]] = {
    "moving_colour": ("What colour is the moving character?", "Which colour moves?"),
    "appears": ("Which colour appears later?", "Which new colour appears?"),
    "appears_first": ("Which new colour appears first?",),
    "appears_last": ("Which new colour appears last?",),
    "leaves": ("Which colour leaves?", "Which colour leaves before the end?"),
    "leaves_first": ("Which colour leaves first?",),
    "leaves_last": ("Which colour leaves last?",),
}
"""Wordings of the categories that ask for a character, named by its colour."""
GLYPH_WORDINGS = ("Which letter or digit moves?", "What letter or digit is moving?")
COUNT_SEEN, COUNT_NEW = "How many characters are seen?", "How many characters appear later?"

CATEGORIES = (*WHO, "moving_character", "direction", "count")
WEIGHTS = {"appears": 2.0, "leaves": 2.0, "appears_first": 5.0, "appears_last": 5.0}
WEIGHTS |= {"leaves_first": 5.0, "leaves_last": 5.0}
"""Odds of a category in the evaluation splits, against 1 for one that every scene has: they make
up for scenes in which it does not apply."""


def scene_questions(scene: Scene, rng: np.random.RandomState) -> Iterator[Question]:
    """Every category that applies to the scene, once. Wrong options are drawn from ``rng``."""
    for category, who in _people(scene):
        present = [c.colour for c in scene.characters if c is not who]
        options = _options(who.colour, present, COLOURS, rng)
        yield Question(category, WHO[category], who.colour, options)
    mover = scene.mover
    if mover is not None and mover.direction is not None:
        others = [c for c in scene.characters if c is not mover]
        options = _options(mover.glyph, [c.glyph for c in others], GLYPHS, rng)
        yield Question("moving_character", GLYPH_WORDINGS, mover.glyph, options)
        options = _options(mover.direction, [], tuple(DIRECTIONS), rng)
        wordings = f"Which way does the {mover.name} move?", "Which way does one character move?"
        yield Question("direction", wordings, mover.direction, options)
    n_seen, n_new = len(scene.characters), len(scene.appearing)
    total = n_seen > 2 and rng.random() < 0.5  # a scene of one or two shows it at a glance
    text, n, highest = (COUNT_SEEN, n_seen, 5) if total else (COUNT_NEW, n_new, 3)
    numbers = "".join(str(i) for i in range(highest - 3, highest + 1))
    yield Question("count", (text,), str(n), _options(str(n), [], numbers, rng))


def describe(scene: Scene) -> dict[str, Any]:
    """A message that lists what every character does, in the order of ``COLOURS``."""
    ordered = sorted(scene.characters, key=lambda c: COLOURS.index(c.colour))
    answer = ", ".join(_said(c, scene, timed=False) for c in ordered)
    return {"question": CAPTION_QUESTION, "answer": answer, "style": STYLE_CAPTION}


def tell(scene: Scene, rng: np.random.RandomState) -> str:
    """The scene in words, with times: ``red K moves left. blue 3 appears at 4.5.``"""
    order = rng.permutation(len(scene.characters))
    return " ".join(f"{_said(scene.characters[i], scene, timed=True)}." for i in order)


def _said(c: Character, scene: Scene, timed: bool) -> str:
    """What one character does, and when."""
    events = [("appears", c.enter)] * (c.enter > 0)
    events += [("leaves", c.leave)] * (c.leave < scene.duration)
    verbs = [f"{verb} at {time:.1f}" if timed else verb for verb, time in events]
    does = f"moves {c.direction}" if c.direction else " and ".join(verbs) or "stays"
    return f"{c.name} {does}"


def evaluation_questions(
    scene: Scene, rng: np.random.RandomState, n: int = 3
) -> list[tuple[str, str, dict[str, Any]]]:
    """Up to ``n`` questions as (category, short answer, message), three in four multiple choice."""
    found = list(scene_questions(scene, rng))
    odds = np.array([WEIGHTS.get(q.category, 1.0) for q in found])
    picks = rng.choice(len(found), size=min(n, len(found)), replace=False, p=odds / odds.sum())
    chosen = [found[int(i)] for i in picks]
    return [(q.category, q.answer, q.message(rng.random() < 0.75, rng)) for q in chosen]


def _people(scene: Scene) -> Iterator[tuple[str, Character]]:
    if scene.mover is not None:
        yield "moving_colour", scene.mover
    for verb, found in (("appears", scene.appearing), ("leaves", scene.leaving)):
        if len(found) == 1:
            yield verb, found[0]
        elif found:
            yield f"{verb}_first", found[0]
            yield f"{verb}_last", found[-1]


def _options(
    right: str, first: list[str], pool: tuple[str, ...] | str, rng: np.random.RandomState
) -> tuple[str, ...]:
    """``right`` and three others: ``first``, then drawn from ``pool``."""
    rest = [str(p) for p in rng.permutation(list(pool)) if p != right and p not in first]
    return (right, *(first + rest)[:3])
