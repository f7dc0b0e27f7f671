"""Plain types that cross package borders."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

PAD_ID = -1
"""Padding value of token ids, labels, positions and pooling slots."""

SHARED_SUBSEGMENT = 10_000
"""Subsegment id of a prefix that every annotation of its example may attend to."""

SUBSEGMENTS_PER_EXAMPLE = 100_000
"""Packed example ``n`` adds ``n`` times this to its subsegment ids."""

MEDIA_KEYS = ("video", "image")
"""Keys of a record and of an example that name media: of own data, each has one of them."""

TEXT_INPUTS = ("input_ids", "position_ids", "subsegment_ids")
VISUAL_INPUTS = ("images", "token_pooling", "num_images", "multimodal_type")
MODEL_INPUTS = (*TEXT_INPUTS, *VISUAL_INPUTS)
"""What a model takes of a collated batch."""

HOST_INPUTS = (*TEXT_INPUTS, "response_mask", "num_images", "multimodal_type")
"""Inputs of a model that are read on the host, to plan; from a GPU they would cost a wait."""


class MultimodalType(IntEnum):
    """Kind of one visual input (``multimodal_type`` of a batch; padding is -1)."""

    TEXT_ONLY = 0
    IMAGE = 1
    VIDEO = 2
    MULTI_IMAGE = 3


@dataclass(frozen=True)
class VideoFrames:
    """Decoded frames: ``frames`` uint8 ``[n, h, w, 3]`` RGB and their ``timestamps`` float64
    ``[n]``, in seconds from the start of the clip. ``duration`` is the clip's, in seconds.
    ``size`` is the width and height of the video, where the frames are resized already."""

    frames: np.ndarray
    timestamps: np.ndarray
    duration: float
    size: tuple[int, int] | None = None
