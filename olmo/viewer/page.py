"""A page that shows what pruning keeps of one video, with a slider for the share to remove.

One file: pictures, scores and scripts are inside, nothing is fetched. The scores are those of the
model; ``rule.js`` repeats budget and selection exactly (float32 included).
"""

from __future__ import annotations

import base64
import html
import json
from importlib.resources import files

from olmo.viewer.draw import DIM, HEAT, data_uri, resized
from olmo.viewer.scores import ScoredVideo

JPEG_QUALITY = 88


def pruning_page(scored: ScoredVideo, title: str, image_width: int = 400) -> str:
    """HTML of the page; its frames are JPEGs of at most ``image_width`` pixels."""
    assets = files("olmo") / "assets" / "pruning"
    parts = {
        "title": html.escape(title),
        "source": html.escape(scored.source),
        "note": html.escape(scored.note()),
        "data": _script_json(page_data(scored, image_width)),
        **{
            name: (assets / file).read_text(encoding="utf-8")
            for name, file in (("style", "style.css"), ("rule", "rule.js"), ("view", "view.js"))
        },
    }
    page = (assets / "page.html").read_text(encoding="utf-8")
    head, *rest = page.split("{{")
    pieces = (piece.split("}}", 1) for piece in rest)
    return head + "".join(parts[name] + text for name, text in pieces)


def page_data(scored: ScoredVideo, image_width: int) -> dict[str, object]:
    """What the scripts read: scores as base64 of little-endian float32, pictures as data URIs."""
    levels = [
        {
            "maxRemove": level.max_remove,
            "scores": base64.b64encode(level.scores.astype("<f4").tobytes()).decode(),
        }
        for level in scored.levels
    ]
    scale = scored.heat_scale()
    return {
        "frames": scored.n_frames,
        "cells": scored.n_cells,
        "edges": {"rows": scored.edges.rows, "columns": scored.edges.columns},
        "topk": scored.vit.topk,
        "pruneFromFrame": scored.vit.prune_from_frame,
        "spreadTies": scored.vit.method.spreads_ties,
        "timestamps": [float(t) for t in scored.video.timestamps],
        "levels": levels,
        "flat": scale is None or scale.flat,
        "ends": None if scale is None else [scale.low, scale.high],
        "images": [
            data_uri(resized(frame, min(image_width, frame.shape[1])), JPEG_QUALITY)
            for frame in scored.video.frames
        ],
        "heat": HEAT.tolist(),
        "dim": DIM,
    }


def _script_json(data: dict[str, object]) -> str:
    """JSON that cannot end the ``script`` element around it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
