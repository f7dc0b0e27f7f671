"""Molmo2 with STTS: cells that the ViT removed leave the language model's row as well.

Source: STTS, arXiv 2603.18004. Legend as in ``molmo2``; S' tokens after removal.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch

from olmo.config import Config, convert, section
from olmo.mappings import laid
from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config
from olmo.nn.image_vit import VitConfig
from olmo.nn.temporal_vision_backbone import TemporalVisionBackbone, TemporalVisionBackboneConfig
from olmo.nn.text_row import POSITION_RULES, TextRow, drop_tokens, kept_tokens
from olmo.nn.transfer import built_on
from olmo.nn.vision_backbone import VisionBackboneConfig, VisionOutput
from olmo.patch_grid import MAX_POOL

ConfigType = TypeVar("ConfigType", bound=Config)


@dataclass
class TemporalVideoOlmoConfig(Molmo2Config):
    """Model config with a pruning vision backbone.

    The share to remove is one number: ``mm_preprocessor.video.topk`` follows
    ``vision_backbone.vit.topk`` or the other way round; two different values are an error. So does
    the side of a video's pooling window.
    """

    model_name: str = "temporal_video_olmo"
    vision_backbone: TemporalVisionBackboneConfig = field(
        default_factory=TemporalVisionBackboneConfig
    )
    pruned_position_ids: str = "compact"
    """Position ids after removal, a name of ``POSITION_RULES``: ``compact``, contiguous again, or
    ``original``, with the gaps."""

    @classmethod
    def upgrade(cls, data: dict[str, Any]) -> dict[str, Any]:
        return sync_pooling(sync_topk(super().upgrade(data)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pruned_position_ids not in POSITION_RULES:
            found, known = self.pruned_position_ids, ", ".join(POSITION_RULES)
            raise ValueError(f"pruned_position_ids {found!r} is not one of {known}")
        video = replace(self.mm_preprocessor.video, topk=self.vision_backbone.vit.topk)
        self.mm_preprocessor = replace(self.mm_preprocessor, video=video)
        pool = self.vision_backbone.video_pooling
        if (video.pooling_h, video.pooling_w) != (pool, pool):
            raise ValueError(
                f"mm_preprocessor.video pools {video.pooling_h} x {video.pooling_w} patches, "
                f"vision_backbone.video_pooling is {pool}"
            )

    def dense(self) -> Molmo2Config:
        """The same model without pruning, and without the fields of pruning."""
        vision, preprocessor = self.vision_backbone, self.mm_preprocessor
        return _part(
            self,
            Molmo2Config,
            model_name=Molmo2Config.model_name,
            vision_backbone=_part(vision, VisionBackboneConfig, vit=_part(vision.vit, VitConfig)),
            mm_preprocessor=replace(preprocessor, video=replace(preprocessor.video, topk=None)),
        )

    def build(self, device: torch.device | str | None = None) -> TemporalVideoOlmo:
        """Model with uninitialised parameters; see ``reset_parameters``."""
        with built_on(device):
            return TemporalVideoOlmo(self)


def _part(config: Config, kind: type[ConfigType], **changed: object) -> ConfigType:
    """The fields of ``config`` that its base class ``kind`` has."""
    values = {f.name: getattr(config, f.name) for f in fields(kind)}
    return kind(**values | changed)


class TemporalVideoOlmo(Molmo2):
    """The pruning model."""

    config: TemporalVideoOlmoConfig
    vision_backbone: TemporalVisionBackbone

    def drop_removed(self, row: TextRow, vision: VisionOutput) -> TextRow:
        if vision.kept_rows is None:
            return row
        patch = self.special_ids["<im_patch>"]
        kept = kept_tokens(row.input_ids, vision.rows, vision.kept_rows, patch)
        return drop_tokens(row, kept, self.config.pruned_position_ids)

    def n_aux_terms(self, batch: dict[str, Any]) -> int:
        if not self.config.vision_backbone.vit.prune:
            return 0
        return self.vision_backbone.n_score_terms(batch)


def sync_topk(data: dict[str, Any]) -> dict[str, Any]:
    """Make the two places of the ratio agree in a config or in overrides without flat keys.

    Raises ``ValueError`` with both values when they differ.
    """
    video, vit = section(data, "mm_preprocessor", "video"), section(data, "vision_backbone", "vit")
    found = {"mm_preprocessor.topk": video.get("topk"), "vision_backbone.vit.topk": vit.get("topk")}
    given = {key: convert(float, v, key) for key, v in found.items() if v is not None}
    if len(set(given.values())) > 1:
        values = ", ".join(f"{key}={value}" for key, value in given.items())
        raise ValueError(f"the share of tokens to remove is given with different values: {values}")
    for topk in given.values():
        data = laid(data, "mm_preprocessor.video.topk", topk)
        data = laid(data, "vision_backbone.vit.topk", topk)
    return data


def sync_pooling(data: dict[str, Any]) -> dict[str, Any]:
    """Give the side of a video's pooling window to each place that does not name it."""
    keys = (
        *("vision_backbone.video_pooling", "mm_preprocessor.video.pooling_h"),
        "mm_preprocessor.video.pooling_w",
    )
    found = {key: section(data, *(at := key.split("."))[:-1]).get(at[-1]) for key in keys}
    pool = next((value for value in found.values() if value is not None), None)
    if pool in range(1, MAX_POOL + 1):  # a wrong one is told under its own name
        for key in (key for key, value in found.items() if value is None):
            data = laid(data, key, pool)
    return data
