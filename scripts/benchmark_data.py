"""How fast examples are loaded and where the time goes; how full packs are; how fast decoders are.

    python scripts/benchmark_data.py                         # the synthetic set, one process
    python scripts/benchmark_data.py molmo2 --skip_missing   # a mixture, or a data set by name
    python scripts/benchmark_data.py --video a.mp4 b.mp4 --full_size
    python scripts/benchmark_data.py --packing               # lengths of the recipe, no media
    python scripts/benchmark_data.py --decoders              # 64 frames of a 10-minute video

Prints a table and writes it with all figures to OUT/{loading,packing,decoders}.json. Rates are
those of one loader process, which is one core; workers multiply them. --decoders makes its file
(640 x 360, 30 frames per second, H.264) once, in OUT, and compares every decoder that is installed
on the same moments, in turns: PyAV as this project uses it, torchcodec, decord.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from olmo.benchmark.clock import Clock
from olmo.command_line import Parser, exit_code, number, path, positive, seed
from olmo.config import merge
from olmo.data.frame_sampling import FrameSampling, sample_times
from olmo.data.mixture import MIXTURES, Mixture, open_named
from olmo.data.video_file import VideoFile
from olmo.files import whole_file
from olmo.preprocessing.packing import Packer, PackingConfig, packed_length
from olmo.text import markdown_table

FULL_SIZE = {
    "mm_preprocessor": {"video": {"max_frames": 64}},
    "vision_backbone": {
        "vit": {
            "image_default_input_size": [378, 378],
            "image_patch_size": 14,
            "image_num_pos": 729,
        }
    },
}
"""Frames and patches as large as those of the released models."""


class Videos:
    """A question about each of some files."""

    def __init__(self, files: list[str]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        about = {"question": "What happens?", "answer": "A man walks.", "style": "user_qa"}
        return {"video": self.files[idx], "metadata": {"example_id": self.files[idx]}, **about}


def open_mixture(args: argparse.Namespace) -> Mixture:
    """The files, the mixture or the data set that the command line names."""
    if args.video:
        return Mixture({"files": Videos(args.video)}, {"files": 1.0})
    return open_named(args.name, "train", args.skip_missing)


def stages() -> tuple[tuple[Any, str, str], ...]:
    """Functions whose time is counted, and the stage each belongs to."""
    from olmo.data import examples
    from olmo.preprocessing import visual
    from olmo.preprocessing.collator import Collator
    from olmo.preprocessing.multimodal import ExamplePreprocessor

    return (
        (examples, "load_video", "decode"),
        (examples, "resize_frames", "resize"),
        (visual, "load_image", "decode"),
        (visual, "resize_frames", "resize"),
        (visual, "image_crops", "resize"),
        (visual, "patchify", "resize"),
        (ExamplePreprocessor, "__call__", "tokenise"),
        (Packer, "add", "pack"),
        (Collator, "__call__", "collate"),
    )


def measure_loading(args: argparse.Namespace, overrides: dict[str, Any]) -> dict[str, Any]:
    """Seconds per stage and rates of one loader process."""
    from olmo.data.examples import ExampleSource
    from olmo.data.loader import DataConfig, LaneDataset, RowShare
    from olmo.models.registry import model_config_from_dict
    from olmo.models.run_folder import whole_model_of_file

    data = whole_model_of_file(args.config)
    data = merge(merge(data, FULL_SIZE if args.full_size else {}), overrides)
    model = model_config_from_dict(data)
    preprocessor = model.build_preprocessor(model.build_tokenizer(), args.seq_len)
    config = DataConfig(packing=PackingConfig(buffer_size=args.buffer_size), max_skipped=10**6)
    source = ExampleSource(open_mixture(args), preprocessor, config.seed)
    collator = model.build_collator(args.seq_len)
    dataset = LaneDataset(config, source, collator, RowShare(1, 1), {})
    clock = Clock(time.process_time if args.cpu_time else time.perf_counter)
    batches = iter(dataset)
    next(batches)  # warm-up; it also fills the packer's buffer
    n_examples = n_tokens = n_frames = n_rows = n_skipped = 0
    start = time.perf_counter()
    with clock.watch(*stages()), clock.stage("read and the rest"), tqdm(total=args.seconds) as bar:
        while (now := time.perf_counter() - start) < args.seconds:
            bar.update(round(now - bar.n, 1))
            batch = next(batches)
            n_rows += 1
            n_examples += len(batch.example_ids)
            n_skipped += len(batch.skipped)
            n_tokens += int((batch.tensors["input_ids"] >= 0).sum())
            n_frames += int(batch.tensors["num_images"].clamp(min=0).sum())
    seconds = sum(clock.seconds.values())
    return {
        "data": args.video or args.name,
        "seconds": seconds,
        "rows": n_rows,
        "examples_per_second": n_examples / seconds,
        "tokens_per_second": n_tokens / seconds,
        "frames_per_second": n_frames / seconds,
        "skipped": n_skipped,
        "time": "of the processor" if args.cpu_time else "on the wall",
        "share": {stage: s / seconds for stage, s in sorted(clock.seconds.items(), key=by_time)},
    }


def by_time(stage: tuple[str, float]) -> float:
    return -stage[1]


def draw_lengths(rng: np.random.Generator, topk: float, always_64: bool) -> dict[str, Any]:
    """A stand-in for an example of the recipe, whose length and number of frames alone count:
    half are videos (2 frames per second, at most 64; 81 cells and about 8 tokens of text each),
    a quarter images, 15% lists of 2 to 5 images, 10% text."""
    text, kind = int(rng.lognormal(4.2, 0.8)), rng.random()
    images = ((410, 2), (752, 5), (1189, 9), (1400, 9))
    n_pruned = n_frames = n_visual = 0
    if kind < 0.5:
        n_frames = 64 if always_64 else int(np.clip(2 * rng.lognormal(3.2, 0.9), 2, 64))
        n_visual, n_pruned = round(n_frames * 88.7), int(n_frames * 81 * topk)
    elif kind < 0.9:
        for _ in range(1 if kind < 0.75 else rng.integers(2, 6)):
            tokens, crops = images[rng.integers(len(images))]
            n_visual, n_frames = n_visual + tokens, n_frames + crops
    else:
        text = int(np.clip(rng.lognormal(6.2, 0.9), 30, 4000))
    n, none = n_visual + text, np.zeros(0, np.int64)
    row = np.zeros(n, np.int64)
    return {
        **{k: row for k in ("input_tokens", "target_tokens", "position_ids")},
        **{"loss_masks": row.astype(np.float32), "num_images": none, "multimodal_type": none},
        **{"images": np.zeros((n_frames, 0, 0), np.uint8), "n_pruned": n_pruned, "visual_end": 0},
        "token_pooling": np.zeros((0, 1), np.int64),
    }


def measure_packing(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Fill, time and waiting of the packer, by share of pruned tokens."""
    rows = []
    for always_64 in (False, True):
        for topk in (0.0, 0.3, 0.5):
            rng = np.random.default_rng(args.seed)
            packer = PackingConfig(buffer_size=args.buffer_size).build(args.seq_len)
            fill, waited, seconds = [], 0, 0.0
            for i in range(args.examples):
                example = draw_lengths(rng, topk, always_64)
                start = time.perf_counter()
                out = packer.add(i, example)
                seconds += time.perf_counter() - start
                if out is not None:
                    fill.append(packed_length(out.example) / args.seq_len)
                    waited = max(waited, *(i - n for n in out.example_ids))
            rows.append(
                {
                    "videos": "64 frames each" if always_64 else "2 to 64 frames",
                    "topk": topk,
                    "seq_len": args.seq_len,
                    "packs": len(fill),
                    "fill": statistics.fmean(fill),
                    "least_full": min(fill),
                    "ms_per_pack": 1000 * seconds / len(fill),
                    "longest_wait": waited,
                }
            )
    return rows


