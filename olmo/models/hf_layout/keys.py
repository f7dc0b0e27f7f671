"""Names of the same tensors in the native layout and in others, as tables.

A rule says: *the rows of the native tensors, one under the other, are the rows of the other
tensors, one under the other*. A rename, a fused projection and a table cut in two are all such
rules, and every rule reads both ways.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from olmo.nn.llm import LlmConfig


@dataclass(frozen=True)
class Rule:
    """``*`` is a layer number, ``@`` is ``weight`` or ``bias``, ``**`` any name. All patterns of
    a rule have the same ones in the same order."""

    native: tuple[str, ...]
    other: tuple[str, ...]
    is_convolution: bool = False
    """The other tensor is [E, 3, p, p]; the native one [E, p * p * 3] in (row, column, colour)
    order. Read only."""


@dataclass(frozen=True)
class Group:
    """A rule applied to one name."""

    native: tuple[str, ...]
    other: tuple[str, ...]
    rule: Rule

    def other_rows(self, native_rows: Sequence[int], llm: LlmConfig) -> list[int]:
        """Rows of each of the other tensors, from those of the native ones."""
        if len(self.other) == len(self.native):
            return list(native_rows)
        if len(self.other) == 3:
            h = llm.head_size
            return [llm.n_heads * h, llm.kv_heads * h, llm.kv_heads * h]
        return [sum(native_rows) // len(self.other)] * len(self.other)


def rule(native: str, other: str, is_convolution: bool = False) -> Rule:
    """``"a + b"`` stands for two tensors."""
    return Rule(tuple(native.split(" + ")), tuple(other.split(" + ")), is_convolution)


def find_group(key: str, rules: Sequence[Rule]) -> Group | None:
    """The first rule that a native name matches, applied to it; None if no rule does."""
    for r in rules:
        for pattern in r.native:
            match = _regex(pattern).fullmatch(key)
            if match:
                native = tuple(_fill(p, match.groups()) for p in r.native)
                return Group(native, tuple(_fill(p, match.groups()) for p in r.other), r)
    return None


def native_name(key: str, rules: Sequence[Rule]) -> str:
    """The first native name whose rows ``key`` holds; ``key`` itself if no rule has it."""
    for r in rules:
        for pattern in r.other:
            if match := _regex(pattern).fullmatch(key):
                return _fill(r.native[0], match.groups())
    return key


WILDCARDS = {"**": "(.+)", "*": r"(\d+)", "@": "(weight|bias)"}


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*|@)", pattern)
    return re.compile("".join(WILDCARDS.get(p) or re.escape(p) for p in parts))


def _fill(pattern: str, values: Sequence[str]) -> str:
    left = iter(values)
    return re.sub(r"\*\*|\*|@", lambda _: next(left), pattern)


def _language_model(prefix: str, norms: tuple[str, str]) -> list[Rule]:
    """Rules of transformers' decoder-only models, without the embedding."""
    block, layer = "transformer.blocks.*.", f"{prefix}layers.*."
    attention, mlp = f"{layer}self_attn.", f"{layer}mlp."
    return [
        rule("transformer.ln_f.weight", f"{prefix}norm.weight"),
        rule("transformer.ff_out.weight", "lm_head.weight"),
        rule(
            f"{block}att_proj.weight",
            " + ".join(f"{attention}{name}_proj.weight" for name in "qkv"),
        ),
        rule(f"{block}attn_out.weight", f"{attention}o_proj.weight"),
        rule(f"{block}q_norm.weight", f"{attention}q_norm.weight"),
        rule(f"{block}k_norm.weight", f"{attention}k_norm.weight"),
        rule(f"{block}ff_proj.weight", f"{mlp}up_proj.weight + {mlp}gate_proj.weight"),
        rule(f"{block}ff_out.weight", f"{mlp}down_proj.weight"),
        rule(f"{block}attn_norm.weight", f"{layer}{norms[0]}.weight"),
        rule(f"{block}ff_norm.weight", f"{layer}{norms[1]}.weight"),
    ]


VIT = "vision_backbone.image_vit."


