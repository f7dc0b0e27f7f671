"""What the benchmark runs: parts of a model, forward or forward and backward.

Legend: B rows, T frames per row, N patches, M cells per frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from olmo.eval.benchmark.clock import Clock
from olmo.eval.benchmark.inputs import ANSWER_TOKENS, Inputs, Setting
from olmo.models.temporal_video_olmo.temporal_video_olmo import (
    TemporalVideoOlmo,
    TemporalVideoOlmoConfig,
)
from olmo.nn.flops import StageFlops, model_flops
from olmo.nn.kv_cache import KVCache
from olmo.nn.token_pruning import PRUNE_METHODS


@dataclass
class Outcome:
    """What a run computed, for the checks.

    Attributes:
        values: the result: features of the ViT or of the connector, or logits.
        n_features: rows that the connector put out; None for the ViT alone.
        keep: bool [B, T * M] the cells that stayed.
        slot: [B * T * N] row of each patch in the ViT's features, -1 if removed; None = identity.
        row_lengths: tokens of each row that the language model saw; None without one.
        loss: of a training step.
    """

    values: Tensor
    keep: Tensor
    n_features: int | None = None
    slot: Tensor | None = None
    row_lengths: list[int] | None = None
    loss: Tensor | None = None
    aux_loss: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """A part of the model that is run on its own: ``forward`` and, if ``trains``, backward."""

    scope: str
    trains: bool

    def applies_to(self, setting: Setting) -> bool:
        """A method that prunes pooled tokens changes nothing in the ViT alone."""
        pooled = setting.topk is not None and PRUNE_METHODS[setting.method].pooled
        return not (self.scope == "vit" and pooled)


STAGES = {
    "vit": Stage("vit", False),
    "backbone": Stage("backbone", False),
    "prefill": Stage("model", False),
    "train_vit": Stage("vit", True),
    "train_backbone": Stage("backbone", True),
    "train": Stage("model", True),
}
"""``vit``: pixels to the outputs of the read blocks, scoring and planning included; ``backbone``:
ViT and connector; ``prefill``: with the language model, filling its cache; ``train...``: forward
and backward of the same, without an optimizer step."""


def run_vit(model: TemporalVideoOlmo, inputs: Inputs, trains: bool) -> Outcome:
    """The ViT alone, as the backbone calls it."""
    backbone, images = model.vision_backbone, inputs.images
    frames, vit = images.flatten(0, 1), backbone.image_vit
    if not model.config.vision_backbone.vit.prune:
        x = torch.cat(vit(frames, backbone.layers), -1).flatten(0, 1)
        keep = torch.ones(inputs.token_pooling.shape[:2], dtype=torch.bool, device=x.device)
        return Outcome(x, keep)
    table = backbone.frames(inputs.num_images, inputs.multimodal_type, images.shape[1])
    out = vit.forward_pruned(frames, table.to(images.device), backbone.layers)
    keep = out.keep_cells.reshape(inputs.n_rows, -1)
    return Outcome(out.features, keep, slot=out.slot, aux_loss=out.aux_loss)


def run_backbone(model: TemporalVideoOlmo, inputs: Inputs, trains: bool) -> Outcome:
    """ViT and connector."""
    out = model.vision_backbone(
        inputs.images, None, inputs.token_pooling, inputs.num_images, inputs.multimodal_type
    )
    return Outcome(out.features, out.keep, len(out.features), aux_loss=out.aux_loss)


def run_model(model: TemporalVideoOlmo, inputs: Inputs, trains: bool) -> Outcome:
    """The whole model: logits of the answer in training, else of the last token, and a cache."""
    wanted = inputs.answer
    if not trains:
        wanted = torch.zeros_like(wanted)
        wanted[:, -1] = True
    out = model(
        inputs.input_ids,
        images=inputs.images,
        token_pooling=inputs.token_pooling,
        num_images=inputs.num_images,
        multimodal_type=inputs.multimodal_type,
        response_mask=wanted,
        cache=None if trains else KVCache(),
    )
    vision = out.vision
    assert vision is not None
    lengths = out.valid.sum(1).tolist()
    n_features = len(vision.features)
    return Outcome(
        out.logits, vision.keep, n_features, row_lengths=lengths, aux_loss=vision.aux_loss
    )


SCOPES: dict[str, Callable[[TemporalVideoOlmo, Inputs, bool], Outcome]] = {
    "vit": run_vit,
    "backbone": run_backbone,
    "model": run_model,
}


def run_stage(
    model: TemporalVideoOlmo, inputs: Inputs, stage: Stage, clock: Clock | None = None
) -> Outcome:
    """One pass. In training the loss is the cross entropy of the answer, or the mean square of
    the features where there is no language model, plus the auxiliary loss of a learned scorer."""
    device = inputs.images.device.type
    half = next(model.parameters()).dtype == torch.bfloat16
    with (
        torch.set_grad_enabled(stage.trains),
        torch.autocast(device, torch.bfloat16, enabled=half),
    ):
        out = SCOPES[stage.scope](model, inputs, stage.trains)
    if not stage.trains:
        return out
    if stage.scope == "model":
        loss = F.cross_entropy(out.values.float(), inputs.input_ids[inputs.answer])
    else:
        loss = out.values.float().square().mean()
    loss = loss if out.aux_loss is None else loss + out.aux_loss
    with (clock or Clock(inputs.images.device)).span("backward"):
        loss.backward()
    return dataclasses.replace(out, values=out.values.detach(), loss=loss.detach(), aux_loss=None)


def stage_flops(config: TemporalVideoOlmoConfig, inputs: Inputs, stage: Stage) -> StageFlops:
    """Forward FLOPs of one row as ``config`` is set, 0 for what the stage leaves out."""
    pool = config.vision_backbone.video_pooling
    n_logits = ANSWER_TOKENS if stage.trains else 1
    flops = model_flops(
        config.vision_backbone, config.llm, inputs.n_frames, inputs.n_text_tokens, n_logits, pool
    )
    if stage.scope != "model":
        flops = dataclasses.replace(flops, llm=0.0)
    if stage.scope == "vit":
        flops = dataclasses.replace(flops, connector=0.0)
    return flops
