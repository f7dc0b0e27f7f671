"""Token-weighted losses as sums; whoever knows the global weight divides.

The logits of a 152k vocabulary are by far the largest tensor of a step. ``ChunkedLoss`` is handed
to the model as its head: it makes them for some tokens at a time and drops them again; the
backward pass makes each chunk a second time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class TokenLoss:
    """Weighted sums over the tokens with a loss: cross entropy, z-loss, right predictions."""

    cross_entropy: Tensor
    z_loss: Tensor
    correct: Tensor


def token_loss(logits: Tensor, labels: Tensor, weights: Tensor, z_scale: float) -> TokenLoss:
    """Losses of ``logits`` [n, V] against ``labels`` [n] with ``weights`` [n], in float32.

    ``z_scale * logsumexp(logits)^2`` is the z-loss of a token.
    """
    logits = logits.float()
    weights = weights.float()
    cross_entropy = F.cross_entropy(logits, labels, reduction="none")
    z = logits.logsumexp(-1).square() * z_scale
    correct = (logits.argmax(-1) == labels).float()
    return TokenLoss(
        (cross_entropy * weights).sum(), (z * weights).sum(), (correct * weights).sum()
    )


@dataclass(frozen=True)
class ChunkedLoss:
    """``token_loss`` from states [n, D] and the head's weight [V, D], ``chunk`` tokens at a time.

    The result is one tensor [3], the parts of a ``TokenLoss``. It
    depends on the weight also when n is 0, so that every rank of a sharded model takes part in
    the same collectives.
    """

    labels: Tensor
    weights: Tensor
    z_scale: float
    chunk: int = 1024

    def __call__(self, states: Tensor, weight: Tensor) -> Tensor:
        if states.shape[0] != self.labels.shape[0]:
            raise ValueError(
                f"{self.labels.shape[0]} labels with a loss, but {states.shape[0]} such tokens "
                "left in the rows"
            )
        total = states.new_zeros(3, dtype=torch.float32)
        for start in range(0, max(len(self.labels), 1), self.chunk):
            part = slice(start, start + self.chunk)
            total = total + checkpoint(
                self._sums,
                states[part],
                weight,
                self.labels[part],
                self.weights[part],
                use_reentrant=False,
                preserve_rng_state=False,
            )
        return total

    def _sums(self, states: Tensor, weight: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        loss = token_loss(F.linear(states, weight), labels, weights, self.z_scale)
        return torch.stack((loss.cross_entropy, loss.z_loss, loss.correct))
