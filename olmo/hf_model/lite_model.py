"""``Molmo2LiteForConditionalGeneration``: the pruning model as a transformers model.

Vision runs once per ``generate``, before the loop: the removed tokens leave the prompt there, and
transformers' generation sees a shorter prompt only. Position ids, attention mask and cache length
therefore agree by themselves, whatever the decoding strategy. The returned sequences begin with the
prompt as it was given.

Legend: B rows, S tokens of the input, S' tokens after pruning, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.initialization import guard_torch_init_functions
from transformers.modeling_outputs import CausalLMOutputWithPast

from olmo.hf_model.lite_answer import AnswerMixin
from olmo.hf_model.lite_config import Molmo2LiteConfig, hub_or_folder
from olmo.hf_model.lite_prompt import (
    HfCache,
    PaddedPrompt,
    continuation_mask,
)
from olmo.models.hf_layout.keys import SCORER
from olmo.models.molmo2.molmo2 import Prompt
from olmo.models.pruning_choice import no_scorer
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from olmo.models.weights import CheckpointError
from olmo.nn.text_row import TextRow, text_row
from olmo.types import MODEL_INPUTS

IGNORED_LABEL = -100


@dataclass
class Molmo2LiteOutput(CausalLMOutputWithPast):
    """What ``forward`` returns: transformers' output, and what pruning made of the input.

    Attributes:
        loss: mean next-token loss plus the auxiliary loss of the scorer; None without labels.
        logits: [B, S', V] over the tokens that stayed.
        cache: the cache, if one is used; called ``past_key_values`` before transformers 5.24.
        hidden_states, attentions: always None.
        attention_mask: bool [B, S'] tokens that are no padding.
        position_ids: [B, S'].
        kept_tokens: bool [B, S] tokens of the input that stayed; None if all did.
    """

    attention_mask: Tensor | None = None
    position_ids: Tensor | None = None
    kept_tokens: Tensor | None = None


class Molmo2LiteForConditionalGeneration(AnswerMixin, PreTrainedModel, GenerationMixin):
    """The native model under ``model``, with transformers' loading, saving and generation."""

    config_class = Molmo2LiteConfig
    config: Molmo2LiteConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules: ClassVar[list[str]] = ["LlmBlock", "ViTBlock"]
    _supports_sdpa = True

    def __init__(self, config: Molmo2LiteConfig):
        super().__init__(config)
        self.model: TemporalVideoOlmo = config.to_native().build()
        self.post_init()

    @torch.no_grad()
    @guard_torch_init_functions()
    def initialize_weights(self) -> None:
        """Draw what was not loaded; transformers' guard leaves the rest alone."""
        self.model.reset_parameters()

    @classmethod
    def from_pretrained(
        cls, path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """As in transformers, but a folder that lacks a tensor is an error."""
        if kwargs.get("state_dict") is None:
            path = hub_or_folder(path)
        model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
        lost = sorted(info["missing_keys"])
        if lost and all(k.removeprefix("model.").startswith(SCORER) for k in lost):
            raise no_scorer(path, lost)
        if lost:
            raise CheckpointError(f"{path}: {len(lost)} missing keys, first {lost[0]!r}")
        return (model, info) if output_loading_info else model

    def get_input_embeddings(self) -> nn.Module:
        return self.model.transformer.wte

    def get_output_embeddings(self) -> nn.Module | None:
        return None  # a tied head has no module of its own

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        raise ValueError("the visual tokens follow the vocabulary: its size cannot change")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        images: Tensor | None = None,
        token_pooling: Tensor | None = None,
        num_images: Tensor | None = None,
        multimodal_type: Tensor | None = None,
        cache: Cache | None = None,
        prompt_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        topk: float | None = None,
        return_dict: bool | None = True,
        past_key_values: Cache | None = None,
    ) -> Molmo2LiteOutput:
        """Logits of a batch; videos lose the tokens that the scorer gives up.

        Args:
            input_ids: int64 [B, S], padded on either side.
            attention_mask: [B, S], or [B, cached + S] with a filled cache; 0 = padding.
            position_ids: [B, S]; default counts the valid tokens.
            images: [B, T, N, patch_dim] uint8, or float in [-1, 1].
            token_pooling: int64 [B, P, slots], see ``Molmo2``.
            num_images, multimodal_type: int [B, V], see ``TemporalVisionBackbone``.
            cache: keys and values of earlier tokens; filled with the new ones.
            prompt_embeds: [B, <= S, D] embeddings that replace those of the first tokens of an
                empty cache; ``generate`` hands its pruned prompt over with them.
            labels: int64 [B, S], the tokens themselves, -100 = no loss.
            logits_to_keep: logits of so many last positions only; 0 = all.
            topk: share of a video's tokens to remove; None is the config's.
            return_dict: what transformers' generation passes; there is no tuple form.
            past_key_values: ``cache``, as transformers before 5.24 names it.

        Raises:
            ValueError: images together with a filled cache, or with ``prompt_embeds``.
        """
        if return_dict is False:
            raise ValueError("return_dict=False is not supported")
        cache = past_key_values if cache is None else cache
        n_cached = 0 if cache is None else cache.get_seq_length()
        if images is not None and (n_cached or prompt_embeds is not None):
            raise ValueError("images belong to the first forward, before anything is in the cache")
        if cache is None and use_cache:
            cache = DynamicCache(config=self.config.get_text_config())
        kv = None if cache is None else HfCache(cache)
        if n_cached:
            assert kv is not None
            return self._continue(input_ids, attention_mask, position_ids, kv, logits_to_keep)
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "images": images,
            "token_pooling": token_pooling,
            "num_images": num_images,
            "multimodal_type": multimodal_type,
        }
        prompt = self.model.encode(batch, topk, prompt_embeds)
        row = prompt.row
        hidden = self.model.transformer(prompt.embeds, row.position_ids, prompt.mask, kv)
        if kv is not None:
            kv.note(None, row)
        logits = self.model.transformer.logits(hidden[:, -logits_to_keep:])
        return Molmo2LiteOutput(
            None if labels is None else self._loss(logits, labels, prompt, text_row(batch).valid),
            logits,
            cache,
            attention_mask=row.valid,
            position_ids=row.position_ids,
            kept_tokens=row.kept_tokens,
        )

    def _continue(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        kv: HfCache,
        logits_to_keep: int,
    ) -> Molmo2LiteOutput:
        """Text tokens behind a filled cache."""
        before, n_new = kv.row, input_ids.shape[1]
        if before is None or len(before.valid) != len(input_ids):
            raise ValueError("the cache was filled by something else, or with other rows")
        if n_new > 1:
            self.model.check_text(input_ids)
        total = kv.length + n_new
        valid = torch.cat((before.valid, torch.ones_like(input_ids, dtype=torch.bool)), 1)
        if attention_mask is not None:
            valid = attention_mask.bool()
        if valid.shape[1] != total:
            raise ValueError(
                f"attention_mask covers {valid.shape[1]} tokens of {total}: after pruning the "
                f"cache holds {kv.length}. Go on from the output's attention_mask, or leave it out"
            )
        if position_ids is None:
            last = before.position_ids.masked_fill(~before.valid, -1).amax(1, keepdim=True)
            position_ids = last + valid[:, -n_new:].cumsum(1)
        x = self.model.embed(input_ids)
        mask = continuation_mask(valid, n_new)
        hidden = self.model.transformer(x, position_ids, mask, kv)
        new = valid[:, -n_new:]
        kv.note(before, TextRow(input_ids.masked_fill(~new, -1), position_ids, new))
        return Molmo2LiteOutput(
            None,
            self.model.transformer.logits(hidden[:, -logits_to_keep:]),
            kv.cache,
            attention_mask=valid,
            position_ids=position_ids,
        )

    def _loss(self, logits: Tensor, labels: Tensor, prompt: Prompt, given: Tensor) -> Tensor:
        """Next-token loss; a token keeps the successor it had before pruning. ``given`` bool [B, S]
        are the tokens of the input that are no padding."""
        row = prompt.row
        if labels.shape != given.shape or logits.shape[:2] != row.valid.shape:
            raise ValueError(
                f"labels {tuple(labels.shape)} must cover the input {tuple(given.shape)} and all "
                "of the logits (logits_to_keep=0)"
            )
        targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
        if row.kept_tokens is not None:
            kept = torch.full_like(row.input_ids, IGNORED_LABEL)
            kept[row.valid] = targets[row.kept_tokens & given.to(targets.device)]
            targets = kept
        loss = nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL
        )
        aux = None if prompt.vision is None else prompt.vision.aux_loss
        return loss if aux is None else loss + aux

    @torch.no_grad()
    def encode_prompt(self, topk: float | None = None, **batch: Tensor | None) -> PaddedPrompt:
        """Run vision and drop what it removes. ``batch``: inputs of ``forward`` by name."""
        if unknown := batch.keys() - {*MODEL_INPUTS, "attention_mask"}:
            raise TypeError(f"no input of the model: {', '.join(sorted(unknown))}")
        return PaddedPrompt.of(self.model.encode(batch, topk), self.pad_token_id)

    @torch.no_grad()
    def generate_from_prompt(
        self,
        prompt: PaddedPrompt,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """transformers' ``generate`` on an encoded prompt; sequences begin with the pruned one.

        ``ValueError`` if the prompt and ``max_new_tokens`` do not fit the model's positions.
        """
        prompt.check_length(self.model, kwargs.get("max_new_tokens") or 1)
        names = ("cache", "past_key_values")
        given = next((kwargs[n] for n in names if kwargs.get(n) is not None), None)
        if given is not None:
            HfCache(given).prepare(prompt, self.model.config.llm.vocab_size)
        out = super().generate(
            prompt.row.input_ids,
            generation_config,
            attention_mask=prompt.row.valid.long(),
            position_ids=prompt.row.position_ids,
            prompt_embeds=prompt.embeds,
            **kwargs,
        )
        for cache in (given, *(getattr(out, n, None) for n in names)):
            if isinstance(cache, Cache):
                HfCache(cache).confirm(out if torch.is_tensor(out) else out.sequences)
        return out

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        images: Tensor | None = None,
        token_pooling: Tensor | None = None,
        num_images: Tensor | None = None,
        multimodal_type: Tensor | None = None,
        topk: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """As transformers' ``generate``: sequences [B * n, S + new], or its output object.

        ``topk`` is the share of every video's tokens to remove; None is the config's. A limit given
        as ``max_length`` counts the prompt after pruning; ``max_new_tokens`` says what it means.
        """
        given = inputs if input_ids is None else input_ids
        if given is None:
            raise ValueError("generate needs input_ids")
        prompt = self.encode_prompt(
            topk,
            input_ids=given,
            attention_mask=attention_mask,
            images=images,
            token_pooling=token_pooling,
            num_images=num_images,
            multimodal_type=multimodal_type,
        )
        out = self.generate_from_prompt(prompt, generation_config, **kwargs)
        sequences = out if torch.is_tensor(out) else out.sequences
        new = sequences[:, prompt.row.input_ids.shape[1] :]
        whole = torch.cat((given.repeat_interleave(len(new) // len(given), 0), new), 1)
        if torch.is_tensor(out):
            return whole
        out.sequences = whole
        return out

    @property
    def pad_token_id(self) -> int:
        """Id of padding in prompts; any will do, since it is masked."""
        config = cast(GenerationConfig, self.generation_config)
        return int(config.pad_token_id or 0)
