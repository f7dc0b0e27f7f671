"""Which token may attend to which: causal, bidirectional image tokens, packing.

The rule stands once, in ``TokenMask.allows``. ``dense`` makes it a mask for any attention kernel;
``blocks`` a block mask for flex attention, whose memory grows with the row and not with its square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from olmo.tokenizer import BIDIRECTIONAL_TOKENS
from olmo.types import SUBSEGMENTS_PER_EXAMPLE

BidirectionalMode = Literal["image_tokens", "within_image"]


@dataclass(frozen=True)
class TokenMask:
    """What the rule needs to know of every token, [B, S] each.

    Attributes:
        valid: bool, no padding.
        group: int64, tokens of equal numbers may see each other in both directions where
            ``image`` allows it: the visual tokens of one packed example; -1 for other tokens.
        image: int64, a token sees those of its group with the same or a lower number.
        segment: int64, of packed or branched rows: a token sees its own number and higher ones.
    """

    valid: Tensor
    group: Tensor
    image: Tensor
    segment: Tensor

    @classmethod
    def build(
        cls,
        input_ids: Tensor,
        special_ids: dict[str, int],
        mode: BidirectionalMode | None = "image_tokens",
        subsegment_ids: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> TokenMask:
        """Read a batch.

        Args:
            input_ids: int64 [B, S], padding -1.
            mode: None is causal; ``image_tokens`` lets all visual tokens of an example see each
                other; ``within_image`` only those of the same or an earlier image.
            subsegment_ids: [B, S] of packed or branched rows: a token sees only its own packed
                example, and there the shared prefix and its own branch.
            valid: bool [B, S]; default ``input_ids >= 0``.
        """
        segment = torch.zeros_like(input_ids) if subsegment_ids is None else subsegment_ids
        group, image = torch.full_like(input_ids, -1), torch.zeros_like(input_ids)
        if mode is not None:
            visual_ids = [special_ids[t] for t in BIDIRECTIONAL_TOKENS]
            visual = torch.isin(input_ids, torch.tensor(visual_ids, device=input_ids.device))
            example = segment.clamp(min=0) // SUBSEGMENTS_PER_EXAMPLE
            group = torch.where(visual, example, group)
        if mode == "within_image":
            starts = (input_ids == special_ids["<frame_start>"]) | (
                input_ids == special_ids["<low_res_im_start>"]
            )
            image = starts.cumsum(1)
        return cls(input_ids >= 0 if valid is None else valid, group, image, segment)

    def allows(self, b: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """bool: may query ``q`` see key ``k`` in row ``b``? Index tensors that broadcast.

        Padding sees itself, so that no row of the mask is empty.
        """
        group = self.group[b, q]
        both = (group >= 0) & (group == self.group[b, k]) & (self.image[b, k] <= self.image[b, q])
        seen = ((q >= k) | both) & self.valid[b, k] & (self.segment[b, q] <= self.segment[b, k])
        return seen | (q == k)

    def dense(self) -> Tensor:
        """bool [B, 1, S, S], True = query (dim 2) may see key (dim 3)."""
        rows, size = self.valid.shape
        order = torch.arange(size, device=self.valid.device)
        row = torch.arange(rows, device=self.valid.device)[:, None, None]
        return self.allows(row, order[None, :, None], order[None, None, :])[:, None]

    def blocks(self) -> BlockMask:
        """The same for ``flex_attention``: which 128 x 128 blocks are empty, full or in between."""
        rows, size = self.valid.shape
        device = self.valid.device

        def rule(b: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return self.allows(b, q, k)

        return create_block_mask(
            rule, rows, None, size, size, device=device, _compile=device.type == "cuda"
        )
