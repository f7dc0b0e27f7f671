"""Write a checkpoint as one ``model.safetensors`` with its ``config.yaml``.

    python scripts/export_unsharded.py RUN_OR_CHECKPOINT OUT [--dtype float16]

The result is ``OUT/step{N}-unsharded``, which every script accepts as a checkpoint.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch

from olmo.models.loading import load_model, select_checkpoint
from olmo.train.checkpoint import save_unsharded
from olmo.train.config import TrainConfig

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def export(checkpoint: Path, out: Path, dtype: torch.dtype) -> Path:
    """Read ``checkpoint`` and write ``OUT/step{N}-unsharded``; returns that folder."""
    source = select_checkpoint(checkpoint)
    model, config = load_model(source)
    step = re.match(r"step\d+", source.name)
    folder = out / f"{step[0] if step else 'step0'}-unsharded"
    save_unsharded(model, TrainConfig(model=config), folder, dtype)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="checkpoint or run folder")
    parser.add_argument("out", type=Path, help="run folder to write step<N>-unsharded into")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the weights")
    args = parser.parse_args()
    print(export(args.checkpoint, args.out, DTYPES[args.dtype]))


if __name__ == "__main__":
    main()
