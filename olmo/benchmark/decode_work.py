"""What decoding takes: FLOPs, and the bytes that a step must read, by which it is bound."""

from __future__ import annotations

from olmo.nn.flops import block_weights
from olmo.nn.llm import LlmConfig

PEAK_BANDWIDTH = {"H200": 4.8e12, "H100 80GB HBM3": 3.35e12}
"""Bytes per second of the memory, by a part of the device name; the second card is the SXM one."""


def decode_flops(llm: LlmConfig, n_prompt: int, n_steps: int) -> float:
    """``n_steps`` tokens of one row, one at a time, behind a cache of ``n_prompt`` tokens."""
    n_keys = n_steps * n_prompt + n_steps * (n_steps + 1) / 2
    attention = 4.0 * n_keys * llm.n_layers * llm.n_heads * llm.head_size
    return 2.0 * n_steps * _decode_weights(llm) + attention


def decode_bytes(llm: LlmConfig, n_prompt: int, n_steps: int, n_rows: int, itemsize: int) -> float:
    """Bytes that the steps of ``decode_flops`` must read for ``n_rows`` rows: in every step all
    weights, once for all rows, and the keys and values of every earlier token and its own. A
    number takes ``itemsize`` bytes."""
    n_keys = n_rows * (n_steps * n_prompt + n_steps * (n_steps + 1) / 2)
    cache = 2.0 * n_keys * llm.n_layers * llm.kv_heads * llm.head_size
    return itemsize * (n_steps * _decode_weights(llm) + cache)


def _decode_weights(llm: LlmConfig) -> int:
    """Numbers in the matrices that a new token meets."""
    return llm.n_layers * block_weights(llm) + llm.d_model * llm.n_embeddings
