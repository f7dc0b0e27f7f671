"""What the benchmark runs: parts of a model, forward or forward and backward.

Legend: B rows, T frames per row, N patches, M cells per frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from olmo.benchmark.clock import Clock
from olmo.benchmark.decode_work import decode_bytes, decode_flops
from olmo.benchmark.inputs import ANSWER_TOKENS, STOCK, Inputs, Setting
from olmo.benchmark.presets import Stage
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from olmo.nn.flops import StageFlops, model_flops
from olmo.nn.kv_cache import KVCache
from olmo.nn.token_pruning import PRUNE_METHODS


@dataclass
class Outcome:
    """What a run computed, for the checks.

    Attributes:
        values: the result: features of the ViT or of the connector, logits, or scores of answers.
        keep: bool [B, T * M] the cells that stayed; None where a model does not tell.
        n_features: rows that the connector put out; None for the ViT alone.
        slot: [B * T * N] row of each patch in the ViT's features, -1 if removed; None = identity.
        row_lengths: tokens of each row that the language model saw; None without one.
        loss: of a training step.
        tokens: int64 [B, new tokens] of a decoding stage.
        timings: seconds of its ``prefill`` and ``decode``; the latter are the time of the run.
    """

    values: Tensor
    keep: Tensor | None = None
    n_features: int | None = None
    slot: Tensor | None = None
    row_lengths: list[int] | None = None
    loss: Tensor | None = None
    aux_loss: Tensor | None = None
    tokens: Tensor | None = None
    timings: dict[str, float] = field(default_factory=dict)


def applies(stage: Stage, setting: Setting) -> bool:
    """A method that prunes pooled tokens changes nothing in the ViT alone; stock ``transformers``
    runs whole models."""
    if setting == STOCK:
        return stage.scope == "model"
    pooled = setting.topk is not None and PRUNE_METHODS[setting.method].pooled
    return not (stage.scope == "vit" and pooled)


NO_STOP = -1
"""A stop id that no token has."""


def run_vit(model: TemporalVideoOlmo, inputs: Inputs, stage: Stage) -> Outcome:
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


def run_backbone(model: TemporalVideoOlmo, inputs: Inputs, stage: Stage) -> Outcome:
    """ViT and connector."""
    out = model.vision_backbone(
        inputs.images, None, inputs.token_pooling, inputs.num_images, inputs.multimodal_type
    )
    return Outcome(out.features, out.keep, len(out.features), aux_loss=out.aux_loss)


def run_model(model: TemporalVideoOlmo, inputs: Inputs, stage: Stage) -> Outcome:
    """The whole model: logits of the answer in training, else of the last token, and a cache; or
    the tokens of an answer, their summed log-probabilities as values."""
    if stage.new_tokens:
        answer = model.generate(inputs.batch(), stage.new_tokens, [NO_STOP])
        return Outcome(
            answer.scores,
            row_lengths=answer.n_prompt_tokens.tolist(),
            tokens=answer.token_ids,
            timings=answer.timings,
        )
    wanted = inputs.answer
    if not stage.trains:
        wanted = torch.zeros_like(wanted)
        wanted[:, -1] = True
    cache = None if stage.trains else KVCache()
    out = model(**inputs.batch(), response_mask=wanted, cache=cache)
    vision = out.vision
    assert vision is not None
    lengths = out.valid.sum(1).tolist()
    n_features = len(vision.features)
    return Outcome(
        out.logits, vision.keep, n_features, row_lengths=lengths, aux_loss=vision.aux_loss
    )


SCOPES: dict[str, Callable[[TemporalVideoOlmo, Inputs, Stage], Outcome]] = {
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
        out = SCOPES[stage.scope](model, inputs, stage)
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


@dataclass(frozen=True)
class Work:
    """What a run needs at least, for all rows together.

    Attributes:
        flops: of the forward pass; a training step needs the same multiple of it with and
            without pruning.
        bytes: that decoding must read; 0 for stages that are bound by FLOPs.
    """

    flops: StageFlops
    bytes: float = 0.0

    @property
    def bound(self) -> float:
        """Bytes if memory limits the speed (decoding), else FLOPs."""
        return self.bytes or self.flops.total


def stage_work(model: TemporalVideoOlmo, inputs: Inputs, setting: Setting, stage: Stage) -> Work:
    """Work of ``model`` under ``setting``, 0 for what the stage leaves out."""
    model = setting.of(model)
    config, n_rows = model.config, inputs.n_rows
    if stage.new_tokens:
        n_prompt = inputs.n_kept(config, setting) + inputs.n_text_tokens
        steps, size = stage.new_tokens - 1, next(model.parameters()).element_size()
        flops = StageFlops(0.0, 0.0, 0.0, n_rows * decode_flops(config.llm, n_prompt, steps))
        return Work(flops, decode_bytes(config.llm, n_prompt, steps, n_rows, size))
    pool = config.vision_backbone.video_pooling
    n_logits = ANSWER_TOKENS if stage.trains else 1
    flops = model_flops(
        config.vision_backbone, config.llm, inputs.n_frames, inputs.n_text_tokens, n_logits, pool
    )
    left_out = {"vit": ("connector", "llm"), "backbone": ("llm",)}.get(stage.scope, ())
    parts = dataclasses.asdict(flops).items()
    return Work(StageFlops(**{k: 0.0 if k in left_out else n_rows * v for k, v in parts}))


def mean_work(works: Sequence[Work]) -> Work:
    """Mean over runs on different shapes."""
    parts = [dataclasses.asdict(w.flops) for w in works]
    flops = {name: fmean(part[name] for part in parts) for name in parts[0]}
    return Work(StageFlops(**flops), fmean(w.bytes for w in works))
