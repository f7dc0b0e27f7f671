"""A page that shows what pruning keeps of one video, with a slider for the share to remove.

One file: pictures, scores and scripts are inside, nothing is fetched. The scores are those of the
model; ``rule.js`` repeats budget and selection exactly (float32 included).
"""

from __future__ import annotations

import base64

from olmo.templates import render
from olmo.viewer.draw import DIM, HEAT, data_uri
from olmo.viewer.scores import ScoredVideo

JPEG_QUALITY = 88


def pruning_page(scored: ScoredVideo, title: str, image_width: int = 400) -> str:
    """HTML of the page; its frames are JPEGs of at most ``image_width`` pixels."""
    data = page_data(scored, image_width)
    return render("pruning", title=title, source=scored.source, note=scored.note(), data=data)


def page_data(scored: ScoredVideo, image_width: int) -> dict[str, object]:
    """What the scripts read: scores as base64 of little-endian float32, pictures as data URIs."""
    levels = [
        {
            "maxRemove": level.max_remove,
            "scores": base64.b64encode(level.scores.astype("<f4").tobytes()).decode(),
        }
        for level in scored.levels
    ]
    scale = scored.kept().heat_scale()
    return {
        "frames": scored.n_frames,
        "cells": scored.edges.n_cells,
        "edges": {"rows": scored.edges.rows, "columns": scored.edges.columns},
        "topk": scored.rule.topk,
        "pruneFromFrame": scored.rule.prune_from_frame,
        "spreadTies": scored.vit.method.spreads_ties,
        "timestamps": scored.video.timestamps.tolist(),
        "levels": levels,
        "flat": scale is None or scale.flat,
        "ends": None if scale is None else [scale.low, scale.high],
        "images": [data_uri(frame, image_width, JPEG_QUALITY) for frame in scored.video.frames],
        "heat": HEAT.tolist(),
        "dim": DIM,
    }
