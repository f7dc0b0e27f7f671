"""Text-only conversations."""

from __future__ import annotations

from typing import Any

from olmo.data.datasets.declare import IMAGE_HOME, NLP, dataset
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.sources import HubFiles
from olmo.data.datasets.tables import TableRecords

STYLE = "user_qa"


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


def _conversation(rows: list[dict[str, Any]]) -> dict[str, Any]:
    (row,) = rows
    return {"messages": turns(row["messages"]), "style": STYLE}


@dataset(
    "tulu4",
    {"train": "train"},
    files=("tulu4",),
    sources=(
        HubFiles("allenai/tulu-3-sft-mixture", "tulu4", table=(("train", "data/train-*.parquet"),)),
    ),
    groups=(NLP,),
    home=IMAGE_HOME,
)
def tulu(disk: Disk, split: str) -> TableRecords:
    return TableRecords.single(disk.table("tulu4", split), _conversation)
