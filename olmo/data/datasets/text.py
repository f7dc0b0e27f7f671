"""Text-only conversations."""

from __future__ import annotations

from typing import Any

from olmo.data.records import Flaw, Record


def turns(messages: list[dict[str, str]]) -> list[str]:
    """User and assistant turns in alternation. A system text goes before the first user turn,
    turns of the same side are joined, and a last question without an answer is left out."""
    out: list[str] = []
    for message in messages:
        answer = message["role"] == "assistant"
        if answer and not out:
            out.append("")
        if (len(out) % 2 == 0) == answer:  # the side that spoke last
            out[-1] = "\n\n".join(t for t in (out[-1], message["content"]) if t)
        else:
            out.append(message["content"])
    return out[: len(out) // 2 * 2]


def conversation(row: dict[str, Any]) -> Record:
    """Tulu: messages with role (system, user or assistant) and content."""
    if not (found := turns(row["messages"])):
        raise Flaw("no question has an answer")
    return {"messages": found, "style": "user_qa"}
