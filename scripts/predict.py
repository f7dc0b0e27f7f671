"""Ask a question about a video or an image.

    python scripts/predict.py clip.mp4 "What happens?" --checkpoint PATH --topk 0.5

PATH is a native checkpoint, a run folder or a Hugging Face folder. Prints the answer, the tokens of
the prompt before and after pruning, and the time of each stage.
"""

from __future__ import annotations

import argparse
import sys

from olmo.command_line import Parser, exit_code, path, positive


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, plugins=True)
    add = parser.add_argument
    add("video", metavar="VIDEO", type=path, help="video file, a moving picture or an image")
    add("question", metavar="QUESTION")
    add("--checkpoint", metavar="PATH", type=path, required=True)
    add("--topk", type=float, help="share of visual tokens to remove (default: the checkpoint's)")
    method = "how tokens are chosen: scorer, easy, heuristic, random or evs (the checkpoint's)"
    add("--prune_method", metavar="NAME", help=method)
    add("--max_frames", type=int, metavar="N", help="frames of a video (the checkpoint's)")
    add(
        "--max_new_tokens",
        type=positive,
        default=256,
        metavar="N",
        help="limit of the answer (256)",
    )
    add("--style", default="", help="kind of question, as in training: video_short_answer, ...")
    add("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Load, ask, print."""
    from olmo import load_model
    from olmo.data.animation import is_video
    from olmo.preprocessing.prompts import check_style

    check_style(args.style)
    if not args.video.exists():
        raise FileNotFoundError(f"{args.video}: no such file")
    pruning = {"prune_method": args.prune_method} if args.prune_method else {}
    model, _ = load_model(args.checkpoint, device=args.device, **pruning)
    moves = is_video(args.video)
    answer = model.answer(
        args.question,
        videos=[args.video] if moves else [],
        images=[] if moves else [args.video],
        topk=args.topk,
        max_frames=args.max_frames,
        max_new_tokens=args.max_new_tokens,
        style=args.style,
    )
    before = answer.n_tokens_before
    print(answer.text)
    method = f" ({model.config.prune_method})" if answer.n_tokens_after < before else ""
    print(f"tokens: {before} before pruning{method}, {answer.n_tokens_after} after")
    stages = ", ".join(f"{name} {seconds:.3f}" for name, seconds in answer.seconds.items())
    print(f"seconds: {stages}, total {sum(answer.seconds.values()):.3f}")


@exit_code()
def main(argv: list[str] | None = None) -> int:
    run(parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
