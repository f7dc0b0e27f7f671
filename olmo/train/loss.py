"""Token-weighted losses as sums; whoever knows the global weight divides."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


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
