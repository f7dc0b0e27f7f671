"""Text tokenizer plus the visual special tokens.

The fourteen special tokens follow the padded vocabulary: token ``i`` has id ``base + i``, with
``base`` the LLM's ``vocab_size``. Published Molmo2 checkpoints depend on order and ids.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RawTokenizer

from olmo.config import Config, ConfigError, FilePath
from olmo.outside import OutsideError, foreign

SPECIAL_TOKENS = (
    *("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>"),
    *("<im_low>", "<frame_start>", "<frame_end>", "<|video|>", "<|points|>", "<|token_index|>"),
    *("<|vit_index|>", "<|vit_loc|>"),
)
BIDIRECTIONAL_TOKENS = (
    *("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>"),
    *("<im_end>", "<frame_end>", "<im_low>"),
)
"""Tokens that see each other in both directions when ``bi_directional_attn`` is on."""

FILLER = "|<EXTRA_TOKENS_{}>|"
"""Tokens that pad a published tokenizer up to the model's vocabulary."""

EOS_TOKENS = ("<|im_end|>", "<|endoftext|>")
CONTROL_TOKENS = ("<|im_start|>", *EOS_TOKENS)
"""What a chat template writes beside text."""
BUILT_IN = "olmo/tiny"
ASSETS = Path(__file__).parent / "assets"


@dataclass
class TokenizerConfig(Config):
    """``identifier``: ``olmo/tiny`` (ships with the package), a folder with a
    ``tokenizer.json``, or a Hugging Face name (looked up in the hub or its cache)."""

    identifier: FilePath = BUILT_IN
    tokenizer_dir: FilePath | None = None

    def build(self, vocab_size: int) -> MolmoTokenizer:
        """Load and extend to ``vocab_size`` + the special tokens."""
        raw = _load_raw(self.identifier, self.tokenizer_dir)
        return MolmoTokenizer(text_tokens(raw, vocab_size), vocab_size)


def special_token_ids(vocab_size: int) -> dict[str, int]:
    """Ids of the special tokens over a vocabulary padded to ``vocab_size``."""
    return {token: vocab_size + i for i, token in enumerate(SPECIAL_TOKENS)}


@dataclass
class MolmoTokenizer:
    """A raw tokenizer with the visual tokens appended after ``vocab_size`` entries.

    It belongs to this object, which tells it to read no special token from text. Raises
    ``ValueError`` when the raw vocabulary is larger than ``vocab_size`` or has no end-of-sequence
    token.
    """

    raw: RawTokenizer
    vocab_size: int
    ids: dict[str, int] = dataclasses.field(init=False)
    eos_id: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        n_text = self.raw.get_vocab_size(with_added_tokens=True)
        if n_text > self.vocab_size:
            raise ValueError(f"tokenizer has {n_text} entries, llm.vocab_size is {self.vocab_size}")
        last = max(self.raw.get_vocab(with_added_tokens=True).values(), default=0)
        if last >= self.vocab_size:
            raise ValueError(f"tokenizer has the id {last}, llm.vocab_size is {self.vocab_size}")
        self.ids = special_token_ids(self.vocab_size)
        eos = [self.raw.token_to_id(t) for t in EOS_TOKENS]
        found = [i for i in eos if i is not None]
        if not found:
            raise ValueError(f"tokenizer has none of the end tokens {EOS_TOKENS}")
        self.eos_id = found[0]
        self.raw.encode_special_tokens = True  # "encode the characters", in that library's words

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew in another process: a pickled raw tokenizer forgets what it was told."""
        return MolmoTokenizer, (self.raw, self.vocab_size)

    @property
    def bos_id(self) -> int:
        """EOS plays BOS, as in every released Molmo2 model."""
        return self.eos_id

    def encode(self, text: str) -> list[int]:
        """Token ids of ordinary text: nothing is added, and the characters of a control or visual
        token are characters. (Added tokens that are not special, as ``<think>`` of Qwen3, stay one
        token each.) ``OutsideError`` for broken text, such as half of a surrogate pair."""
        with foreign(lambda reason: OutsideError(f"{text!r:.80} cannot be encoded: {reason}")):
            return list(self.raw.encode(text, add_special_tokens=False).ids)

    def control_id(self, token: str) -> int | None:
        """Id of one of ``CONTROL_TOKENS``; None for another one, or if the tokenizer lacks it."""
        found: int | None = self.raw.token_to_id(token) if token in CONTROL_TOKENS else None
        return found

    def reserved(self) -> list[str]:
        """What tokenizers of others read from a text as one special token: control and visual
        tokens, and the beginning of a filler."""
        added = self.raw.get_added_tokens_decoder().values()
        own = [token.content for token in added if token.special]
        return [*own, *SPECIAL_TOKENS, FILLER.partition("{}")[0]]

    def before_end(self, ids: Iterable[int], ends: Collection[int] | None = None) -> list[int]:
        """Generated ids up to the first of ``ends``, which is left out; the default is EOS."""
        stops = [self.eos_id] if ends is None else ends
        return list(itertools.takewhile(lambda i: i not in stops, ids))

    def decode(self, ids: list[int], truncate_at_eos: bool = True) -> str:
        """Text of ``ids``. A leading EOS (playing BOS) is dropped; then the text ends at the
        first EOS if ``truncate_at_eos``. Visual tokens and padding are left out."""
        if truncate_at_eos:
            ids = self.before_end(ids[1:] if ids and ids[0] == self.bos_id else ids)
        kept = [i for i in ids if 0 <= i < self.vocab_size]
        return self.raw.decode(kept, skip_special_tokens=False)


def text_tokens(raw: RawTokenizer, vocab_size: int) -> RawTokenizer:
    """``raw`` without fillers and visual tokens, which the tokenizer of an exported model has, so
    that none of them is read from text. ``ValueError`` if a visual token has another id."""
    if raw.token_to_id(SPECIAL_TOKENS[0]) is None:
        return raw
    for token, want in special_token_ids(vocab_size).items():
        if raw.token_to_id(token) != want:
            raise ValueError(
                f"tokenizer has {token} at {raw.token_to_id(token)}, the model expects {want}"
            )
    extra = {FILLER.format(i) for i in range(vocab_size)} | set(SPECIAL_TOKENS)
    data = json.loads(raw.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in extra]
    return RawTokenizer.from_str(json.dumps(data))


def _load_raw(identifier: str, cache_dir: str | None) -> RawTokenizer:
    folder = ASSETS / "tiny_tokenizer" if identifier == BUILT_IN else Path(identifier)
    file = folder / "tokenizer.json"
    if file.is_file():
        with foreign(lambda reason: ConfigError(f"{file}: not a readable tokenizer: {reason}")):
            return RawTokenizer.from_file(str(file))
    if folder.exists():
        raise FileNotFoundError(f"{folder}: no tokenizer.json in this tokenizer folder")
    from transformers import AutoTokenizer  # imported late: slow, and only hub names need it

    hub = AutoTokenizer.from_pretrained(identifier, cache_dir=cache_dir, trust_remote_code=False)
    return RawTokenizer.from_str(hub.backend_tokenizer.to_str())
