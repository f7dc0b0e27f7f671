"""Fine-tune and score many small models alike, and compare them.

    python scripts/study.py configs/study/main.yaml [--jobs 2] [--seeds 0 1 2] [--only NAME ...]

A plan names runs: a method, its settings and the shares to remove. Every run is the training
script with one seed, then all questions about the test clips. Its figures become one line of
``docs/study/<plan>.jsonl``; a run that has its line is not made again, and one that was cut off
goes on from its last checkpoint. ``scripts/study_report.py`` makes docs/study.md of these lines.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo.command_line import Parser, RunError, exit_code, path, positive
from olmo.text import format_table
from olmo.yaml_file import read_settings

ROOT = Path(__file__).resolve().parents[1]
VIT = "--model.vision_backbone.vit"
DATA_SEED = 50189
"""The training script's default."""


@dataclass(frozen=True)
class Plan:
    """A plan file.

    ``start`` is the checkpoint to fine-tune, ``mixture`` what on, ``config`` the settings and
    ``steps`` how long; ``clips`` test clips of the set ``test`` are asked. ``runs`` are
    ``{name: {topk: [...], flags: [...]}}``. ``asked`` are settings for the questions, each a line
    of the results: ``frames`` per clip, or another ``topk`` than in training.
    """

    name: str
    start: str
    mixture: str
    config: str
    steps: int
    test: str
    clips: int
    seeds: list[int]
    runs: dict[str, dict[str, Any]]
    flags: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=lambda: [{}])

    def jobs(self) -> Iterator[Job]:
        """All runs, all methods of one seed before the next seed."""
        for seed in self.seeds:
            for name, run in self.runs.items():
                for topk in run["topk"]:
                    steps, flags = run.get("steps", self.steps), run.get("flags", ())
                    asked = tuple(Asked(**one) for one in run.get("asked", self.asked))
                    yield Job(name, topk, seed, steps, (*self.flags, *flags), asked)


@dataclass(frozen=True)
class Asked:
    """How the questions are asked, where it is not as in training."""

    frames: int | None = None
    topk: float | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """Of the model's config; clips last 8 seconds."""
        found: dict[str, Any] = {}
        if self.topk is not None:
            found["vision_backbone"] = {"vit": {"topk": self.topk}}
        if self.frames is not None:
            video = {"max_frames": self.frames, "max_fps": [self.frames / 8]}
            found["mm_preprocessor"] = {"video": video}
        return found


@dataclass(frozen=True)
class Job:
    """One run."""

    name: str
    topk: float
    seed: int
    steps: int
    flags: tuple[str, ...]
    asked: tuple[Asked, ...] = (Asked(),)

    @property
    def lines(self) -> list[tuple[str, float, int]]:
        """What identifies each line of its results."""
        return [
            (
                self.name if one.frames is None else f"{self.name}, {one.frames} frames",
                self.topk if one.topk is None else one.topk,
                self.seed,
            )
            for one in self.asked
        ]

    @property
    def key(self) -> str:
        return f"{self.name}-{self.topk:g}-seed{self.seed}"

    def command(self, plan: Plan, folder: Path) -> list[str]:
        """The training command. A share of 0 is the dense model. A seed has its own scorer to begin
        with, and its own order of the examples."""
        return [
            *(sys.executable, "launch_scripts/train_image_video_sft.py", plan.start, plan.mixture),
            *("--config", plan.config, f"--save_folder={folder}", f"--run_name={self.key}"),
            *(f"--max_duration={self.steps}", "--data.num_workers=0"),
            *(f"--seed={self.seed}", f"--data.seed={DATA_SEED + self.seed}"),
            *("--save_interval=1000", "--save_num_checkpoints_to_keep=1"),
            *(f"{VIT}.topk={self.topk}", *self.flags),
        ]


def read_plan(file: Path) -> Plan:
    """``RunError`` for a plan with a missing or unknown key."""
    try:
        return Plan(name=file.stem, **read_settings(file))
    except TypeError as e:
        raise RunError(f"{file}: {str(e).replace('Plan.__init__()', 'the plan')}") from e


