"""Write a checkpoint with random weights from a config, for tests and for training from nothing.

python scripts/make_tiny_checkpoint.py OUT [--config configs/tiny.yaml] [--seed 0]
"""

from __future__ import annotations

import sys
from pathlib import Path

from olmo.command_line import Parser, exit_code, path, seed

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs" / "tiny.yaml"

PATCH_SCALE, POSITION_SCALE, PROJECTOR_SCALE = 8.0, 4.0, 0.15
"""Factors on the initial patch embedding, position table and last projector layer. The usual
initialisation suits a pretrained ViT: from nothing, and in a narrow model, the mean that attention
mixes in would drown what tells one patch from another, and features would drown the text."""


def make_checkpoint(out: Path, config_file: Path = DEFAULT_CONFIG, seed: int = 0) -> Path:
    """Write ``OUT/step0-unsharded`` and return it."""
    import torch

    from olmo.models.loading import merged_model_config
    from olmo.models.run_folder import whole_model_of_file
    from olmo.train.checkpoint import save_unsharded
    from olmo.train.config import TrainConfig

    config = merged_model_config(whole_model_of_file(config_file), {})
    torch.manual_seed(seed)
    model = config.build()
    model.reset_parameters()
    backbone = model.vision_backbone
    with torch.no_grad():
        backbone.image_vit.patch_embedding.weight.mul_(PATCH_SCALE)
        backbone.image_vit.positional_embedding.mul_(POSITION_SCALE)
        backbone.image_projector.w2.weight.mul_(PROJECTOR_SCALE)
    folder = out / "step0-unsharded"
    save_unsharded(model, TrainConfig(model=config), folder)
    return folder


@exit_code()
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("out", type=path, help="run folder to write step0-unsharded into")
    parser.add_argument("--config", type=path, default=DEFAULT_CONFIG, help="model config")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the weights")
    args = parser.parse_args()
    print(make_checkpoint(args.out, args.config, args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
