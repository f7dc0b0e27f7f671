"""Ask a question about videos or images, or all questions of a file.

    python scripts/predict.py clip.mp4 "What happens?" --checkpoint PATH --topk 0.5
    python scripts/predict.py a.mp4 b.mp4 "What happens?" --checkpoint PATH
    python scripts/predict.py --input questions.jsonl --out answers.jsonl --checkpoint PATH

PATH is a native checkpoint, a run folder or a Hugging Face folder. Prints the answer, the tokens of
the prompt before and after pruning, and the time of each stage. --input is own data, as for
training, but without answers; --out gets one line per input as they come, and a run that was
stopped goes on where it was. Limits of images and of the prompt are those of an evaluation.

Exit code 0: all inputs were answered. 1: the run ended, but an input could not be answered. 2: the
command line, the checkpoint or the file of questions cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olmo.command_line import Parser, exit_code, path, positive, share

if TYPE_CHECKING:
    from olmo.data.registry import Dataset
    from olmo.eval.answer import Answerer

PRUNING = ("topk", "prune_method", "prune_at")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, plugins=True)
    add = parser.add_argument
    words = "video files, moving pictures or images, then the question about each of them"
    add("asked", metavar="VIDEO ... QUESTION", nargs="*", help=words)
    add("--input", metavar="FILE", type=path, help="questions as own data: jsonl, json, parquet")
    add("--out", metavar="FILE", type=path, help="jsonl file of the answers; needed with --input")
    add("--checkpoint", metavar="PATH", type=path, required=True)
    add("--topk", type=share, help="share of visual tokens to remove (default: the checkpoint's)")
    method = "how tokens are chosen: scorer, easy, heuristic, random or evs (the checkpoint's)"
    add("--prune_method", metavar="NAME", help=method)
    add("--prune_at", type=int, metavar="N", help="ViT block that is scored (the checkpoint's)")
    add("--max_frames", type=int, metavar="N", help="frames of a video (the checkpoint's)")
    limit = {"type": positive, "default": 256, "metavar": "N", "help": "limit of an answer (256)"}
    add("--max_new_tokens", **limit)
    add("--style", default="", help="kind of question, as in training: video_short_answer, ...")
    add("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    dtype = "type of the weights (default: bfloat16 on a GPU, else float32)"
    add("--dtype", choices=("bfloat16", "float32"), help=dtype)
    batch = "inputs per forward pass (1, exact); with more, a near-tie may fall otherwise"
    add("--batch_size", type=positive, default=1, metavar="N", help=batch)
    args = parser.parse_args(argv)
    if args.input is None and len(args.asked) < 2:
        parser.error("give VIDEO and QUESTION, or --input")
    if args.input is not None and (args.asked or args.out is None or args.style):
        parser.error(
            "--input needs --out, takes no VIDEO or QUESTION, and its lines name the style"
        )
    return args


def overrides_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags change of the checkpoint's model config."""
    vit = {name: getattr(args, name) for name in PRUNING if getattr(args, name) is not None}
    overrides: dict[str, Any] = {"vision_backbone": {"vit": vit}} if vit else {}
    if args.max_frames is not None:
        overrides["mm_preprocessor"] = {"video": {"max_frames": args.max_frames}}
    return overrides


def open_questions(args: argparse.Namespace) -> Dataset:
    """The file of questions, or those of the command line."""
    from olmo.data.custom import CustomDataset
    from olmo.eval.answer_file import OneQuestion
    from olmo.preprocessing.prompts import check_style

    if args.input is not None:
        return CustomDataset.open(args.input, questions=True)
    check_style(args.style)
    *media, question = args.asked
    media = [path(medium) for medium in media]
    if len(media) == 1 and not media[0].exists():
        raise FileNotFoundError(f"{media[0]}: no such file")
    return OneQuestion(media, question, args.style)


def run(args: argparse.Namespace) -> int:
    """Load, ask, print or write. Returns how many inputs could not be answered."""
    from olmo.device import DTYPES, choose_device
    from olmo.eval.answer import Questions
    from olmo.eval.answer_file import SEED, AnswerFile, answer_row, inputs_of, settings_key
    from olmo.eval.loading import load_answerer
    from olmo.eval.prediction import Skipped
    from olmo.models.loading import select_checkpoint

    dataset, device = open_questions(args), choose_device(args.device)
    folder, overrides, dtype = select_checkpoint(args.checkpoint), overrides_of(args), args.dtype
    dtype = DTYPES[dtype or ("bfloat16" if device.type == "cuda" else "float32")]
    inputs = inputs_of(dataset)
    out = None
    if args.out is not None:
        if folder.resolve() in args.out.resolve().parents:
            raise ValueError(f"--out {args.out} is inside of the checkpoint, which it would change")
        settings = {"model": overrides, "dtype": str(dtype), "batched": args.batch_size > 1}
        out = AnswerFile(args.out, settings_key(folder, args.max_new_tokens, settings))
        n_all, inputs = len(inputs), out.resume(inputs)
        if len(inputs) < n_all:
            print(f"{args.out}: {n_all - len(inputs)} of {n_all} inputs are answered already")
    if not inputs:
        return 0
    model = load_answerer(folder, overrides, device, dtype)
    generation: Any = "batched" if args.batch_size > 1 else "exact"
    asked = "predict", dataset, list(inputs), args.max_new_tokens, SEED
    n_failed = 0
    for found in model.answers(Questions(*asked, args.batch_size, generation)):
        row = inputs[found.index] | answer_row(found)
        n_failed += isinstance(found, Skipped)
        if out is not None:
            out.write(row)
        if args.input is None:
            show(row, model, len(dataset) > 1)
    if out is not None:
        print(f"{args.out}: {len(inputs) - n_failed} answers, {n_failed} errors")
    return n_failed


def show(row: dict[str, Any], model: Answerer, is_one_of_many: bool) -> None:
    """Print the row of one video or image; an error goes to stderr."""
    if "error" in row:
        sys.stderr.write(f"{Path(__file__).name}: error: {row['error']}\n")
        return
    before, after = row["tokens_before"], row["tokens_after"]
    vit: Any = model.model.config.vision_backbone.vit
    if is_one_of_many:
        print(f"{row['file']}:")
    print(row["answer"])
    method = f" ({vit.prune_method})" if after < before else ""
    print(f"tokens: {before} before pruning{method}, {after} after")
    stages = ", ".join(f"{name} {seconds:.3f}" for name, seconds in row["stages"].items())
    print(f"seconds: {stages}, total {row['seconds']:.3f}", flush=True)


@exit_code()
def main(argv: list[str] | None = None) -> int:
    return 1 if run(parse_args(argv)) else 0


if __name__ == "__main__":
    sys.exit(main())
