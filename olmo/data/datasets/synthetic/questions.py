"""Questions about the events of a synthetic scene; each has exactly one answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.data.datasets.synthetic.scene import Scene, Thing

STYLE_SHORT, STYLE_CAPTION = "video_short_answer", "video_short_caption"
CAPTION_QUESTION = "Describe the video."

CATEGORIES = ("moves", "direction", "brief", "order", "count", "reading", "state", "meeting")


@dataclass(frozen=True)
class Question:
    """A question of one of ``CATEGORIES`` and its short answer."""

    category: str
    text: str
    answer: str

    def message(self) -> dict[str, Any]:
        return {"question": self.text, "answer": self.answer, "style": STYLE_SHORT}


def scene_questions(scene: Scene) -> Iterator[Question]:
    """Every question that the scene answers."""
    for ball in scene.events("ball"):
        yield Question("moves", "Which colour is the ball that moves?", ball.look)
        text = f"Which way does the {ball.name} move?"
        yield Question("direction", text, ball.direction)
    stars = scene.events("star")
    if len(stars) == 1:
        yield Question("brief", "Which colour flashes?", stars[0].look)
    elif stars:
        yield Question("order", "Which colour flashes first?", stars[0].look)
        yield Question("order", "Which colour flashes last?", stars[-1].look)
    if stars:
        yield Question("count", "How many stars flash?", str(len(stars)))
    for sign in scene.events("sign"):
        yield Question("reading", "Which letter or digit is on the sign?", sign.look)
    for lamp in scene.events("lamp"):
        yield Question("state", "Which colour does the lamp turn?", lamp.look)
    for square in scene.events("square"):
        text = f"Which colour does the {square.name} meet?"
        yield Question("meeting", text, met(scene, square).look)


def met(scene: Scene, square: Thing) -> Thing:
    """The square that another one goes to."""
    x, y = (p + s for p, s in zip(square.place, square.shift, strict=True))
    others = [one for one in scene.things if one.kind == "square" and one is not square]
    return min(others, key=lambda one: abs(one.place[0] - x) + abs(one.place[1] - y))


def describe(scene: Scene) -> dict[str, Any]:
    """A message that tells the events in their order."""
    happening = sorted((one for one in scene.things if one.happens), key=lambda one: one.span or ())
    answer = ", ".join(_told(scene, one) for one in happening)
    return {"question": CAPTION_QUESTION, "answer": answer, "style": STYLE_CAPTION}


def _told(scene: Scene, one: Thing) -> str:
    does = {"star": "flashes", "sign": "on the sign", "lamp": "lamp"}
    if one.kind == "ball":
        return f"{one.name} moves {one.direction}"
    if one.kind == "square":
        return f"{one.name} meets {met(scene, one).look}"
    return f"{one.look} {does[one.kind]}"


def evaluation_questions(scene: Scene, rng: np.random.RandomState) -> list[Question]:
    """One question of every category that the scene answers, in a fixed order."""
    found: dict[str, list[Question]] = {}
    for question in scene_questions(scene):
        found.setdefault(question.category, []).append(question)
    return [some[int(rng.choice(len(some)))] for some in found.values()]