def _vit_blocks(layer: str, out: str) -> list[Rule]:
    """Rules of transformers' SigLIP blocks; ``out`` names the output projection."""
    block = f"{VIT}transformer.resblocks.*."
    names = {
        **{f"attention.w{x}": f"self_attn.{x}_proj" for x in "qkv"},
        "attention.wo": f"self_attn.{out}",
        "feed_forward.w1": "mlp.fc1",
        "feed_forward.w2": "mlp.fc2",
        "attention_norm": "layer_norm1",
        "ffn_norm": "layer_norm2",
    }
    return [rule(f"{block}{a}.@", f"{layer}{b}.@") for a, b in names.items()]


EMBEDDING = "transformer.wte.embedding"
TABLES = f"{EMBEDDING} + transformer.wte.new_embedding"
NATIVE_HEAD = "transformer.ff_out.weight"
HEAD = "lm_head.weight"
SCORER = f"{VIT}transformer.temporal_token_scorer."
VIT_BLOCK = re.compile(re.escape(f"{VIT}transformer.resblocks.") + r"(\d+)\.")
POOLING = "vision_backbone.image_pooling_2d."
PROJECTOR = "vision_backbone.image_projector."
CONNECTOR = "model.multi_modal_projector."

NATIVE_RULES = (rule("**", "**"),)

TRANSFORMERS_RULES = (
    rule(TABLES, "model.language_model.embed_tokens.weight"),
    *_language_model("model.language_model.", ("input_layernorm", "post_attention_layernorm")),
    *_vit_blocks("model.vision_tower.layers.*.", "o_proj"),
    rule(
        f"{VIT}transformer.temporal_token_scorer.**", "model.vision_tower.temporal_token_scorer.**"
    ),
    rule(f"{VIT}**", "model.vision_tower.**"),
    *[rule(f"{POOLING}w{x}.@", f"{CONNECTOR}image_pooling_2d.{x}_proj.@") for x in "qkvo"],
    rule(f"{PROJECTOR}w1.weight", f"{CONNECTOR}image_projector.gate_proj.weight"),
    rule(f"{PROJECTOR}w3.weight", f"{CONNECTOR}image_projector.up_proj.weight"),
    rule(f"{PROJECTOR}w2.weight", f"{CONNECTOR}image_projector.down_proj.weight"),
)

REMOTE_BLOCK = "model.transformer.blocks.*."
REMOTE_RULES = (
    rule(TABLES, "model.transformer.wte.embedding + model.transformer.wte.new_embedding"),
    rule(NATIVE_HEAD, HEAD),
    *[
        rule(f"transformer.blocks.*.{name}.weight", f"{REMOTE_BLOCK}{part}.{name}.weight")
        for part, names in {
            "self_attn": ("att_proj", "attn_out", "q_norm", "k_norm"),
            "mlp": ("ff_proj", "ff_out"),
        }.items()
        for name in names
    ],
    rule("**", "model.**"),
)


def siglip_rules(prefix: str = "") -> tuple[Rule, ...]:
    """transformers' SigLIP vision model (SigLIP2 is stored in the same form). ``prefix`` is
    ``vision_model.`` where the text model is in the same folder."""
    embeddings = f"{prefix}embeddings."
    patches = f"{embeddings}patch_embedding"
    return (
        rule(f"{VIT}patch_embedding.weight", f"{patches}.weight", is_convolution=True),
        rule(f"{VIT}patch_embedding.bias", f"{patches}.bias"),
        rule(f"{VIT}positional_embedding", f"{embeddings}position_embedding.weight"),
        *_vit_blocks(f"{prefix}encoder.layers.*.", "out_proj"),
    )


SIGLIP_UNREAD = re.compile(
    r"(vision_model\.)?(post_layernorm|head)\..+|text_model\..+|logit_(scale|bias)"
)
"""Parts of a SigLIP folder without a place in Molmo2's ViT."""

LLM_RULES: dict[str, tuple[Rule, ...]] = {
    model_type: (
        rule(EMBEDDING, "model.embed_tokens.weight"),
        *_language_model("model.", norms),
    )
    for model_type, norms in {
        "qwen3": ("input_layernorm", "post_attention_layernorm"),
        "olmo3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    }.items()
}
"""Plain language models by the ``model_type`` of their config."""

HF_RULES = {"transformers": TRANSFORMERS_RULES, "remote": REMOTE_RULES}
MARKERS = {
    "model.language_model.embed_tokens.weight": "transformers",
    "model.transformer.wte.embedding": "remote",
}
"""A tensor that tells the layout of a folder."""
