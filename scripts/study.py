"""Fine-tune and score many small models alike, and compare them.

    python scripts/study.py configs/study/main.yaml [--jobs 2] [--seeds 0 1 2] [--only NAME ...]

A plan names runs: a method, its settings and the shares to remove. Every run is the training
script with one seed, then all questions about the test clips. Its figures become one line of
``docs/study/<plan>.jsonl``. Started again, the script makes the runs that have no line yet; one
that fails costs no other. ``scripts/study_report.py`` makes docs/study.md of these lines.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo.command_line import Parser, RunError, exit_code, path, positive
from olmo.config import Config, ConfigError
from olmo.eval.study import columns, how, made_and_asked, only, read_lines, read_results, table
from olmo.files import write_text
from olmo.text import format_table
from olmo.yaml_file import read_settings

ROOT = Path(__file__).resolve().parents[1]
VIT = "--model.vision_backbone.vit"
DATA_SEED = 50189
"""The training script's default."""
SCORING = threading.Lock()
"""One model is asked at a time: torch's number of threads belongs to the process."""


def short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass
class Asked(Config):
    """How the questions are asked, where it is not as in training: frames per second of a clip,
    another share to remove."""

    fps: int | None = None
    topk: float | None = None

    def __post_init__(self) -> None:
        self.at_least(1, "fps")
        self.in_range("[0, 1)", "topk")

    @property
    def overrides(self) -> dict[str, Any]:
        """Of the model's config."""
        found: dict[str, Any] = {}
        if self.topk is not None:
            found["vision_backbone"] = {"vit": {"topk": self.topk}}
        if self.fps is not None:  # no clip lasts longer than 8 seconds
            video = {"max_frames": 8 * self.fps, "max_fps": [self.fps]}
            found["mm_preprocessor"] = {"video": video}
        return found


@dataclass
class Run(Config):
    """One method: the shares that it is trained at, its settings, what is not as in the plan."""

    topk: list[float]
    flags: list[str] = field(default_factory=list)
    steps: int | None = None
    asked: list[Asked] | None = None

    def __post_init__(self) -> None:
        self.at_least(1, "steps")
        self.in_range("[0, 1)", "topk")


@dataclass
class Plan(Config):
    """A plan file.

    ``start`` is the checkpoint to fine-tune, ``mixture`` what on, ``config`` the settings and
    ``steps`` how long; ``clips`` test clips of the set ``test`` are asked, in each of the ways
    ``asked``, which is a line of the results.
    """

    start: str
    mixture: str
    config: str
    steps: int
    test: str
    clips: int
    seeds: list[int]
    runs: dict[str, Run]
    flags: list[str] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=lambda: [Asked()])

    def __post_init__(self) -> None:
        self.at_least(1, "steps", "clips")
        lines = [line for job in self.jobs() for line in job.lines]
        if twice := [line for line, n in Counter(lines).items() if n > 1]:
            name, topk, seed = twice[0]
            raise ValueError(f"asked twice: {name} at {topk:g}, seed {seed}")

    @property
    def config_digest(self) -> str:
        """Of what the file of settings says; ``OSError`` names it if it is not there."""
        return short_digest(json.dumps(read_settings(ROOT / self.config), sort_keys=True))

    def jobs(self) -> Iterator[Job]:
        """All runs, all methods of one seed before the next seed."""
        for seed in self.seeds:
            for name, run in self.runs.items():
                for topk in run.topk:
                    steps, asked = run.steps or self.steps, run.asked or self.asked
                    flags = (*self.flags, *run.flags)
                    yield Job(name, topk, seed, steps, flags, tuple(asked))


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
        """What identifies each line of its results: name, share removed, seed."""
        found = []
        for one in self.asked:
            name, topk = self.name, self.topk if one.topk is None else one.topk
            if topk != self.topk:
                name += f", trained at {self.topk:.0%}"
            if one.fps is not None:
                name += f", {one.fps} fps"
            found.append((name, topk, self.seed))
        return found

    @property
    def key(self) -> str:
        return f"{self.name}-{self.topk:g}-seed{self.seed}"

    def command(self, plan: Plan, folder: Path) -> list[str]:
        """The training command. A share of 0 is the dense model. A seed has its own scorer to begin
        with, and its own order of the examples."""
        return [
            *("python", "launch_scripts/train_image_video_sft.py", plan.start, plan.mixture),
            *("--config", plan.config, f"--save_folder={folder}", f"--run_name={self.key}"),
            *(f"--max_duration={self.steps}", f"--seed={self.seed}"),
            *("--save_interval=1000", "--save_num_checkpoints_to_keep=1"),
            *("--data.num_workers=0", f"--data.seed={DATA_SEED + self.seed}"),
            *(f"{VIT}.topk={self.topk}", *self.flags),
        ]

    def is_done(self, plan: Plan, made: list[dict[str, Any]]) -> bool:
        """Whether lines hold all its results, made and asked as the plan and its file of settings
        say now. What the start checkpoint holds is not compared."""
        now = (how(self.command(plan, Path())), plan.config_digest, plan.test, plan.clips)
        alike = [line for line in made if made_and_asked(line) == now]
        found = {(line["run"], line["topk"], line["seed"]) for line in alike}
        return found.issuperset(self.lines)


