"""Show what token pruning keeps of a video.

    python scripts/visualize_pruning.py clip.mp4 --checkpoint RUN/step6250 --out pruning.png
    python scripts/visualize_pruning.py clip.mp4 --prune_method easy --topk 0.7 --out pruning.html

--out decides the form:
  .png   the sampled frames, removed cells dim; below each its score heat map; kept counts, budget
  .mp4   one picture per sampled frame: the frame beside its heat map, kept counts below
  .html  one self-contained page with a slider for topk that selects again in the browser

--prune_method decides which cells count as new:
  scorer     the learned scorer; needs a checkpoint that was trained with it
  easy       change against the frame before; frames that are new as a whole are protected
  heuristic  change against the last new cell at the same place; protects new frames as well
  evs        change of the pooled tokens against the frame before, after the ViT
  random     drawn by chance

With --checkpoint, the checkpoint's settings hold unless a flag overrides them. A dense checkpoint
works with the training-free methods, evs if none is given. Without --checkpoint a training-free
method compares raw pixels; --frame_size, --patch_size and --pool then say what a cell is.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from olmo.command_line import Parser, exit_code, natural, path, positive, share
from olmo.config import merge

if TYPE_CHECKING:
    from olmo.limits import Limits
    from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig
    from olmo.preprocessing.video import VideoPreprocessorConfig
    from olmo.types import VideoFrames
    from olmo.viewer.scores import ScoredVideo

VIT_FLAGS = ("topk", "prune_method", "prune_at", "new_ref_threshold", "random_seed")
PIXEL_FLAGS = {"frame_size": (378, 378), "patch_size": 14, "pool": 3}
"""Flags that only make sense without a checkpoint, and their defaults: those of Molmo2."""
WIDTHS = {".png": 220, ".mp4": 520, ".html": 400}
"""Pixels of a frame in each form of output."""
PNG_WIDTH, MOST_COLUMNS = 1800, 12
"""The frames of a row share so many pixels unless --width is given; and --columns."""


@exit_code()
def main(argv: list[str] | None = None) -> int:
    args, overrides = parse_args(argv)
    from olmo.distributed import setup_logging

    setup_logging()
    logging.getLogger().setLevel(logging.WARNING)
    # a checkpoint without a scorer is an error here, not worth a warning as well
    logging.getLogger("olmo.models.loading").setLevel(logging.ERROR)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    scored = score(args, overrides)
    write(scored, args)
    print(
        f"{args.out}: {scored.n_frames} frames of {scored.edges.n_cells} cells, {scored.in_words()}"
    )
    return 0


# --- command line ------------------------------------------------------------------------------


def build_parser() -> Parser:
    parser = Parser(
        __doc__,
        plugins=True,
        epilog="With --checkpoint, any further --model.KEY=VALUE overrides its model config, for "
        "example\n--model.vision_backbone.vit.prune_from_frame=1.",
    )
    add = parser.add_argument
    add("video", type=path, metavar="VIDEO", help="video file")
    add("--out", type=path, required=True, help="file to write: .png, .mp4 or .html")
    add("--checkpoint", type=path, help="checkpoint folder, or run folder (its newest checkpoint)")

    add = parser.add_argument_group(
        "pruning", "default: the checkpoint's settings; what it lacks, and without one:"
    ).add_argument
    add("--topk", type=share, help="share of the visual tokens to remove, in [0, 1) (0.5)")
    add(
        "--prune_method",
        metavar="NAME",
        help="one of easy, evs, heuristic, random, scorer, or of a --plugin (scorer)",
    )
    add("--prune_at", type=int, metavar="N", help="the ViT block that is scored (checkpoint only)")
    add(
        "--new_ref_threshold",
        type=float,
        metavar="X",
        help="easy, heuristic: similarity under which a frame is new (0.85)",
    )
    add("--random_seed", type=natural, metavar="N", help="seed of random (0)")

    add = parser.add_argument_group("frames").add_argument
    frames = "most frames to sample (default: the checkpoint's; without one, 64)"
    add("--max_frames", type=positive, metavar="N", help=frames)
    add("--clip_start", type=float, metavar="S", help="start at this second of the video")
    add("--clip_end", type=float, metavar="S", help="end at this second of the video")

    add = parser.add_argument_group("raw pixels, without --checkpoint").add_argument
    add("--frame_size", type=size, metavar="H[xW]", help="size that frames are resized to (378)")
    add("--patch_size", type=positive, metavar="N", help="side of a patch in pixels (14)")
    add("--pool", type=positive, metavar="N", help="side of a cell in patches (3)")

    add = parser.add_argument_group("drawing").add_argument
    add("--title", help="headline (default: method and file name)")
    heat = ".png, .mp4: colour the heat map by score or by rank of the score"
    add("--heat", choices=("score", "rank"), default="score", help=f"{heat} (score)")
    add("--columns", type=positive, metavar="N", help=".png: frames per row (default: by number)")
    widths = ", ".join(f"{w} for {suffix}" for suffix, w in WIDTHS.items())
    add("--width", type=pixels, metavar="N", help=f"pixels of a frame (at most {widths})")
    add("--fps", type=float, default=2.0, help=".mp4: frames shown per second (2)")
    add("--device", help="where the checkpoint runs (default: cuda if there is one, else cpu)")
    return parser


def parse_args(argv: list[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The flags, and the overrides of the checkpoint's model config."""
    parser = build_parser()
    args, overrides = parser.parse_with_model(argv)
    suffix = args.out.suffix.lower()
    if suffix not in WIDTHS:
        parser.error(f"--out {args.out}: unknown extension {suffix!r}, give {', '.join(WIDTHS)}")
    if not 0 < args.fps <= 120:
        parser.error(f"--fps must be above 0 and at most 120, got {args.fps:g}")
    pixels = [f"--{name}" for name in PIXEL_FLAGS if getattr(args, name) is not None]
    if args.checkpoint is not None and pixels:
        parser.error(f"{pixels[0]} is for raw pixels; with --checkpoint, its own value holds")
    if args.checkpoint is None:
        if overrides or args.prune_at is not None:
            parser.error(f"{'--model.*' if overrides else '--prune_at'} needs --checkpoint")
        for name, default in PIXEL_FLAGS.items():
            if getattr(args, name) is None:
                setattr(args, name, default)
    return args, overrides


