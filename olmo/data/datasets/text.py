"""Text-only conversations."""

from __future__ import annotations

from typing import Any

from olmo.data.datasets.declare import IMAGE_HOME, NLP, dataset
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.sources import HubFiles
from olmo.data.datasets.tables import TableRecords
from olmo.preprocessing.chat import alternating
from olmo.preprocessing.tokens import Turn

STYLE = "user_qa"


def turns(messages: list[dict[str, str]]) -> list[str]:
    """The texts of ``alternating`` turns."""
    said = ((m["role"] == "assistant", Turn.of(m["content"])) for m in messages)
    return [str(turn) for turn in alternating(said)]


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
