"""Random parts of a record, drawn from the generator of the example.

A record or message announces them under ``draw``, a list of names; they are carried out in that
order and the key is taken away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Message = dict[str, Any]
Draw = Callable[[Message, np.random.RandomState], Message]

WORDING, INSERT, SHUFFLE = "wording", "insert", "shuffle"
ONE_ANSWER, NUMBERS, ONE_STYLE = "one_answer", "numbers", "one_style"
CLIP, ONE_OBJECT = "clip", "one_object"
COUNT_QUESTION, CONVERSATION = "count_question", "conversation"

NUMBER_OPTIONS = 4
P_TREE = 0.8
"""How often several messages on one video are independent of each other."""
CLIP_S = 63.0
"""Longest part of a video that a track is asked for."""


def drawn(message: Message, rng: np.random.RandomState) -> Message:
    """A copy of ``message`` with its announced draws carried out, first those of the messages in
    its ``message_list``."""
    message = dict(message)
    if "message_list" in message:
        message["message_list"] = [drawn(m, rng) for m in message["message_list"]]
    for name in message.pop("draw", ()):
        message = _DRAWS[name](message, rng)
    return message


def wording(message: Message, rng: np.random.RandomState) -> Message:
    """``question``: one of ``wordings``."""
    return message | {"question": _one(message.pop("wordings"), rng)}


def insert(message: Message, rng: np.random.RandomState) -> Message:
    """``options``: ``negatives`` in their order, with ``answer`` at a random place."""
    options, answer = list(message.pop("negatives")), message.pop("answer")
    place = int(rng.randint(len(options) + 1))
    options.insert(place, answer)
    return message | {"options": options, "answer_idx": place}


def shuffle(message: Message, rng: np.random.RandomState) -> Message:
    """``options`` in random order; ``answer_idx`` follows."""
    order = [int(i) for i in rng.permutation(len(message["options"]))]
    options = [message["options"][i] for i in order]
    return message | {"options": options, "answer_idx": order.index(message["answer_idx"])}


def one_answer(message: Message, rng: np.random.RandomState) -> Message:
    """``answer``: one of the list ``answer``."""
    return message | {"answer": _one(message["answer"], rng)}


def numbers(message: Message, rng: np.random.RandomState) -> Message:
    """``options``: four consecutive numbers from 1 on, with ``answer`` among them."""
    right = int(message.pop("answer"))
    place = int(rng.randint(min(right, NUMBER_OPTIONS)))
    options = [str(right - place + i) for i in range(NUMBER_OPTIONS)]
    return message | {"options": options, "answer_idx": place}


def one_style(message: Message, rng: np.random.RandomState) -> Message:
    """``style``: one of ``styles``."""
    return message | {"style": _one(message.pop("styles"), rng)}


def count_question(message: Message, rng: np.random.RandomState) -> Message:
    """``question`` only where the style drawn before counts; one that points has its wordings."""
    return {k: v for k, v in message.items() if k != "question" or "count" in message["style"]}


def conversation(message: Message, rng: np.random.RandomState) -> Message:
    """Several messages of ``message_list`` now and then as one, of several turns."""
    turns = message["message_list"]
    if len(turns) < 2 or rng.random() < P_TREE:
        return message
    return message | {"message_list": [{"multi_turn_messages": turns}]}


def clip(message: Message, rng: np.random.RandomState) -> Message:
    """A clip of ``CLIP_S`` seconds from a whole second on, of a video that is longer
    (``duration``): around one of ``timestamps`` at which an object is seen, if there are any.
    ``timestamps`` and ``points`` are those in it, from its start."""
    times, points = message["timestamps"], message["points"]
    low, high = 0, int(message.pop("duration") - CLIP_S)
    seen = [times[i] for i, one in enumerate(points) if any(p is not None for p in one.values())]
    if seen:
        around = seen[int(rng.randint(len(seen)))]
        low = min(max(int(np.ceil(around - CLIP_S)), 0), high)
        high = max(min(int(around), high), low)
    start = low + int(rng.randint(high - low + 1))
    end = start + CLIP_S
    shown = [i for i, t in enumerate(times) if start <= t <= end]
    times_of_clip = {"clip_start_time": float(start), "clip_end_time": end}
    return message | {
        "timestamps": [times[i] - start for i in shown],
        "points": [points[i] for i in shown],
        "metadata": message.get("metadata", {}) | times_of_clip,
    }


def one_object(message: Message, rng: np.random.RandomState) -> Message:
    """``points`` (by object, at each of ``timestamps``) of one object only."""
    points, times = message["points"], message["timestamps"]
    mine = _one(sorted({key for one in points for key in one}), rng)
    shown = [i for i, one in enumerate(points) if mine in one]
    return message | {
        "points": [{mine: points[i][mine]} for i in shown],
        "timestamps": [times[i] for i in shown],
    }


def _one(choices: list[str], rng: np.random.RandomState) -> str:
    return choices[int(rng.randint(len(choices)))]


_ALL = (wording, insert, shuffle, one_answer, numbers, one_style, count_question, conversation)
_DRAWS: dict[str, Draw] = {draw.__name__: draw for draw in (*_ALL, clip, one_object)}
