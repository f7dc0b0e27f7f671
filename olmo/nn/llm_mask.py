"""Which token may attend to which: causal, bidirectional image tokens, packing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from olmo.tokenizer import BIDIRECTIONAL_TOKENS
from olmo.types import SUBSEGMENTS_PER_EXAMPLE

BidirectionalMode = Literal["image_tokens", "within_image"]


def attention_mask(
    input_ids: Tensor,
    special_ids: dict[str, int],
    mode: BidirectionalMode | None = "image_tokens",
    subsegment_ids: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """bool [B, 1, S, S], True = query (dim 2) may see key (dim 3).

    Args:
        input_ids: int64 [B, S], padding -1.
        mode: None is causal; ``image_tokens`` lets all visual tokens of an example see each
            other; ``within_image`` only those of the same or an earlier image.
        subsegment_ids: [B, S] of packed or branched rows: a token sees only its own packed
            example, and there the shared prefix and its own branch.
        valid: bool [B, S]; default ``input_ids >= 0``.

    Padding sees itself, so that no row of the mask is empty.
    """
    size = input_ids.shape[1]
    valid = input_ids >= 0 if valid is None else valid
    order = torch.arange(size, device=input_ids.device)
    allow = (order[:, None] >= order)[None]
    if mode is not None:
        allow = allow | _bidirectional(input_ids, special_ids, mode, subsegment_ids)
    allow = allow & valid[:, None, :]
    if subsegment_ids is not None:
        allow = allow & (subsegment_ids[:, :, None] <= subsegment_ids[:, None, :])
    diagonal = torch.eye(size, dtype=torch.bool, device=input_ids.device)
    return (allow | diagonal)[:, None]


def _bidirectional(
    input_ids: Tensor,
    special_ids: dict[str, int],
    mode: BidirectionalMode,
    subsegment_ids: Tensor | None,
) -> Tensor:
    visual_ids = torch.tensor(
        [special_ids[t] for t in BIDIRECTIONAL_TOKENS], device=input_ids.device
    )
    visual = torch.isin(input_ids, visual_ids)
    both = visual[:, :, None] & visual[:, None, :]
    if mode == "within_image":
        starts = (input_ids == special_ids["<frame_start>"]) | (
            input_ids == special_ids["<low_res_im_start>"]
        )
        image = starts.cumsum(1)
        both = both & (image[:, None, :] <= image[:, :, None])
    if subsegment_ids is not None:
        example = subsegment_ids // SUBSEGMENTS_PER_EXAMPLE
        both = both & (example[:, :, None] == example[:, None, :])
    return both
