"""Names of the same tensors in the native layout and in others, by the tables of ``names.yaml``.

A rename, a fused projection and a table cut in two are all rows there, and each reads both ways.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from olmo.config import read_settings
from olmo.nn.llm import LlmConfig


@dataclass(frozen=True)
class Rule:
    """The rows of the ``native`` tensors, one under the other, are those of the ``other`` ones. In
    the patterns of a table, or with a name filled in."""

    native: tuple[str, ...]
    other: tuple[str, ...]

    def other_rows(self, native_rows: Sequence[int], llm: LlmConfig) -> list[int]:
        """Rows of each of the other tensors, from those of the native ones."""
        if len(self.other) == len(self.native):
            return list(native_rows)
        if len(self.other) == 3:
            h = llm.head_size
            return [llm.n_heads * h, llm.kv_heads * h, llm.kv_heads * h]
        return [sum(native_rows) // len(self.other)] * len(self.other)


def find_group(key: str, rules: Sequence[Rule]) -> Rule | None:
    """The first rule that a native name matches, applied to it; None if no rule does."""
    for r in rules:
        for pattern in r.native:
            if match := _regex(pattern).fullmatch(key):
                native = tuple(_fill(p, match.groups()) for p in r.native)
                return Rule(native, tuple(_fill(p, match.groups()) for p in r.other))
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


VIT = "vision_backbone.image_vit."
PATCHES = f"{VIT}patch_embedding.weight"
"""[E, p * p * 3] in (row, column, colour) order; a convolution [E, 3, p, p] is read as well."""
EMBEDDING = "transformer.wte.embedding"
NATIVE_HEAD = "transformer.ff_out.weight"
HEAD = "lm_head.weight"
SCORER = f"{VIT}transformer.temporal_token_scorer."
VIT_BLOCK = re.compile(re.escape(f"{VIT}transformer.resblocks.") + r"(\d+)\.")
SIGLIP_UNREAD = re.compile(
    r"(vision_model\.)?(post_layernorm|head)\..+|text_model\..+|logit_(scale|bias)"
)
"""Parts of a SigLIP folder without a place in Molmo2's ViT."""

RULES: dict[str, tuple[Rule, ...]] = {
    layout: tuple(Rule(tuple(a.split(" + ")), tuple(b.split(" + "))) for a, b in rows.items())
    for layout, rows in read_settings(Path(__file__).with_name("names.yaml")).items()
}
NATIVE_RULES = (Rule(("**",), ("**",)),)
HF_RULES = {layout: RULES[layout] for layout in ("transformers", "remote")}
LLM_RULES = {model_type: RULES[model_type] for model_type in ("qwen3", "olmo3")}
MARKERS = {
    "model.language_model.embed_tokens.weight": "transformers",
    "model.transformer.wte.embedding": "remote",
}
"""A tensor that tells the layout of a folder."""


def siglip_rules(prefix: str = "") -> tuple[Rule, ...]:
    """``prefix`` is ``vision_model.`` where the text model is in the same folder."""
    return tuple(Rule(r.native, (prefix + r.other[0],)) for r in RULES["siglip"])
