"""Connector: windows of patch features -> one token each.

Mean-query attention pooling over the patches of a window, then a SwiGLU projector to the LLM's
width. Legend: R windows, S slots of a window, L read ViT layers, E ViT width, D LLM width.
"""

from __future__ import annotations

from torch import Tensor, nn

from olmo.nn.image_vit import ViTAttention


class ImageProjector(nn.Module):
    """``w2(silu(w1 x) * w3 x)``, no biases: E -> hidden -> D."""

    def __init__(self, d_in: int, d_hidden: int, d_out: int):
        super().__init__()
        self.w1 = nn.Linear(d_in, d_hidden, bias=False)
        self.w2 = nn.Linear(d_hidden, d_out, bias=False)
        self.w3 = nn.Linear(d_in, d_hidden, bias=False)

    def reset_parameters(self, std: float = 0.02) -> None:
        for layer in (self.w1, self.w2, self.w3):
            nn.init.normal_(layer.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


def pool_windows(
    pooling: ViTAttention, x_RSE: Tensor, valid_RS: Tensor, masked: bool = True
) -> Tensor:
    """Pool windows of patch features with one attention query each, their mean.

    Args:
        pooling: the attention; reads vectors of ``L * E`` values in the connector, ``E`` in the
            token scorer.
        x_RSE: [R, S, L * E]; the values of invalid slots do not matter.
        valid_RS: bool [R, S].
        masked: False lets zeroed slots take part (``pooling_attention_mask`` of old configs).

    Returns:
        [R, E]. A window without valid slots gives a finite vector without gradient to ``x``.
    """
    valid = valid_RS[..., None].to(x_RSE.dtype)
    x = x_RSE * valid
    n = valid.sum(1).clamp(min=1) if masked else x.shape[1]
    query = (x.sum(1) / n)[:, None]
    mask = valid_RS[:, None] if masked else None
    return pooling(query, x, mask=mask, backend=pooling.config.sdpa_backend)[:, 0]
