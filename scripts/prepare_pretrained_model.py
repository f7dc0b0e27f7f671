"""Build a start checkpoint from a plain language model and a SigLIP2 ViT.

    python scripts/prepare_pretrained_model.py LLM VIT OUT [--dtype bfloat16]

LLM (Qwen3 or OLMo3) and VIT (SigLIP2) are Hugging Face folders with config.json and safetensors,
such as `hf download Qwen/Qwen3-4B-Instruct-2507 --local-dir LLM` makes. The connector and the
embeddings of the visual tokens are initialised. Writes OUT/step0-unsharded.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from olmo.command_line import DTYPE_NAMES, Parser, exit_code, path, positive, seed

if TYPE_CHECKING:
    from olmo.hf_model.pretrained import StartOptions


def prepare(llm: Path, vit: Path, out: Path, options: StartOptions, dtype: str = "float32") -> Path:
    """Write ``OUT/step0-unsharded`` and return it. ``dtype`` is one of ``DTYPE_NAMES``."""
    import torch

    from olmo.hf_model.pretrained import build_start_model
    from olmo.train.checkpoint import save_unsharded
    from olmo.train.config import TrainConfig

    folder = out / "step0-unsharded"
    if folder.exists():
        raise ValueError(f"{folder} exists")
    model = build_start_model(llm, vit, options)
    save_unsharded(model, TrainConfig(model=model.config), folder, getattr(torch, dtype))
    return folder


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("llm", type=path, help="folder of the language model, with its tokenizer")
    add("vit", type=path, help="folder of the ViT")
    add("out", type=path, help="run folder to write step0-unsharded into")
    add("--vit_layers", type=int, nargs="+", help="layers to read (-3 -9)")
    add("--max_sequence_length", type=positive, help="of the language model (4096)")
    add("--tokenizer", help="folder or hub name for the config (default: the LLM's folder)")
    add("--dtype", choices=DTYPE_NAMES, default="float32", help="type of the weights")
    add("--seed", type=seed, help="seed of what is initialised (0)")
    return parser


@exit_code()
def main() -> int:
    args = build_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    from olmo.hf_model.pretrained import StartOptions

    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(StartOptions)}
    options = StartOptions(**{name: value for name, value in given.items() if value is not None})
    print(prepare(args.llm, args.vit, args.out, options, args.dtype))
    return 0


if __name__ == "__main__":
    sys.exit(main())
