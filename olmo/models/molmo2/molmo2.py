"""Molmo2: vision backbone + language model, dense.

Features of pooled tokens are added to the embeddings of the ``<im_patch>`` tokens, in order.
Legend: B rows, S tokens, T frame slots, N patches, P pooled tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from olmo.config import Config, section
from olmo.nn.generate import GenerateOutput, Sampling, generate
from olmo.nn.kv_cache import KVCache
from olmo.nn.llm import HeadFunction, LlmConfig, Transformer
from olmo.nn.llm_mask import BidirectionalMode, RowMask, TokenMask
from olmo.nn.text_row import TextRow, text_row
from olmo.nn.transfer import built_on, to_device
from olmo.nn.vision_backbone import VisionBackbone, VisionBackboneConfig, VisionOutput
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.collator import Collator
from olmo.preprocessing.multimodal import ExamplePreprocessor, Molmo2PreprocessorConfig
from olmo.token_budget import Budget
from olmo.tokenizer import MolmoTokenizer


@dataclass
class Molmo2Config(Config):
    """The ``model`` part of a ``config.yaml``."""

    model_name: str = "video_olmo"
    llm: LlmConfig = field(default_factory=LlmConfig)
    vision_backbone: VisionBackboneConfig = field(default_factory=VisionBackboneConfig)
    mm_preprocessor: Molmo2PreprocessorConfig = field(default_factory=Molmo2PreprocessorConfig)
    data_formatter: DataFormatterConfig = field(default_factory=DataFormatterConfig)
    bi_directional_attn: BidirectionalMode | None = "image_tokens"
    """Which visual tokens see each other in both directions; None = causal only."""

    @classmethod
    def upgrade(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Flat keys of the preprocessor go where they belong."""
        flat = dict(section(data, "mm_preprocessor"))
        return data | {"mm_preprocessor": Molmo2PreprocessorConfig.upgrade(flat)} if flat else data

    def __post_init__(self) -> None:
        if self.model_name != (own := type(self).model_name):
            raise ValueError(f"model_name {self.model_name!r} is not {own!r}")

    @property
    def budget(self) -> Budget:
        """What a video loses in this model: the rule of preprocessor, packer, model and reports."""
        video = self.mm_preprocessor.video
        return self.vision_backbone.budget(video.pooling_h, video.pooling_w)

    def build(self, device: torch.device | str | None = None) -> Molmo2:
        """Model with uninitialised parameters; see ``Molmo2.reset_parameters``."""
        with built_on(device):
            return Molmo2(self)

    def build_tokenizer(self) -> MolmoTokenizer:
        return self.llm.build_tokenizer()

    def build_preprocessor(
        self, tokenizer: MolmoTokenizer, max_sequence_length: int | None = None
    ) -> ExamplePreprocessor:
        """Turns examples into token ids and patches the way this model expects them."""
        vit = self.vision_backbone.vit
        return ExamplePreprocessor(
            config=self.mm_preprocessor,
            formatter=self.data_formatter,
            tokenizer=tokenizer,
            image_size=vit.image_default_input_size,
            patch_size=vit.image_patch_size,
            budget=self.budget,
            max_sequence_length=max_sequence_length,
        )

    def build_collator(
        self,
        seq_len: int | None = None,
        pad: Literal["longest", "to_max"] = "longest",
        max_frames: int | None = None,
        max_removed: int = 0,
    ) -> Collator:
        """Turns preprocessed examples into batches."""
        vit = self.vision_backbone.vit
        return Collator(
            seq_len=seq_len,
            pad=pad,
            n_patches=vit.n_patches,
            patch_dim=vit.patch_dim,
            max_frames_bound=max_frames,
            max_removed=max_removed,
        )


@dataclass
class Molmo2Output:
    """What ``forward`` returns.

    Attributes:
        logits: [B, S', V], or [n, V] at the positions of ``response_mask``, or the result of
            ``head``.
        hidden: [B, S', D] states after the final norm.
        kept_tokens: bool [B, S] tokens of the input that stayed; None if all did.
        valid: bool [B, S'] tokens that are no padding.
        position_ids: [B, S'].
        vision: output of the vision backbone, if there were images.
    """

    logits: Tensor
    hidden: Tensor
    valid: Tensor
    position_ids: Tensor
    kept_tokens: Tensor | None = None
    vision: VisionOutput | None = None


