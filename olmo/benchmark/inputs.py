"""What the benchmark compares, and on what: settings of one model, and videos with text.

Legend: B rows, T frames per row, N patches, M cells per frame, S tokens of a row.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from olmo.benchmark.presets import LAYOUTS
from olmo.config import Config
from olmo.models.temporal_video_olmo.temporal_video_olmo import (
    TemporalVideoOlmo,
    TemporalVideoOlmoConfig,
)
from olmo.nn.token_pruning import PRUNE_METHODS
from olmo.patch_grid import pooling_windows
from olmo.token_budget import check_topk
from olmo.types import MultimodalType

TIME_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 6, 64, 64
"""Text of a row: before each frame, after the video, and the answer, which has the loss."""

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Setting:
    """How a model prunes; ``topk=None`` is the dense model."""

    topk: float | None = None
    method: str = "scorer"
    layout: str = "ragged"

    @property
    def label(self) -> str:
        if self == STOCK:
            return "dense, transformers"
        return "dense" if self.topk is None else f"{self.method} {self.layout} {self.topk:g}"

    def of(self, model: TemporalVideoOlmo) -> TemporalVideoOlmo:
        """The same parameters under this setting; ``model`` stays as it is. ``ValueError`` for a
        bad one."""
        fields: dict[str, Any] = {"prune": self.topk is not None}
        if self.topk is not None:
            fields |= {"topk": self.topk, "prune_method": self.method}
            fields["layout"], fields["refill"] = LAYOUTS[self.layout]
        backbone = model.config.vision_backbone
        backbone = replace(backbone, vit=replace(backbone.vit, **fields))
        other = _twin(model, replace(model.config, vision_backbone=backbone))
        other.vision_backbone = _twin(model.vision_backbone, backbone)
        other.vision_backbone.image_vit = _twin(model.vision_backbone.image_vit, backbone.vit)
        return other


def _twin(module: M, config: Config) -> M:
    """The same parts in another module, which has a ``config`` of its own."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    twin.config = config  # type: ignore[assignment]
    return twin


DENSE = Setting()
STOCK = Setting(None, "transformers")
"""The dense model in stock ``transformers``."""


def settings(
    topk: tuple[float, ...], methods: tuple[str, ...], layouts: tuple[str, ...]
) -> list[Setting]:
    """Dense, then all combinations. A method that prunes after the ViT has no layout.

    Raises ``ValueError`` for a name or value that does not exist.
    """
    for name, known, found in (
        ("layouts", tuple(LAYOUTS), layouts),
        ("methods", tuple(PRUNE_METHODS), methods),
    ):
        if unknown := [x for x in found if x not in known]:
            raise ValueError(f"{name}: {unknown[0]!r} is not one of {', '.join(known)}")
    for share in topk:
        check_topk(share)
    out = [DENSE]
    for method in methods:
        for layout in ("ragged",) if PRUNE_METHODS[method].pooled else layouts:
            out += [Setting(k, method, layout) for k in topk]
    return out


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
