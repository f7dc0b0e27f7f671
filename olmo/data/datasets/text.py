"""Text-only conversations."""

from __future__ import annotations

from typing import Any

from olmo.data.records import Flaw, Record
from olmo.preprocessing.chat import alternating
from olmo.preprocessing.tokens import Turn


def turns(messages: list[dict[str, str]]) -> list[str]:
    """The texts of ``alternating`` turns."""
    said = ((m["role"] == "assistant", Turn.of(m["content"])) for m in messages)
    return [str(turn) for turn in alternating(said)]


def conversation(row: dict[str, Any]) -> Record:
    """Tulu: messages with role (system, user or assistant) and content."""
    if not (found := turns(row["messages"])):
        raise Flaw("no question has an answer")
    return {"messages": found, "style": "user_qa"}