def make_run(plan: Plan, job: Job, out: Path) -> list[dict[str, Any]]:
    """Train and score; the lines of the results."""
    folder = out / plan.name / job.key
    folder.mkdir(parents=True, exist_ok=True)
    command = job.command(plan, folder)
    started = time.perf_counter()
    with open(folder / "log.txt", "a") as log:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        code = subprocess.run(command, stdout=log, stderr=log, cwd=ROOT, env=env).returncode
    if code:
        raise RunError(f"{job.key}: training ended with exit code {code}; see {folder / 'log.txt'}")
    training = time.perf_counter() - started
    commit = ("git", "rev-parse", "--short", "HEAD")
    made = {
        "command": shlex.join(["python", *command[1:]]),
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(commit, capture_output=True, text=True, cwd=ROOT).stdout.strip(),
        "machine": f"{platform.machine()}, 1 thread",
    }
    lines = []
    for asked, (run, topk, seed) in zip(job.asked, job.lines, strict=True):
        started = time.perf_counter()
        figures = score(plan, folder, asked)
        seconds = {"training": training, "scoring": time.perf_counter() - started}
        training = 0.0  # it counts once
        lines.append(
            {
                **{"run": run, "topk": topk, "seed": seed, "steps": job.steps},
                **figures,
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
                **made,
            }
        )
    return lines


def score(plan: Plan, folder: Path, asked: Asked) -> dict[str, Any]:
    """Figures of a trained run: right answers, recall, kept tokens, FLOPs, losses."""
    import numpy as np
    import torch

    from olmo.data.registry import get_dataset
    from olmo.eval.clips import answer_clips, recall
    from olmo.models.loading import load_model
    from olmo.train.dry_run import video_flops

    torch.set_num_threads(1)
    model, config = load_model(folder, asked.overrides, torch.device("cpu"))
    data = get_dataset(plan.test, "test")
    clips = range(min(plan.clips, data.n_clips))
    results = answer_clips(model, config, data, clips)
    correct: dict[str, str] = {}
    for result in results:
        for category, right in result.correct:
            correct[category] = correct.get(category, "") + str(int(right))
    unpruned, pruned = video_flops(config, config.mm_preprocessor.video.max_frames)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "correct": dict(sorted(correct.items())),
        "recall": recall(results),
        "kept": float(np.mean([one.keep.mean() for one in results])),
        "flops": pruned.total / unpruned.total,
        "loss": float(np.mean([one["train/CrossEntropyLoss"] for one in steps[-20:]])),
        "step_seconds": float(np.median([one["throughput/step_seconds"] for one in steps[2:]])),
    }


def finished(file: Path) -> set[tuple[str, float, int]]:
    if not file.exists():
        return set()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {(one["run"], one["topk"], one["seed"]) for one in lines}


@exit_code()
def main() -> int:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("plan", type=path, help="file of configs/study")
    add("--out", type=path, default=Path("runs/study"), help="folder of the training runs")
    add("--results", type=path, default=Path("docs/study"), help="folder of the result lines")
    add("--jobs", type=positive, default=os.cpu_count() or 1, help="runs at a time")
    add("--seeds", type=int, nargs="+", help="instead of those of the plan")
    add("--only", nargs="+", help="only these runs of the plan")
    args = parser.parse_args()
    plan = read_plan(args.plan)
    file = args.results / f"{plan.name}.jsonl"
    done = finished(file)
    jobs = [
        job
        for job in plan.jobs()
        if not done.issuperset(job.lines)
        and (not args.seeds or job.seed in args.seeds)
        and (not args.only or job.name in args.only)
    ]
    print(f"{len(done)} runs are in {file}; {len(jobs)} to make, {args.jobs} at a time", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        made = [pool.submit(make_run, plan, job, args.out) for job in jobs]
        for n, future in enumerate(as_completed(made), 1):
            for line in future.result():
                with open(file, "a") as results:
                    results.write(json.dumps(line) + "\n")
                answers = "".join(line["correct"].values())
                print(
                    f"[{n}/{len(jobs)}] {line['run']} {line['topk']:g} seed {line['seed']}: "
                    f"accuracy {100 * answers.count('1') / len(answers):.1f}, "
                    f"recall {100 * line['recall']:.1f}, {sum(line['seconds'].values()):.0f} s",
                    flush=True,
                )
    from olmo.eval.study import columns, only, read_results, table

    settings = read_results(file)
    rows = table(settings, only(settings, "dense", 0.0), settings, "random")
    print(format_table(columns("random"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