@dataclass(frozen=True)
class Prompt:
    """Rows as the language model is given them, on the device of their embeddings.

    Attributes:
        row: after pruning, [B, S'] each.
        embeds: [B, S', D] token embeddings, visual features added.
        mask: who sees whom.
        wanted: int64, places of the response mask's tokens among the B * S'; None without one.
        vision: output of the vision backbone, if there were images.
    """

    row: TextRow
    embeds: Tensor
    mask: RowMask
    wanted: Tensor | None = None
    vision: VisionOutput | None = None


class Molmo2(nn.Module):
    """The dense model. Build on any device, then ``reset_parameters`` or load weights."""

    def __init__(self, config: Molmo2Config):
        super().__init__()
        self.config = config
        self.special_ids = config.llm.special_ids()
        self.transformer = Transformer(config.llm)
        self.vision_backbone: VisionBackbone = config.vision_backbone.build(config.llm)
        self.embedding_dropout = nn.Dropout(config.llm.embedding_dropout)

    def reset_parameters(self) -> None:
        """Initialise every parameter (see the modules for the distributions)."""
        self.transformer.reset_parameters()
        self.vision_backbone.reset_parameters()

    @property
    def device(self) -> torch.device:
        return self.transformer.ln_f.weight.device

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        subsegment_ids: Tensor | None = None,
        images: Tensor | None = None,
        image_masks: Tensor | None = None,
        token_pooling: Tensor | None = None,
        num_images: Tensor | None = None,
        multimodal_type: Tensor | None = None,
        response_mask: Tensor | None = None,
        topk: float | None = None,
        cache: KVCache | None = None,
        head: HeadFunction = nn.functional.linear,
    ) -> Molmo2Output:
        """Run the model on a batch. The text's fields may lie on the host, where rows are planned:
        from a GPU they cost a wait.

        Args:
            input_ids: int64 [B, S], right padding -1.
            position_ids: [B, S]; default counts the valid tokens of a row.
            attention_mask: bool [B, S], True = no padding; default ``input_ids >= 0``. States and
                logits of padding mean nothing.
            subsegment_ids: [B, S] of packed or branched rows (needs ``position_ids``).
            images: [B, T, N, patch_dim] uint8, or float in [-1, 1].
            token_pooling: int64 [B, P, slots]; its valid rows belong, in order, to the
                ``<im_patch>`` tokens of the row.
            num_images, multimodal_type: int [B, V], see ``TemporalVisionBackbone``.
            response_mask: bool [B, S]; logits are computed for these tokens only.
            topk: share of a video's tokens to remove, in [0, 1); None is the config's.
            cache: filled with keys and values of this prompt.
            head: replaces the output projection, such as a loss that never holds all logits.

        Raises:
            ValueError: as many ``<im_patch>`` tokens as features are needed.
        """
        batch = {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "attention_mask": attention_mask,
            "subsegment_ids": subsegment_ids,
            "images": images,
            "image_masks": image_masks,
            "token_pooling": token_pooling,
            "num_images": num_images,
            "multimodal_type": multimodal_type,
            "response_mask": response_mask,
        }
        prompt = self.encode(batch, topk)
        row = prompt.row
        hidden = self.transformer(prompt.embeds, row.position_ids, prompt.mask, cache)
        asked = hidden if prompt.wanted is None else hidden.flatten(0, 1)[prompt.wanted]
        logits = self.transformer.logits(asked, head)
        return Molmo2Output(
            logits, hidden, row.valid, row.position_ids, row.kept_tokens, prompt.vision
        )

    def encode(
        self,
        batch: Mapping[str, Tensor | None],
        topk: float | None = None,
        embeds: Tensor | None = None,
    ) -> Prompt:
        """The whole way from pixels and token ids to what the language model is given.

        Args:
            batch: inputs by name, as ``forward`` explains them; ``input_ids`` may be padded on
                either side.
            topk: share of a video's tokens to remove; None is the config's.
            embeds: [B, n, D] known embeddings of the first tokens, visual features included; they
                take the place of ``images``.

        Raises:
            ValueError: visual inputs that do not belong together, or not to the text.
        """
        # 1. Vision: features of the visual tokens that stay. The host waits to know which.
        row, vision = text_row(batch), None
        if batch.get("images") is not None:
            vision = self.see(batch, topk)
        elif embeds is None:
            self.check_text(row.input_ids)
        # 2. Removed tokens leave the row, and the positions behind them move up.
        if vision is not None:
            row = self.drop_removed(row, vision)
        # 3. Plan who sees whom. This is still on the host, where lengths can be read.
        mode, patch = self.config.bi_directional_attn, self.special_ids["<im_patch>"]
        rule = TokenMask.build(row.input_ids, self.special_ids, mode, row.subsegment_ids, row.valid)
        found = [row.input_ids == patch, row.response_mask]
        places = [x.flatten().nonzero()[:, 0] for x in found if x is not None]
        # 4. Send the plan to the device; nobody waits for it.
        patches, *wanted = to_device(places, self.device)
        row = row.to(self.device)
        # 5. Embed: each feature is added to its <im_patch> token.
        x = self.embed(row.input_ids, vision, patches)
        if embeds is not None:
            x = torch.cat((embeds, x[:, embeds.shape[1] :]), 1)
        return Prompt(row, x, RowMask(rule, self.device), wanted[0] if wanted else None, vision)

    def see(self, batch: Mapping[str, Tensor | None], topk: float | None) -> VisionOutput:
        """The vision backbone on a ``batch`` with images."""
        if batch.get("token_pooling") is None:
            raise ValueError("images need token_pooling")
        names = ("images", "image_masks", "token_pooling", "num_images", "multimodal_type")
        given = map(batch.get, names)
        out: VisionOutput = self.vision_backbone(*given, topk)
        return out

    def drop_removed(self, row: TextRow, vision: VisionOutput) -> TextRow:
        """Hook for models that prune: remove tokens of ``row``, which lies on the host, that have
        no feature."""
        return row

    def n_aux_terms(self, batch: dict[str, Any]) -> int:
        """Terms that the auxiliary loss of ``batch`` is a mean of; 0 without pruning."""
        return 0

    @property
    def capturable(self) -> bool:
        """Whether ``decode_step`` can be a CUDA graph."""
        return self.device.type == "cuda"

    def decode_step(self, input_ids: Tensor, position_ids: Tensor, cache: KVCache) -> Tensor:
        """Logits [B, V] after one new token per row, input_ids and position_ids [B, 1], behind a
        ``cache`` whose prompt is in. Launches only: nothing is read on the host."""
        x = self.transformer.wte(input_ids)
        hidden = self.transformer(x, position_ids, cache.mask(), cache)
        return self.transformer.logits(hidden[:, -1])

    @torch.no_grad()
    def generate(
        self,
        batch: dict[str, Any],
        max_new_tokens: int,
        stop_ids: list[int],
        sampling: Sampling | None = None,
        topk: float | None = None,
    ) -> GenerateOutput:
        """Answers to a right-padded batch, greedy without ``sampling``; see
        ``olmo.nn.generate.generate``."""
        half = next(self.parameters()).dtype == torch.bfloat16 and self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if half else nullcontext():
            return generate(self, batch, max_new_tokens, stop_ids, sampling, topk)

    def embed(
        self, input_ids: Tensor, vision: VisionOutput | None = None, patches: Tensor | None = None
    ) -> Tensor:
        """Token embeddings [B, S, D], each feature of ``vision`` added to its ``<im_patch>``, whose
        places among the B * S tokens are ``patches``. ``ValueError`` if the counts differ."""
        x = self.transformer.wte(input_ids.clamp(min=0))
        if vision is not None and patches is not None:
            if len(patches) != len(vision.features):
                raise ValueError(
                    f"{len(patches)} <im_patch> tokens in the text, but "
                    f"{len(vision.features)} visual features"
                )
            x = x.flatten(0, 1).index_add(0, patches, vision.features.to(x.dtype)).view_as(x)
        return self.embedding_dropout(x)

    def check_text(self, input_ids: Tensor) -> None:
        """``ValueError`` for visual tokens in the ids of text alone."""
        n_patches = int((input_ids == self.special_ids["<im_patch>"]).sum())
        if n_patches:
            raise ValueError(f"{n_patches} <im_patch> tokens in the text, but no images")
