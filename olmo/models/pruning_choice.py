"""How a checkpoint prunes when a user names settings of pruning: the one rule of all entry points.

    checkpoint  topk   prune_method   what runs
    dense       -      -              the dense model
    dense       > 0    -              ``evs``, said in the log
    dense       -, >0  training-free  that method; without a topk, the default share
    dense       any    learned        refused: there is no scorer
    dense       0      not learned    the dense model
    STTS        0      any            the dense model
    STTS        -, >0  - or any       the checkpoint's own settings, but for those that are named

A ``topk`` of null is 0. For a dense checkpoint, the other settings (``prune_at``, ...) need a
``topk`` or a ``prune_method`` beside them. ``prune`` itself, if it is named, decides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from olmo.config import ConfigError, convert, merge, section
from olmo.distributed import is_main
from olmo.mappings import laid
from olmo.models.hf_layout.fields import STTS_KEYS
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig, sync_topk
from olmo.models.weight_files import CheckpointError
from olmo.nn.token_pruning import PRUNE_METHODS, TemporalVitConfig, training_free_methods
from olmo.preprocessing.video import VideoPreprocessorConfig

log = logging.getLogger(__name__)

TRAINING_FREE = "evs"
"""How a dense checkpoint prunes when asked to: it compares pooled tokens, so that everything
before the language model stays as it was trained."""

TOPK_PLACES = ("mm_preprocessor.video.topk", "vision_backbone.vit.topk")
PRUNE = "vision_backbone.vit.prune"
STTS = TemporalVideoOlmoConfig.model_name


def resolve_pruning(
    stored: dict[str, Any], overrides: dict[str, Any], where: str | Path, waiting: bool = False
) -> dict[str, Any]:
    """``overrides`` of the model section ``stored``, with what the rule above adds to them.

    ``where`` names the checkpoint in messages. ``waiting``: a dense checkpoint becomes a pruning
    model in any case, which removes nothing until a question comes with a ``topk``.

    Raises ``CheckpointError`` for a learned method on a dense checkpoint, ``ConfigError`` for
    settings that would have no effect or have two values. Resolving twice changes nothing.
    """
    overrides = _one_share(Molmo2Config.upgrade(overrides))
    vit, name = section(overrides, "vision_backbone", "vit"), overrides.get("model_name")
    topk, method = vit.get("topk"), vit.get("prune_method")
    asked = topk != 0 and (topk is not None or method is not None)
    if stored.get("model_name") == STTS:
        off = section(stored, "vision_backbone", "vit").get("prune") is False
        return laid(overrides, PRUNE, vit.get("prune", True)) if asked and off else overrides
    keys = vit.keys() & STTS_KEYS
    told = waiting or bool(keys & {"topk", "prune_method", "prune"})
    if name not in (None, STTS) or not (told or keys) or (name and not told):
        return overrides  # a model class without a word on pruning means its defaults
    if not told:
        raise ConfigError(
            f"{where} is dense: {', '.join(sorted(keys))} has no effect without topk or "
            f"prune_method ({', '.join(training_free_methods())})"
        )
    if isinstance(method, str) and method in PRUNE_METHODS and PRUNE_METHODS[method].learned:
        raise no_scorer(where)
    prunes = convert(bool, vit.get("prune", asked), PRUNE)
    if prunes and method is None and topk != 0 and is_main():
        share = TemporalVitConfig.topk if topk is None else topk
        log.warning("%s is dense: topk %g prunes it by %s", where, share, TRAINING_FREE)
    return merge(_as_pruning(stored, prunes), overrides)


def _one_share(overrides: dict[str, Any]) -> dict[str, Any]:
    """``topk`` the same number in both of its places, 0 for null."""
    for place in TOPK_PLACES:
        *way, key = place.split(".")
        if section(overrides, *way).get(key, 0) is None:
            overrides = laid(overrides, place, 0.0)
    return sync_topk(overrides)


def _as_pruning(dense: dict[str, Any], prunes: bool) -> dict[str, Any]:
    """What makes a pruning model of a dense model section."""
    video = section(dense, "mm_preprocessor", "video")
    return {
        "model_name": STTS,
        "vision_backbone": {
            "vit": {"prune": prunes, "prune_method": TRAINING_FREE},
            "video_pooling": video.get("pooling_h", VideoPreprocessorConfig.pooling_h),
        },
    }


def no_scorer(folder: str | Path, missing: Sequence[str] = ()) -> CheckpointError:
    """The error for the checkpoint ``folder`` that was trained without a scorer and is to prune
    with one; ``missing`` are the scorer's keys."""
    keys = f": {len(missing)} missing keys, first {missing[0]!r}" if missing else ""
    return CheckpointError(
        f"{folder} has no token scorer{keys}. "
        f"Choose a prune_method without training: {', '.join(training_free_methods())}; or train "
        "with prune_method=scorer, which starts a new scorer"
    )