def pixels(text: str) -> int:
    """Width of a frame that can be drawn: the heading needs some room, and memory is finite."""
    width = positive(text)
    if not 16 <= width <= 4096:
        raise argparse.ArgumentTypeError(f"expected 16 to 4096, got {width}")
    return width


def size(text: str) -> tuple[int, int]:
    """``378`` or ``378x504``: height and width."""
    sides = [positive(side) for side in text.split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"expected H or HxW, got {text!r}")
    return sides[0], sides[-1]


# --- scores ------------------------------------------------------------------------------------


def score(args: argparse.Namespace, overrides: dict[str, Any]) -> ScoredVideo:
    """Sample the frames and score them."""
    from olmo.device import choose_device
    from olmo.limits import Limits
    from olmo.models.loading import select_checkpoint
    from olmo.nn.temporal_image_vit import TemporalVitConfig
    from olmo.preprocessing.video import VideoPreprocessorConfig
    from olmo.viewer.scores import load_for_scoring, score_pixels, score_with_model

    device = choose_device(args.device)
    chosen = {name: getattr(args, name) for name in VIT_FLAGS if getattr(args, name) is not None}
    if args.checkpoint is None:
        (h, w), patch = args.frame_size, args.patch_size
        fixed = {"image_default_input_size": (h, w), "image_patch_size": patch}
        fixed["image_num_pos"] = (h // patch) * (w // patch)
        vit = TemporalVitConfig.from_dict({**fixed, **chosen}, "settings")
        sampling = VideoPreprocessorConfig()
        sampling.max_frames = args.max_frames or sampling.max_frames
        return score_pixels(read_frames(args, sampling, Limits()), vit, args.pool)
    folder = select_checkpoint(args.checkpoint)
    config = checkpoint_config(folder, chosen, args.max_frames, overrides)
    video = read_frames(args, config.mm_preprocessor.video, config.mm_preprocessor.limits)
    return score_with_model(load_for_scoring(config, folder, device), video, str(folder))


def checkpoint_config(
    folder: Path, chosen: dict[str, Any], max_frames: int | None, overrides: dict[str, Any]
) -> TemporalVideoOlmoConfig:
    """The checkpoint's model config as a pruning one, flags and overrides laid on top."""
    from olmo.models.loading import load_model_config, model_section
    from olmo.models.pruning_choice import resolve_pruning

    flags: dict[str, Any] = {"vision_backbone": {"vit": {"prune": True, **chosen}}}
    if max_frames is not None:
        flags["mm_preprocessor"] = {"video": {"max_frames": max_frames}}
    stored = model_section(folder)
    resolved = resolve_pruning(stored, merge(overrides, flags), folder)
    return cast("TemporalVideoOlmoConfig", load_model_config(folder, resolved, stored))


def read_frames(
    args: argparse.Namespace, config: VideoPreprocessorConfig, limits: Limits
) -> VideoFrames:
    from olmo.data.frame_sampling import FrameSampling
    from olmo.data.video_loading import Clip, load_video

    sampling, clip = FrameSampling.from_config(config), Clip(args.clip_start, args.clip_end)
    return load_video(args.video, sampling, clip=clip, limits=limits)


# --- output ------------------------------------------------------------------------------------


def write(scored: ScoredVideo, args: argparse.Namespace) -> None:
    from olmo.viewer.page import pruning_page
    from olmo.viewer.picture import pruning_frames, pruning_picture
    from olmo.viewer.video import write_video

    suffix = args.out.suffix.lower()
    title = args.title or f"Token pruning of {args.video.name}, method {scored.vit.prune_method}"
    if suffix == ".html":
        page = pruning_page(scored, title, args.width or WIDTHS[suffix])
        args.out.write_text(page, encoding="utf-8")
        return
    kept, caption, by_rank = scored.kept(), scored.caption(), args.heat == "rank"
    if suffix == ".mp4":
        width = args.width or WIDTHS[suffix]
        write_video(args.out, pruning_frames(kept, title, caption, width, by_rank), args.fps)
        return
    columns = args.columns or best_columns(*kept.video.frames.shape[:3])
    width = args.width or min(WIDTHS[suffix], PNG_WIDTH // columns)
    pruning_picture(kept, title, caption, columns, width, True, by_rank).save(args.out)


def best_columns(n: int, height: int, width: int) -> int:
    """Frames per row for a picture a bit wider than high; a tile is twice as high as a frame."""
    wanted = max(min(math.ceil(math.sqrt(2.4 * n * height / width)), MOST_COLUMNS), 4)
    return math.ceil(n / math.ceil(n / wanted))


if __name__ == "__main__":
    sys.exit(main())
