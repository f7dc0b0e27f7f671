"""The dense model as stock ``transformers`` runs it: same weights, same inputs.

The weights are views of ours (but for the embedding, whose two tables are one there), so that
they take no memory of their own. In bfloat16 it runs without autocast, as its users do. Pixels
are floats before the time starts, as its processor gives them; ours are bytes.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from olmo.benchmark.clock import Clock
from olmo.benchmark.plan import Stage
from olmo.benchmark.work import ANSWER_TOKENS, Inputs, Outcome, backward
from olmo.device import device_seconds
from olmo.models.hf_layout.config import to_hf
from olmo.models.hf_layout.keys import HEAD, HF_RULES, SCORER, find_group
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from olmo.tokenizer import BIDIRECTIONAL_TOKENS

MODULE = "transformers.models.molmo2.modeling_molmo2"


def stock_classes() -> Any:
    """transformers' module of Molmo2. ``ValueError`` where it has none."""
    try:
        return import_module(MODULE)
    except ImportError as e:
        raise ValueError(f"--baseline transformers needs {MODULE}: {e}") from e


class Stock:
    """``Molmo2ForConditionalGeneration`` with ``sdpa`` attention over the weights of ``model``."""

    def __init__(self, model: TemporalVideoOlmo):
        config, classes = model.config, stock_classes()
        if config.bi_directional_attn != "image_tokens":
            raise ValueError("transformers has bi_directional_attn=image_tokens only")
        ids = [config.llm.special_ids()[token] for token in BIDIRECTIONAL_TOKENS]
        self.visual_ids = torch.tensor(ids, device=model.device)
        made = classes.Molmo2Config(**to_hf(config, "transformers"))
        made._attn_implementation = "sdpa"
        with torch.device("meta"):
            self.model = classes.Molmo2ForConditionalGeneration(made)
        self.model.load_state_dict(stock_state(model), assign=True)
        text = self.model.model.language_model
        for name, scaled in (("rotary_emb", True), ("rotary_emb_unscaled", False)):
            rotary = classes.Molmo2RotaryEmbedding(made.text_config, scaled=scaled)
            setattr(text, name, rotary.to(model.device))
        if config.llm.activation_checkpoint:
            text.gradient_checkpointing_enable()
        if config.vision_backbone.vit.activation_checkpointing:
            self.vit.gradient_checkpointing_enable()
        self.batch: dict[str, Any] = {}

    @property
    def vit(self) -> Any:
        return self.model.model.vision_tower

    def prepare(self, inputs: Inputs) -> None:
        """Bring ``inputs`` into transformers' form, for the next runs."""
        n_rows, n_frames, n_patches = inputs.images.shape[:3]
        starts = torch.arange(n_rows, device=inputs.images.device)[:, None, None]
        pooling = inputs.token_pooling
        pooling = torch.where(pooling >= 0, pooling + starts * n_frames * n_patches, -1)
        pixels = inputs.images.flatten(0, 1).float() / 255 * 2 - 1
        n_cells = pooling.shape[1] // n_frames
        self.batch = {
            "input_ids": inputs.input_ids,
            "attention_mask": torch.ones_like(inputs.input_ids),
            "mm_token_type_ids": torch.isin(inputs.input_ids, self.visual_ids).long(),
            "pixel_values_videos": pixels.to(self.model.dtype),
            "video_token_pooling": pooling.flatten(0, 1),
            "video_grids": torch.tensor([[n_frames, 1, n_cells]] * n_rows),
        }

    def run(self, inputs: Inputs, stage: Stage, clock: Clock | None = None) -> Outcome:
        """The same as ``run_stage`` of our dense model, on prepared ``inputs``."""
        if stage.new_tokens:
            return self._decode(inputs, stage)
        n_logits = ANSWER_TOKENS if stage.trains else 1
        with torch.set_grad_enabled(stage.trains):
            out = self.model(**self.batch, use_cache=not stage.trains, logits_to_keep=n_logits)
        found = Outcome(out.logits.flatten(0, 1), row_lengths=_lengths(inputs))
        return backward(found, inputs, stage, clock) if stage.trains else found

    @torch.no_grad()
    def _decode(self, inputs: Inputs, stage: Stage) -> Outcome:
        device = inputs.images.device
        marks: list[float] = []

        def mark(input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
            """Called behind every token: with the first one the prefill ends."""
            if not marks:
                marks.append(device_seconds(device))
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        start = device_seconds(device)
        out = self.model.generate(
            **self.batch, **options, max_new_tokens=stage.new_tokens, stopping_criteria=[mark]
        )
        end = device_seconds(device)
        timings = {"prefill": marks[0] - start, "decode": end - marks[0]}
        tokens = out[:, inputs.input_ids.shape[1] :]
        return Outcome(tokens, row_lengths=_lengths(inputs), tokens=tokens, timings=timings)


def _lengths(inputs: Inputs) -> list[int]:
    return [inputs.input_ids.shape[1]] * inputs.n_rows


def stock_state(model: TemporalVideoOlmo) -> dict[str, Tensor]:
    """The weights by transformers' names: views of ours wherever rows are cut and not joined."""
    state = model.state_dict()
    out: dict[str, Tensor] = {}
    for key in state:
        group = find_group(key, HF_RULES["transformers"])
        if key.startswith(SCORER) or group is None or group.other[0] in out:
            continue
        native = [state[name] for name in group.native]
        rows = native[0] if len(native) == 1 else torch.cat(native)
        lengths = group.other_rows([len(part) for part in native], model.config.llm)
        whole = len(group.other) == 1
        out |= zip(group.other, [rows] if whole else rows.split(lengths), strict=True)
    return out if HEAD in out else out | {HEAD: state["transformer.wte.embedding"]}
