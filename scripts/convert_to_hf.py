"""Write a checkpoint as a Hugging Face folder that stock transformers 5 loads.

    python scripts/convert_to_hf.py CHECKPOINT OUT [--layout transformers|remote]
        [--dtype bfloat16] [--dense | --lite]

    model = AutoModelForImageTextToText.from_pretrained(OUT)
    processor = AutoProcessor.from_pretrained(OUT)          # needs torchvision

CHECKPOINT is anything the other scripts accept, a Hugging Face folder of the other layout too. A
pruning model is refused, because transformers' class is dense, unless one of these is given:
  --dense   the token scorer is dropped, and the model keeps every token
  --lite    the pruning model in this package's form; `import olmo.hf_model` before loading it
"""

from __future__ import annotations

import logging
import sys

from olmo.command_line import DTYPE_NAMES, Parser, exit_code, path

LAYOUTS = ("transformers", "remote")


@exit_code()
def main() -> int:
    parser = Parser(__doc__, plugins=True)
    parser.add_argument("checkpoint", type=path, help="checkpoint or run folder")
    parser.add_argument("out", type=path, help="folder to write; must be new or empty")
    parser.add_argument("--layout", choices=LAYOUTS, default="transformers", help="tensor names")
    parser.add_argument("--dtype", choices=DTYPE_NAMES, help="type of the weights (as stored)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--dense", action="store_true", help="drop pruning and the token scorer")
    form.add_argument("--lite", action="store_true", help="write the pruning model")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    import torch

    from olmo.hf_model.export import ExportOptions, export_checkpoint, export_lite

    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    if args.lite:
        print(export_lite(args.checkpoint, args.out, dtype))
    else:
        options = ExportOptions(args.layout, dtype, args.dense)
        print(export_checkpoint(args.checkpoint, args.out, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
