"""Write a checkpoint as one ``model.safetensors`` with its ``config.yaml``.

    python scripts/export_unsharded.py CHECKPOINT OUT [--dtype float16] [--dense]

CHECKPOINT is a step folder, a run folder (its newest step) or a Hugging Face folder; the last keeps
its tokenizer where it is. The result is ``OUT/step{N}-unsharded``, which every script accepts as a
checkpoint.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from olmo.command_line import DTYPE_NAMES, Parser, exit_code, path

if TYPE_CHECKING:
    import torch


def export(checkpoint: Path, out: Path, dtype: torch.dtype, dense: bool = False) -> Path:
    """Read ``checkpoint`` and write ``OUT/step{N}-unsharded``; returns that folder.

    ``dense`` leaves pruning out: the scorer, and the fields of its config.
    """
    from olmo.models.loading import load_model, select_checkpoint
    from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig
    from olmo.train.checkpoint import save_unsharded
    from olmo.train.config import TrainConfig

    source = select_checkpoint(checkpoint)
    model, config = load_model(source)
    if dense and isinstance(config, TemporalVideoOlmoConfig):
        config = config.dense()
        weights, model = model.state_dict(), config.build()
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    step = re.match(r"step\d+", source.name)
    folder = out / f"{step[0] if step else 'step0'}-unsharded"
    save_unsharded(model, TrainConfig(model=config), folder, dtype)
    return folder


@exit_code()
def main() -> int:
    parser = Parser(__doc__, plugins=True)
    parser.add_argument("checkpoint", type=path, help="checkpoint, run or Hugging Face folder")
    parser.add_argument("out", type=path, help="run folder to write step<N>-unsharded into")
    parser.add_argument("--dense", action="store_true", help="leave pruning and its scorer out")
    parser.add_argument(
        "--dtype", choices=DTYPE_NAMES, default="float32", help="type of the weights"
    )
    args = parser.parse_args()
    import torch

    print(export(args.checkpoint, args.out, getattr(torch, args.dtype), args.dense))
    return 0


if __name__ == "__main__":
    sys.exit(main())
