"""What the benchmark runs: videos with text, and parts of a model on them, forward or forward and
backward.

Legend: B rows, T frames per row, N patches, M cells per frame, S tokens of a row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from olmo.benchmark.clock import BACKWARD, Clock
from olmo.benchmark.plan import Group, Setting, Stage
from olmo.models.temporal_video_olmo.temporal_video_olmo import (
    TemporalVideoOlmo,
    TemporalVideoOlmoConfig,
)
from olmo.nn.flops import decode_bytes, decode_flops, model_flops
from olmo.nn.kv_cache import KVCache
from olmo.patch_grid import pooling_windows
from olmo.types import MultimodalType

TIME_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 6, 64, 64
"""Text of a row: before each frame, after the video, and the answer, which has the loss."""


@dataclass(frozen=True)
class Inputs:
    """One video and its text per row.

    Attributes:
        images: uint8 [B, T, N, patch_dim]. Each frame redraws a random share of the patches of
            the one before, so that the frames of a video differ in how much is new.
        token_pooling: int64 [B, T * M, slots].
        num_images, multimodal_type: int64 [B, 1], on the CPU.
        input_ids: int64 [B, S].
        answer: bool [B, S], the tokens with a loss.
    """

    images: Tensor
    token_pooling: Tensor
    num_images: Tensor
    multimodal_type: Tensor
    input_ids: Tensor
    answer: Tensor

    @classmethod
    def make(
        cls,
        config: TemporalVideoOlmoConfig,
        n_frames: int,
        n_rows: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        n_question: int = QUESTION_TOKENS,
    ) -> Inputs:
        """The same for the same arguments."""
        vit, pool = config.vision_backbone.vit, config.vision_backbone.video_pooling
        generator = torch.Generator().manual_seed(seed)
        images = _drifting_frames((n_rows, n_frames, vit.n_patches, vit.patch_dim), generator)
        windows = torch.from_numpy(pooling_windows(*vit.image_num_patch, pool, pool))
        starts = torch.arange(n_frames)[:, None, None] * vit.n_patches
        pooling = torch.where(windows >= 0, windows + starts, -1).flatten(0, 1)
        ids = config.llm.special_ids()
        frame = [ids["<frame_start>"], *[ids["<im_patch>"]] * len(windows), ids["<frame_end>"]]
        row = torch.tensor(
            ([0] * TIME_TOKENS + frame) * n_frames + [0] * (n_question + ANSWER_TOKENS)
        ).repeat(n_rows, 1)
        text = torch.randint(0, config.llm.vocab_size, row.shape, generator=generator)
        row = torch.where(row == 0, text, row)
        return cls(
            images.to(device),
            pooling.repeat(n_rows, 1, 1).to(device),
            torch.full((n_rows, 1), n_frames),
            torch.full((n_rows, 1), int(MultimodalType.VIDEO)),
            row.to(device),
            (torch.arange(row.shape[1]) >= row.shape[1] - ANSWER_TOKENS)
            .repeat(n_rows, 1)
            .to(device),
        )

    @property
    def n_rows(self) -> int:
        return self.images.shape[0]

    @property
    def n_frames(self) -> int:
        return self.images.shape[1]

    @property
    def n_text_tokens(self) -> int:
        """Tokens of a row that are not visual features."""
        return self.input_ids.shape[1] - self.token_pooling.shape[1]

    def batch(self) -> dict[str, Tensor]:
        """What the model takes."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in named.items() if name != "answer"}

    def digest(self) -> str:
        """Hash of all values."""
        h = hashlib.sha256()
        for f in dataclasses.fields(self):
            h.update(getattr(self, f.name).contiguous().cpu().numpy().tobytes())
        return h.hexdigest()

    def n_kept(self, config: TemporalVideoOlmoConfig, setting: Setting) -> int:
        """Cells of a row that must survive, from the budget rule alone."""
        return config.budget.at(setting.topk or 0.0).kept(self.n_frames)


