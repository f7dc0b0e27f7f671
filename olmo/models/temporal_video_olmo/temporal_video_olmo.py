"""Molmo2 with STTS: cells that the ViT removed leave the language model's row as well.

Source: STTS, arXiv 2603.18004. Legend as in ``molmo2``; S' tokens after removal.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from olmo.config import Config, convert, section
from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config, TextRow, check_video_pooling
from olmo.nn.image_vit import VitConfig
from olmo.nn.temporal_vision_backbone import (
    TemporalVisionBackbone,
    TemporalVisionBackboneConfig,
)
from olmo.nn.vision_backbone import VisionBackboneConfig, VisionOutput
from olmo.types import SUBSEGMENTS_PER_EXAMPLE

ConfigType = TypeVar("ConfigType", bound=Config)


@dataclass
class TemporalVideoOlmoConfig(Molmo2Config):
    """Model config with a pruning vision backbone.

    The share to remove is one number: ``mm_preprocessor.video.topk`` follows
    ``vision_backbone.vit.topk`` or the other way round; two different values are an error.
    """

    model_names: ClassVar[tuple[str, ...]] = ("temporal_video_olmo",)

    model_name: str = "temporal_video_olmo"
    vision_backbone: TemporalVisionBackboneConfig = field(
        default_factory=TemporalVisionBackboneConfig
    )
    pruned_position_ids: Literal["compact", "original"] = "compact"
    """Position ids after removal: contiguous again, or with the gaps."""

    @classmethod
    def upgrade(cls, data: dict[str, Any]) -> dict[str, Any]:
        return sync_topk(data)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mm_preprocessor.video.topk = self.vision_backbone.vit.topk
        check_video_pooling(self, self.vision_backbone.video_pooling)

    @property
    def removed_share(self) -> float:
        vit = self.vision_backbone.vit
        return vit.topk if vit.prune else 0.0

    @property
    def prune_from_frame(self) -> int:
        return self.vision_backbone.vit.prune_from_frame

    def dense(self) -> Molmo2Config:
        """The same model without pruning, and without the fields of pruning."""
        vision, vit = self.vision_backbone, self.vision_backbone.vit
        preprocessor = self.mm_preprocessor
        return Molmo2Config(
            **{f.name: getattr(self, f.name) for f in fields(Molmo2Config)}
            | {"model_name": Molmo2Config.model_name}
            | {"vision_backbone": _part(vision, VisionBackboneConfig, vit=_part(vit, VitConfig))}
            | {
                "mm_preprocessor": replace(
                    preprocessor, video=replace(preprocessor.video, topk=None)
                )
            }
        )

    def build(self, device: torch.device | str | None = None) -> TemporalVideoOlmo:
        """Model with uninitialised parameters; see ``reset_parameters``."""
        return TemporalVideoOlmo(self, device)


def _part(config: Config, kind: type[ConfigType], **changed: object) -> ConfigType:
    """The fields of ``config`` that its base class ``kind`` has."""
    values = {f.name: getattr(config, f.name) for f in fields(kind)}
    return kind(**values | changed)


class TemporalVideoOlmo(Molmo2):
    """The pruning model."""

    config: TemporalVideoOlmoConfig
    vision_backbone: TemporalVisionBackbone

    def drop_removed(self, row: TextRow, vision: VisionOutput) -> TextRow:
        if self.config.removed_share == 0.0:
            return row
        patch = self.special_ids["<im_patch>"]
        kept = kept_tokens(row.input_ids, vision.rows, vision.kept_rows, patch)
        return drop_tokens(row, kept, self.config.pruned_position_ids == "compact")

    def n_aux_terms(self, batch: dict[str, Any]) -> int:
        vit = self.config.vision_backbone.vit
        if not vit.prune or not vit.method.learned:
            return 0
        return self.vision_backbone.n_score_terms(
            batch["num_images"], batch["multimodal_type"], batch["images"].shape[1]
        )


def kept_tokens(input_ids: Tensor, rows: Tensor, keep: Tensor, patch_id: int) -> Tensor:
    """Which tokens stay, bool [B, S]: all but the ``<im_patch>`` tokens of removed cells.

    The k-th ``<im_patch>`` token of a row belongs to its k-th real ``token_pooling`` row, those of
    ``rows`` bool [B, P], of which ``keep`` stay. All on the host. ``ValueError`` if the counts
    differ.
    """
    is_patch = input_ids == patch_id
    if not torch.equal(is_patch.sum(1), rows.sum(1)):
        raise ValueError(
            f"<im_patch> tokens per row {is_patch.sum(1).tolist()}, "
            f"token_pooling rows per row {rows.sum(1).tolist()}"
        )
    return torch.ones_like(is_patch).masked_scatter(is_patch, keep[rows])


def drop_tokens(row: TextRow, kept: Tensor, compact: bool) -> TextRow:
    """Close the gaps of removed tokens in every aligned field.

    The result is as long as the longest row's remaining valid tokens; padding keeps its values
    (-1 ids and positions, subsegment -1). With ``compact`` the positions of the tokens behind a
    removed one move up, inside their own packed example.
    """
    position_ids = row.position_ids
    if compact:
        position_ids = position_ids - _removed_before(kept, row.subsegment_ids)
    stays = kept & row.valid
    length = int(stays.sum(1).max())
    order = torch.argsort((~stays).to(torch.int8), dim=1, stable=True)[:, :length]
    present = stays.gather(1, order)

    def take(field: Tensor | None, fill: int) -> Tensor | None:
        if field is None:
            return None
        return torch.where(present, field.gather(1, order), fill).to(field.dtype)

    input_ids, positions = take(row.input_ids, -1), take(position_ids, -1)
    assert input_ids is not None and positions is not None
    return TextRow(
        input_ids,
        positions,
        present,
        take(row.subsegment_ids, -1),
        take(row.response_mask, False),
        kept,
    )


def _removed_before(kept: Tensor, subsegment_ids: Tensor | None) -> Tensor:
    """[B, S]: removed tokens before each token, counted inside its packed example."""
    removed = (~kept).to(torch.int64)
    before = removed.cumsum(1) - removed
    if subsegment_ids is None:
        return before
    example = subsegment_ids.clamp(min=0) // SUBSEGMENTS_PER_EXAMPLE
    starts = torch.ones_like(kept)
    starts[:, 1:] = example[:, 1:] != example[:, :-1]
    at_start = torch.where(starts, before, torch.zeros_like(before))
    return before - at_start.cummax(1).values


def sync_topk(data: dict[str, Any]) -> dict[str, Any]:
    """Make the two places of the ratio agree in a config or in overrides.

    Raises ``ValueError`` with both values when they differ.
    """
    preprocessor, vit = section(data, "mm_preprocessor"), section(data, "vision_backbone", "vit")
    video = section(data, "mm_preprocessor", "video")
    found = {
        "mm_preprocessor.topk": preprocessor.get("topk"),
        "mm_preprocessor.video.topk": video.get("topk"),
        "vision_backbone.vit.topk": vit.get("topk"),
    }
    given = {key: convert(float, v, key) for key, v in found.items() if v is not None}
    if not given:
        return data
    if len(set(given.values())) > 1:
        values = ", ".join(f"{key}={value}" for key, value in given.items())
        raise ValueError(f"the share of tokens to remove is given with different values: {values}")
    topk = next(iter(given.values()))
    data = dict(data)
    data["vision_backbone"] = section(data, "vision_backbone") | {"vit": vit | {"topk": topk}}
    preprocessor = {k: v for k, v in preprocessor.items() if k != "topk"}
    data["mm_preprocessor"] = preprocessor | {"video": video | {"topk": topk}}
    return data