def read_plan(file: Path) -> Plan:
    """``ConfigError`` for a missing, unknown or wrong key."""
    settings = read_settings(file)
    try:
        return Plan.from_dict(settings)
    except ConfigError as e:
        raise ConfigError(f"{file}: {e}") from e


class Runner:
    """Makes the runs of a plan below the folder ``out``. Plans share it: a training that another
    one made is not made again."""

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan, self.out = plan, out
        self.trainings: set[subprocess.Popen[bytes]] = set()
        head = ("git", "rev-parse", "--short", "HEAD")
        found = subprocess.run(head, capture_output=True, text=True, cwd=ROOT)
        self.commit = found.stdout.strip()

    def stop(self) -> None:
        """End the trainings that go on."""
        for training in tuple(self.trainings):
            training.terminate()

    def make(self, job: Job) -> list[dict[str, Any]]:
        """Train and score; the lines of the results. ``RunError`` if training did not end well."""
        words = "\n".join((*how(job.command(self.plan, self.out)), self.plan.config_digest))
        folder = self.out / f"{job.key}-{short_digest(words)}"  # other settings, another folder
        folder.mkdir(parents=True, exist_ok=True)
        command, record = job.command(self.plan, folder), folder / "trained.json"
        reused = record.exists()
        if not reused:
            self._train(job, command, folder)
            made = {"date": datetime.date.today().isoformat(), "commit": self.commit}
            write_text(record, json.dumps(made))
        figures = training_figures(folder / "metrics.jsonl")
        seconds = {"training": figures.pop("seconds")}
        if reused:
            seconds["training"] = 0.0  # it counts where it was made
        lines = []
        for asked, (run, topk, seed) in zip(job.asked, job.lines, strict=True):
            with SCORING:
                started = time.perf_counter()
                answers = score(self.plan, folder / f"step{job.steps}", asked)
                seconds["scoring"] = time.perf_counter() - started
            lines.append(
                {
                    **{"run": run, "topk": topk, "seed": seed, "steps": job.steps},
                    **{"test": self.plan.test, "clips": self.plan.clips},
                    "config_digest": self.plan.config_digest,
                    **answers,
                    **figures,
                    "seconds": {name: round(value, 1) for name, value in seconds.items()},
                    "command": shlex.join(command),
                    **json.loads(record.read_text()),
                    "machine": f"{platform.machine()}, 1 thread",
                }
            )
            seconds["training"] = 0.0  # it counts once
        return lines

    def _train(self, job: Job, command: list[str], folder: Path) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        words = [sys.executable, *command[1:]]
        with open(folder / "log.txt", "a") as log:
            training = subprocess.Popen(words, stdout=log, stderr=log, cwd=ROOT, env=env)
            self.trainings.add(training)
            code = training.wait()
            self.trainings.remove(training)
        if code or not (folder / f"step{job.steps}").is_dir():  # code 0: also when it was stopped
            log_file = folder / "log.txt"
            last = (log_file.read_text(errors="replace").splitlines() or ["nothing"])[-1]
            raise RunError(
                f"{job.key}: training ended before step {job.steps} with exit code {code}; "
                f"{log_file} ends with: {last}"
            )