def _drifting_frames(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    n_rows, n_frames, n_patches, patch_dim = shape
    out = torch.empty(shape, dtype=torch.uint8)
    for row in range(n_rows):
        frame = torch.zeros(n_patches, patch_dim, dtype=torch.uint8)
        for t in range(n_frames):
            new = torch.rand(n_patches, generator=generator) < torch.rand(1, generator=generator)
            drawn = torch.randint(0, 256, frame.shape, generator=generator, dtype=torch.uint8)
            frame = drawn if t == 0 else torch.where(new[:, None], drawn, frame)
            out[row, t] = frame
    return out


def round_inputs(
    group: Group, model: TemporalVideoOlmo, n_rounds: int, seed: int = 0
) -> list[Inputs]:
    """One for each round, the same one if the shapes are fixed."""
    if not group.vary:
        n_rounds, frames, questions = 1, [group.n_frames], [QUESTION_TOKENS]
    else:
        draw = random.Random(seed)
        frames = [*range(group.n_frames - group.n_frames // 10, group.n_frames + 1)]
        questions = [*range(QUESTION_TOKENS // 2, 2 * QUESTION_TOKENS)]
        draw.shuffle(frames)
        draw.shuffle(questions)
    return [
        Inputs.make(model.config, n_frames, group.n_rows, seed + i, model.device, n_question)
        for i, n_frames, n_question in zip(range(n_rounds), cycle(frames), cycle(questions))
    ]


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
    """One pass."""
    device = inputs.images.device.type
    half = next(model.parameters()).dtype == torch.bfloat16
    with (
        torch.set_grad_enabled(stage.trains),
        torch.autocast(device, torch.bfloat16, enabled=half),
    ):
        out = SCOPES[stage.scope](model, inputs, stage)
    return backward(out, inputs, stage, clock) if stage.trains else out


def backward(out: Outcome, inputs: Inputs, stage: Stage, clock: Clock | None) -> Outcome:
    """The second half of a training pass. The loss is the cross entropy of the answer, or the mean
    square of the features where there is no language model, plus the auxiliary loss of a learned
    scorer."""
    if stage.scope == "model":
        loss = F.cross_entropy(out.values.float(), inputs.input_ids[inputs.answer])
    else:
        loss = out.values.float().square().mean()
    loss = loss if out.aux_loss is None else loss + out.aux_loss
    with clock.stage(BACKWARD) if clock else contextlib.nullcontext():
        loss.backward()
    return dataclasses.replace(out, values=out.values.detach(), loss=loss.detach(), aux_loss=None)


@dataclass(frozen=True)
class Work:
    """What a run needs at least, for all rows together.

    Attributes:
        flops: of the forward pass by part of the model; a training step needs the same multiple
            of it with and without pruning.
        bytes: that decoding must read; 0 for stages that are bound by FLOPs.
    """

    flops: dict[str, float]
    bytes: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.flops.values())

    @property
    def bound(self) -> float:
        """Bytes if memory limits the speed (decoding), else FLOPs."""
        return self.bytes or self.total

    @classmethod
    def mean(cls, works: Sequence[Work]) -> Work:
        """Over runs on different shapes."""
        flops = {name: fmean(w.flops[name] for w in works) for name in works[0].flops}
        return cls(flops, fmean(w.bytes for w in works))


def stage_work(model: TemporalVideoOlmo, inputs: Inputs, setting: Setting, stage: Stage) -> Work:
    """Work of ``model`` under ``setting``, 0 for what the stage leaves out."""
    model = setting.of(model)
    vision, llm, n_rows = model.config.vision_backbone, model.config.llm, inputs.n_rows
    if stage.new_tokens:
        n_prompt = inputs.n_kept(model.config, setting) + inputs.n_text_tokens
        steps, size = stage.new_tokens - 1, next(model.parameters()).element_size()
        flops = {"vit": 0.0, "scorer": 0.0, "connector": 0.0}
        flops["llm"] = n_rows * decode_flops(llm, n_prompt, steps)
        return Work(flops, decode_bytes(llm, n_prompt, steps, n_rows, size))
    n_logits, pool = ANSWER_TOKENS if stage.trains else 1, vision.video_pooling
    found = model_flops(vision, llm, inputs.n_frames, inputs.n_text_tokens, n_logits, pool)
    left_out = {"vit": ("connector", "llm"), "backbone": ("llm",)}.get(stage.scope, ())
    parts = dataclasses.asdict(found).items()
    return Work({name: 0.0 if name in left_out else n_rows * n for name, n in parts})
