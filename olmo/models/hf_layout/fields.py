"""Keys of a ``config.json`` and of the native model section, by the tables of ``fields.yaml``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmo.config import read_settings
from olmo.nn.image_vit import VitConfig
from olmo.nn.temporal_image_vit import TemporalVitConfig

MODEL_TYPES = ("molmo2", "molmo2_lite")
VISION = {"transformers": "vision_config", "remote": "vit_config"}


@dataclass(frozen=True)
class Field:
    """One setting. A name is ``section.key``; None: the layout does not have it. ``default`` is
    that of transformers' class, for a file that leaves the key out."""

    native: str
    remote: str
    transformers: str | None
    default: object


TABLES = read_settings(Path(__file__).with_name("fields.yaml"))


def _field(sections: str, key: str, remote: str, other: str | None, default: object) -> Field:
    native, section = sections.split(", ")
    own = None if other is None else f"{section}.{remote if other == 'same' else other}"
    return Field(f"{native}.{key}", f"{section}.{remote}", own, default)


def _by_layout(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {layout: table["both"] | table[layout] for layout in VISION}


FIELDS = [
    _field(sections, key, *row)
    for sections, rows in TABLES["fields"].items()
    for key, row in rows.items()
]
DERIVED, FIXED, TOKEN_IDS = (_by_layout(TABLES[name]) for name in ("derived", "fixed", "token_ids"))
"""By layout: places in the config, values, and tokens."""
ROPE_KEYS: dict[str, str] = TABLES["rope"]
NOT_COMPARED = frozenset(TABLES["not_compared"])
STTS_KEYS = {f.name for f in dataclasses.fields(TemporalVitConfig)} - {
    f.name for f in dataclasses.fields(VitConfig)
}
PRUNING_KEYS = {
    **{key: f"vision_backbone.vit.{key}" for key in STTS_KEYS},
    "video_pooling": "vision_backbone.video_pooling",
    "pruned_position_ids": "pruned_position_ids",
}
"""Keys of a pruning model, at the top of ``config.json`` (the Lite form) or in its ViT section, and
where they are in the native model section."""