def score(plan: Plan, checkpoint: Path, asked: Asked) -> dict[str, Any]:
    """Figures of a trained model: right answers, recall, kept tokens, FLOPs."""
    import numpy as np
    import torch

    from olmo.data.registry import get_dataset
    from olmo.eval.clips import answer_clips, recall
    from olmo.models.loading import load_model
    from olmo.train.dry_run import video_flops

    torch.set_num_threads(1)
    model, config = load_model(checkpoint, asked.overrides, torch.device("cpu"))
    data = get_dataset(plan.test, "test")
    results = answer_clips(model, config, data, range(min(plan.clips, data.n_clips)))
    correct: dict[str, str] = {}
    for result in results:
        for category, right in result.correct:
            correct[category] = correct.get(category, "") + str(int(right))
    flops = [video_flops(config, len(one.keep)) for one in results]
    unpruned, pruned = (sum(one.total for one in side) for side in zip(*flops, strict=True))
    return {
        "correct": dict(sorted(correct.items())),
        "recall": recall(results),
        "kept": float(np.mean([one.keep.mean() for one in results])),
        "flops": pruned / unpruned,
    }


def training_figures(metrics: Path) -> dict[str, float]:
    """Mean loss of the last steps, the usual seconds of a step, and those of all steps."""
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    seconds = [one["throughput/step_seconds"] for one in steps]
    return {
        "loss": statistics.fmean(one["train/CrossEntropyLoss"] for one in steps[-20:]),
        "step_seconds": statistics.median(seconds),
        "seconds": sum(seconds),
    }


def make_all(runner: Runner, jobs: list[Job], n_jobs: int, file: Path) -> list[str]:
    """Append the results to ``file`` as they come. Returns what failed, in words."""
    failed = []
    with ThreadPoolExecutor(n_jobs) as pool:
        made = [pool.submit(runner.make, job) for job in jobs]
        try:
            for n, future in enumerate(as_completed(made), 1):
                try:
                    lines = future.result()
                except (RunError, ValueError, OSError) as e:
                    failed.append(str(e))
                    print(f"[{n}/{len(jobs)}] failed: {e}", flush=True)
                    continue
                append(file, lines)
                for line in lines:
                    print(f"[{n}/{len(jobs)}] {_in_words(line)}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            runner.stop()
            raise
    return failed


def append(file: Path, lines: list[dict[str, Any]]) -> None:
    """Add lines to a file of results, whose last line may lack its end."""
    whole = not file.exists() or file.read_bytes()[-1:] in (b"", b"\n")
    with open(file, "a") as results:
        results.write("" if whole else "\n")
        results.write("".join(json.dumps(line) + "\n" for line in lines))


def _in_words(line: dict[str, Any]) -> str:
    answers = "".join(line["correct"].values())
    return (
        f"{line['run']} {line['topk']:g} seed {line['seed']}: "
        f"accuracy {100 * answers.count('1') / len(answers):.1f}, "
        f"recall {100 * line['recall']:.1f}, {sum(line['seconds'].values()):.0f} s"
    )


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
    plan = dataclasses.replace(plan, seeds=args.seeds or plan.seeds)
    if unknown := set(args.only or ()) - plan.runs.keys():
        raise RunError(f"--only: {args.plan} has no run {', '.join(sorted(unknown))}")
    from olmo.data.datasets.synthetic.video import SyntheticVideoQA
    from olmo.data.registry import get_dataset
    from olmo.train.signals import folder_lock

    if not isinstance(get_dataset(plan.test, "test"), SyntheticVideoQA):  # before any training
        raise RunError(f"{args.plan}: test={plan.test} is not a set of synthetic clips")

    file = args.results / f"{args.plan.stem}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the trainings, too
    with folder_lock(args.out):
        made = read_lines(file)
        jobs = [
            job
            for job in plan.jobs()
            if (not args.only or job.name in args.only) and not job.is_done(plan, made)
        ]
        print(
            f"{file}: {len(made)} lines; {len(jobs)} runs to make, {args.jobs} at a time",
            flush=True,
        )
        failed = make_all(Runner(plan, args.out), jobs, args.jobs, file)
    settings = read_results(file)
    rows = table(settings, only(settings, "dense", 0.0), settings, "random")
    print(format_table(columns("random"), rows))
    for reason in failed:
        print(f"failed: {reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
