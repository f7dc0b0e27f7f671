"""The shipped dense checkpoint with a token scorer beside it, untrained: a pruning checkpoint."""

from __future__ import annotations

from pathlib import Path

from olmo.models.loading import load_model_config, load_weights, select_checkpoint
from olmo.train.checkpoint import save_unsharded
from olmo.train.config import TrainConfig

DENSE = Path(__file__).parents[1] / "checkpoints" / "tiny-dense"
DENSE_STEP = select_checkpoint(DENSE)
CLIP_TOKENS = 16 * 64
"""Visual tokens of a clip of ``synthetic_video_qa``: frames x cells."""
PRUNED = {
    "model_name": "temporal_video_olmo",
    "vision_backbone": {"vit": {"topk": 0.5, "prune_at": 1, "prune_method": "scorer"}},
}


def write_scored_checkpoint(folder: Path) -> Path:
    """Write ``folder/step0-unsharded``, whose scorer is the one that training would start from."""
    dense = select_checkpoint(DENSE)
    config = load_model_config(dense, PRUNED)
    model = config.build("meta").to_empty(device="cpu")
    load_weights(model, dense, scorer_seed=0)
    save_unsharded(model, TrainConfig(model=config), folder / "step0-unsharded")
    return folder
