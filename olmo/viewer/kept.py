"""What pruning keeps of a video: what pictures are drawn from, and how a model finds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from olmo.nn.vision_backbone import VisionOutput
from olmo.types import MultimodalType, VideoFrames
from olmo.viewer.cells import CellEdges, HeatScale

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2


@dataclass(frozen=True)
class KeptVideo:
    """What is left of a video. ``ValueError`` if the numbers of frames, cells and time stamps do
    not agree.

    Attributes:
        video: the sampled frames.
        edges: where the cells lie in a frame.
        keep: bool ``[frames, cells]``, cells in raster order.
        scores: ``[frames, cells]``, high = keep; None if nothing was scored.
        protected: bool ``[frames]``, those that the method keeps whole although they have scores.
    """

    video: VideoFrames
    edges: CellEdges
    keep: np.ndarray
    scores: np.ndarray | None = None
    protected: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, n_cells = len(self.video.frames), self.edges.n_cells
        for name, cells in (("keep", self.keep), ("scores", self.scores)):
            if cells is not None and cells.shape != (n, n_cells):
                raise ValueError(f"{name} is {cells.shape}, expected {n} frames of {n_cells} cells")
        if len(self.video.timestamps) != n or n == 0:
            raise ValueError(f"{len(self.video.timestamps)} time stamps for {n} frames")

    def heat_scale(self, by_rank: bool = False) -> HeatScale | None:
        """Colours of the scores, or of their order; None where nothing is scored."""
        return None if self.scores is None else HeatScale.of(self.scores, by_rank)


@torch.no_grad()
def kept_cells(model: Molmo2, batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """``cells_of`` what the vision backbone of ``model`` makes of ``batch``, a collated batch of
    one row with one video. ``ValueError`` for any other batch."""
    real = batch["num_images"].flatten() > 0
    n_rows, kinds = len(batch["images"]), batch["multimodal_type"].flatten()[real].tolist()
    if n_rows != 1 or kinds != [MultimodalType.VIDEO]:
        raise ValueError(f"expected one row with one video, got {n_rows} rows and inputs {kinds}")
    backbone, was_training = model.vision_backbone.eval(), model.training
    images, pooling = (batch[k].to(model.device) for k in ("images", "token_pooling"))
    try:
        out = backbone(images, None, pooling, batch["num_images"], batch["multimodal_type"])
    finally:
        backbone.train(was_training)
    return cells_of(out, int(batch["num_images"].flatten()[real]))


def cells_of(vision: VisionOutput, n_frames: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Of a batch with one video: keep, bool ``[frames, cells]``, and the scores, float32 of the
    same shape (high = keep), or None if nothing was scored."""
    keep = vision.keep.cpu()[vision.rows].view(n_frames, -1).numpy()
    scores = vision.scores
    return keep, None if scores is None else scores[:n_frames].float().cpu().numpy()
