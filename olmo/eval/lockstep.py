"""Generation with a sharded model: every rank makes the same calls, whatever its own examples ask.

The parameters of a sharded model are gathered by all ranks together, so a rank that is done early,
or has nothing to answer, must keep calling the model. Before each decoding step the ranks agree
whether anyone needs it; those that do not run it on a token of their own and forget the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.fsdp import register_fsdp_forward_method

from olmo.distributed import all_reduce_sum
from olmo.nn.generate import GenerateOutput, generate
from olmo.nn.kv_cache import KVCache
from olmo.types import MODEL_INPUTS

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2


@dataclass
class Lockstep:
    """A sharded model as ``generate`` wants it. ``idle`` is a small prompt for ranks without one.

    ``in_step`` is False while an error would leave the other ranks waiting.
    """

    model: Molmo2
    idle: dict[str, Any]
    device: torch.device
    in_step: bool = True
    capturable = False  # a graph would leave the other ranks out
    prefilled: bool = field(default=False, init=False)
    config: Any = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.model.config
        register_fsdp_forward_method(self.model, "decode_step")

    def anyone(self, wants: bool) -> bool:
        """Whether any rank ``wants`` to go on; every rank has to ask."""
        return bool(all_reduce_sum(torch.tensor(int(wants), device=self.device)).item())

    def generate(
        self, inputs: dict[str, Any] | None, max_new_tokens: int, stop_ids: list[int]
    ) -> GenerateOutput | None:
        """Answer ``inputs``, or only keep in step with the other ranks when it is None.

        Raises ``ValueError`` for a prompt that is too long, after the other ranks are done.
        """
        out, error, self.prefilled = None, None, False
        if inputs is not None:
            try:
                out = generate(self, inputs, max_new_tokens, stop_ids)
            except ValueError as e:
                if not self.in_step:
                    raise
                error = e
        if not self.prefilled:
            self.model(**{k: v for k, v in self.idle.items() if k in MODEL_INPUTS})
        while self.anyone(False):
            self._idle_step()
        if error is not None:
            raise error
        return out

    def __call__(self, **inputs: Any) -> Any:
        self.in_step = False
        out = self.model(**inputs)
        self.in_step = self.prefilled = True
        return out

    def decode_step(self, input_ids: Tensor, position_ids: Tensor, cache: KVCache) -> Tensor:
        self.anyone(True)
        self.in_step = False
        logits = self.model.decode_step(input_ids, position_ids, cache)
        self.in_step = True
        return logits

    def _idle_step(self) -> None:
        zero = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        self.model.decode_step(zero, zero, KVCache(lengths=zero[0]))
