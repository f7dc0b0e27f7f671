"""FLOPs of what a step really computed, and their share of what the device can do (MFU)."""

from __future__ import annotations

import dataclasses
from functools import cache

from torch import Tensor

from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.nn.flops import TRAINING, StageFlops, connector_flops, llm_flops, model_flops
from olmo.nn.temporal_vision_backbone import TemporalVisionBackboneConfig
from olmo.nn.vision_backbone import VisionBackboneConfig
from olmo.types import MultimodalType


def dense_backbone(config: VisionBackboneConfig) -> VisionBackboneConfig:
    """The same backbone without pruning."""
    if not isinstance(config, TemporalVisionBackboneConfig):
        return config
    return dataclasses.replace(config, vit=dataclasses.replace(config.vit, prune=False))


class FlopCounter:
    """Counts the FLOPs of training on a micro-batch, from its tensors on the host."""

    def __init__(self, config: Molmo2Config):
        self.config, self.budget = config, config.budget
        pool, backbone = config.mm_preprocessor.video.pooling_h, config.vision_backbone

        @cache
        def video(n_frames: int) -> StageFlops:
            return model_flops(backbone, config.llm, n_frames, 0, 0, pool)

        self.video = video
        self.dense_frame = model_flops(dense_backbone(backbone), config.llm, 1, 0, 0, pool).vit
        self.connector = connector_flops(backbone, config.llm, pool)

    def __call__(self, batch: dict[str, Tensor]) -> float:
        """FLOPs of forward and backward pass over ``batch``; padding does not count."""
        llm = self.config.llm
        lengths = (batch["input_ids"] >= 0).sum(1).tolist()
        image_tokens = int((batch["token_pooling"] >= 0).any(-1).sum())
        total, image_frames = 0.0, 0
        given = [batch[k].tolist() for k in ("num_images", "multimodal_type")]
        for row, inputs in enumerate(zip(*given, strict=True)):
            for n, kind in zip(*inputs, strict=True):
                if n <= 0:
                    continue
                if kind != MultimodalType.VIDEO:
                    image_frames += n
                    continue
                stages = self.video(n)
                total += stages.vit + stages.scorer + stages.connector
                image_tokens -= self.budget.total(n)
                lengths[row] -= self.budget.removed(n)
        if image_frames:
            total += image_frames * self.dense_frame + image_tokens * self.connector
        total += sum(llm_flops(llm, n, 0) for n in lengths)
        total += 2.0 * int((batch["loss_masks"] > 0).sum()) * llm.d_model * llm.n_embeddings
        return TRAINING * total