def write_long_video(path: Path, seconds: int) -> None:
    """Shots of 2 to 12 s: a pan over a texture, a moving square, noise; B-frames, 250 at most from
    key frame to key frame."""
    rng, fps, (w, h) = np.random.default_rng(0), 30, (640, 360)
    left = seconds * fps
    with (
        whole_file(path) as part,
        av.open(str(part), "w", format="mp4") as out,
        tqdm(total=left, desc=path.name, unit="frame") as bar,
    ):
        stream = out.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = w, h, "yuv420p"
        while left:
            small = Image.fromarray(rng.integers(0, 220, (h // 20, w // 20, 3)).astype(np.uint8))
            scene, move = np.asarray(small.resize((2 * w, 2 * h), 3)), rng.uniform(-2, 2, 2)
            for k in range(min(int(rng.integers(60, 360)), left)):
                y, x = np.clip(np.array([h, w]) / 2 + move * k, 0, [h, w]).astype(int)
                frame = np.minimum(scene[y : y + h, x : x + w], 235)
                frame += rng.integers(0, 16, (h, w, 1), dtype=np.uint8)
                a, b = int(150 * (1 + np.sin(k / 17))), int(290 * (1 + np.cos(k / 23)))
                frame[a : a + 60, b : b + 60] = 255 - frame[a : a + 60, b : b + 60]
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                left -= 1
                bar.update()
        out.mux(stream.encode())


def contestants(path: Path, times: np.ndarray, fps: float) -> dict[str, Callable[[], np.ndarray]]:
    """What returns the frames at ``times``, uint8 ``[n, h, w, 3]``, by decoder."""
    from olmo.data.video_loading import load_video

    sampling = FrameSampling(len(times), max_fps=(2.0,))
    found: dict[str, Callable[[], np.ndarray]] = {
        "this project (PyAV)": lambda: load_video(path, sampling).frames
    }
    try:
        from torchcodec.decoders import VideoDecoder

        def torchcodec(mode: str) -> np.ndarray:
            decoder = VideoDecoder(str(path), seek_mode=mode, dimension_order="NHWC")
            last = decoder.metadata.end_stream_seconds - 1e-6
            return decoder.get_frames_played_at(np.minimum(times, last).tolist()).data.numpy()

        for mode in ("exact", "approximate"):
            found[f"torchcodec, {mode}"] = lambda mode=mode: torchcodec(mode)
    except (ImportError, RuntimeError) as e:
        print(f"torchcodec left out: {str(e).splitlines()[0]}")
    try:
        import decord

        def decord_frames(threads: int) -> np.ndarray:
            reader = decord.VideoReader(str(path), num_threads=threads)
            index = np.minimum((times * fps + 1e-6).astype(int), len(reader) - 1)
            return reader.get_batch(index.tolist()).asnumpy()

        found["decord, 1 thread"] = lambda: decord_frames(1)
        found["decord, its threads"] = lambda: decord_frames(0)
    except ImportError as e:
        print(f"decord left out: {e}")
    return found


def measure_decoders(args: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of every decoder in turns, and in how many frames it differs from ours."""
    path = Path(args.video[0]) if args.video else args.out / "ten_minutes_360p.mp4"
    if not path.exists():
        write_long_video(path, 600)
    with closing(VideoFile(path)) as file:
        duration = file.duration
        fps = len(file.timeline.stamps) / duration
    times = sample_times(FrameSampling(64, max_fps=(2.0,)), duration)
    runs = contestants(path, times, fps)
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    expected, differ = None, {}
    for turn in tqdm(range(args.repeats + 1), desc="turns"):
        names = list(runs)[turn % len(runs) :] + list(runs)[: turn % len(runs)]
        for name in names if turn else runs:
            start, start_cpu = time.perf_counter(), time.process_time()
            frames = runs[name]()
            if turn:  # the first turn warms up, and compares the frames
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - start_cpu)
                continue
            expected = frames if expected is None else expected
            differ[name] = int((frames != expected).reshape(len(frames), -1).any(1).sum())
    packages = ("av", "torchcodec", "decord2", "decord")
    rows = [
        {
            "decoder": name,
            "seconds": statistics.median(wall[name]),
            "cpu_seconds": statistics.median(cpu[name]),
            "least": min(wall[name]),
            "frames_that_differ": differ[name],
        }
        for name in runs
    ]
    return {
        "file": path.name,
        "duration": duration,
        "frames": len(times),
        "repeats": args.repeats,
        "versions": {p: version(p) for p in packages},
        "ours_by_best_with_the_same_frames": ratio(rows, same_frames=True),
        "ours_by_best_of_all": ratio(rows, same_frames=False),
        "rows": rows,
    }


def ratio(rows: list[dict[str, Any]], same_frames: bool) -> float | None:
    """Our seconds, in the first row, by the least of the others."""
    others = [r for r in rows[1:] if not (same_frames and r["frames_that_differ"])]
    return rows[0]["seconds"] / min(r["seconds"] for r in others) if others else None


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""

    def show(value: object) -> object:
        return f"{value:,.3f}" if isinstance(value, float) else value

    return markdown_table(list(rows[0]), [[show(v) for v in row.values()] for row in rows])


def parser() -> Parser:
    out = Parser(__doc__)
    add = out.add_argument
    add("name", nargs="?", default="synthetic_video_qa", help="data set, mixture or own data")
    add("--video", nargs="+", help="video files in place of a data set; with --decoders the first")
    add("--packing", action="store_true", help="measure the packer alone")
    add("--decoders", action="store_true", help="compare decoders")
    add("--config", type=path, default=MIXTURES.parent / "tiny.yaml", help="config with the model")
    add("--full_size", action="store_true", help="64 frames of 378 x 378 pixels")
    add("--skip_missing", action="store_true", help="leave absent data sets out")
    add("--seq_len", type=positive, default=9686, help="tokens of a row (9686)")
    add("--buffer_size", type=positive, default=PackingConfig.buffer_size, help="of the packer")
    add("--seconds", type=number(float, 0), default=20.0, help="how long to load (20)")
    add("--cpu_time", action="store_true", help="count the processor's time, on a busy machine")
    add("--examples", type=positive, default=5000, help="of --packing (5000)")
    add("--repeats", type=positive, default=5, help="turns of --decoders (5)")
    add("--seed", type=seed, default=0)
    add("--out", type=path, default=Path("benchmark_output"), help="folder (benchmark_output)")
    return out


@exit_code()
def main(argv: list[str] | None = None) -> int:
    args, overrides = parser().parse_with_model(argv)
    logging.basicConfig(level=logging.ERROR)
    import torch

    torch.set_num_threads(1)  # as in a loader process
    args.out.mkdir(parents=True, exist_ok=True)
    if args.packing:
        name, found = "packing", {"rows": measure_packing(args)}
    elif args.decoders:
        name, found = "decoders", measure_decoders(args)
    else:
        name, result = "loading", measure_loading(args, overrides)
        shares = [{"stage": s, "share": v} for s, v in result["share"].items()]
        found = {**result, "rows": shares}
    found["machine"] = {"cores": os.cpu_count(), "system": platform.platform()}
    (args.out / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    print("\n" + table(found["rows"]))
    for key, value in found.items():
        if isinstance(value, (int, float)) or value is None:
            print(f"{key}: {value if value is None else round(value, 3)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
