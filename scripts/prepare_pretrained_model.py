"""Build a start checkpoint from a plain language model and a SigLIP2 ViT.

    python scripts/prepare_pretrained_model.py LLM VIT OUT [--dtype bfloat16]

LLM (Qwen3 or OLMo3) and VIT (SigLIP2) are Hugging Face folders with config.json and safetensors,
such as `hf download Qwen/Qwen3-4B-Instruct-2507 --local-dir LLM` makes. The connector and the
embeddings of the visual tokens are initialised. Writes OUT/step0-unsharded.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import torch

from olmo.command_line import Parser, exit_code, path, positive, seed
from olmo.hf_model.pretrained import StartOptions, build_start_model
from olmo.models.weight_files import DTYPES
from olmo.train.checkpoint import save_unsharded
from olmo.train.config import TrainConfig


def prepare(
    llm: Path, vit: Path, out: Path, options: StartOptions, dtype: torch.dtype = torch.float32
) -> Path:
    """Write ``OUT/step0-unsharded`` and return it."""
    folder = out / "step0-unsharded"
    if folder.exists():
        raise ValueError(f"{folder} exists")
    model = build_start_model(llm, vit, options)
    save_unsharded(model, TrainConfig(model=model.config), folder, dtype)
    return folder


@exit_code()
def main() -> int:
    parser = Parser(__doc__)
    add, default = parser.add_argument, StartOptions()
    add("llm", type=path, help="folder of the language model, with its tokenizer")
    add("vit", type=path, help="folder of the ViT")
    add("out", type=path, help="run folder to write step0-unsharded into")
    add("--vit_layers", type=int, nargs="+", default=default.vit_layers, help="layers to read")
    add("--max_sequence_length", type=positive, default=default.max_sequence_length)
    add("--tokenizer", help="folder or hub name for the config (default: the LLM's folder)")
    add("--dtype", choices=DTYPES, default="float32", help="type of the weights")
    add("--seed", type=seed, default=default.seed, help="seed of what is initialised")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    options = StartOptions(
        vit_layers=tuple(args.vit_layers),
        max_sequence_length=args.max_sequence_length,
        tokenizer=args.tokenizer,
        seed=args.seed,
    )
    print(prepare(args.llm, args.vit, args.out, options, DTYPES[args.dtype]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
