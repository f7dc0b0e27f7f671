"""STTS from start to end on a CPU, in a few minutes: `make demo`, or

    python launch_scripts/demo.py [--out DIR] [--steps N] [--topk SHARE] [--fresh]

Takes the small dense video model that comes with the repository, fine-tunes it with STTS, then
answers held-out questions with the dense model, with STTS, and with random pruning of the same
amount. Writes OUT/results.md, results.json, pruning.png, and the answers under OUT/eval. Run
again, it uses the fine-tuned checkpoint in OUT/stts, or resumes it when it is not finished.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from olmo.command_line import Parser, RunError, exit_code, path, positive
from olmo.data.datasets.synthetic.video import SyntheticVideoQA
from olmo.data.frame_sampling import FrameSampling
from olmo.data.registry import get_dataset
from olmo.eval.captions import question_lines
from olmo.eval.pairs import paired_difference
from olmo.eval.tasks import SYNTHETIC, resolve_tasks
from olmo.eval.timing import compare_prefill
from olmo.text import format_table, markdown_table

if TYPE_CHECKING:
    import torch

    from olmo.eval.comparison import Contender
    from olmo.eval.prediction import Prediction

ROOT = Path(__file__).resolve().parents[1]
START = ROOT / "checkpoints" / "tiny-dense"
N_STAGES = 6

SETTINGS = ROOT / "configs" / "tiny_stts.yaml"
STEPS = 300

EVAL_BATCH, TIMED_BATCHES, REPEATS = 20, 3, 5
"""Questions per batch, and how many such batches are timed how often."""


class DemoError(RunError):
    """The demo cannot go on; the message says why and what helps."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    out: Path
    steps: int
    max_examples: int | None
    checkpoint: Path
    topk: float
    fresh: bool

    @property
    def run(self) -> Path:
        """Folder of the fine-tuning run."""
        return self.out / "stts"


def parse_args(argv: list[str] | None) -> Options:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", type=path, default=Path("demo_output"), help="folder of the results (demo_output)")
    add("--steps", type=positive, default=STEPS, help=f"steps of fine-tuning ({STEPS})")
    add("--max_examples", type=positive, help="only so many test questions (default: all)")
    add("--checkpoint", type=path, help="dense checkpoint to start from (the one shipped)")
    add("--topk", type=float, default=0.5, help="share of visual tokens to remove (0.5)")
    add("--fresh", action="store_true", help="fine-tune anew although OUT/stts is there")
    args = parser.parse_args(argv)
    if not 0 < args.topk < 1:
        parser.error(f"--topk is the share to remove, between 0 and 1: got {args.topk}")
    args.checkpoint = args.checkpoint or Path(os.path.relpath(START))
    return Options(**vars(args))


def stage(number: int, text: str) -> None:
    print(f"\n[{number}/{N_STAGES}] {text}", flush=True)


# --- data, checkpoint, fine-tuning -------------------------------------------------------------


def find_start(folder: Path) -> Path:
    """The dense start checkpoint; ``DemoError`` if there is none or if it prunes."""
    from olmo.models.loading import load_model_config, select_checkpoint

    try:
        found = select_checkpoint(folder)
        config = load_model_config(found)
    except (FileNotFoundError, ValueError) as e:
        hint = "name a dense checkpoint with --checkpoint"
        if folder.resolve() == START:
            hint = f"it belongs to the repository: `git checkout -- {folder}` brings it back"
        raise DemoError(f"no start checkpoint: {e}\n{hint}") from e
    if config.budget.topk:
        raise DemoError(f"{found} prunes already (topk {config.budget.topk}); give a dense one")
    return found


def open_data() -> SyntheticVideoQA:
    """The test split. Renders the clips of both splits unless they are there."""
    train, test = get_dataset(SYNTHETIC, "train"), get_dataset(SYNTHETIC, "test")
    assert isinstance(test, SyntheticVideoQA)
    print(f"{len(train)} training clips; {len(test)} questions about {test.n_clips} test clips")
    print(f"in {test.folder.parent}")
    return test


def training_command(options: Options) -> list[str]:
    """Fine-tuning with STTS through the training script."""
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "1", "--standalone")
    script = os.path.relpath(ROOT / "launch_scripts" / "train_image_video_sft.py")
    return [
        *(sys.executable, *launcher, script, str(options.checkpoint), SYNTHETIC),
        *("--config", os.path.relpath(SETTINGS), "--run_name=stts"),
        *(f"--max_duration={options.steps}", f"--save_folder={options.run}"),
        f"--model.vision_backbone.vit.topk={options.topk}",
    ]


def prepare_run(options: Options, start: Path, command: Sequence[str]) -> None:
    """Make the folder of the run, or check that the one there is of the same command.

    Raises ``DemoError`` for a run from another checkpoint or with other settings, and for a
    folder that the demo did not make, which ``--fresh`` does not delete either.
    """
    record, run = options.run / "demo.json", options.run
    files = [(f, f.stat()) for f in sorted(start.rglob("*")) if f.is_file()]
    wanted = {
        "arguments": list(command[command.index("--standalone") + 2 :]),
        "start": [[f.name, s.st_size, s.st_mtime_ns] for f, s in files],
    }
    text = json.dumps(wanted, indent=2) + "\n"
    if run.exists() and not record.is_file():
        raise DemoError(f"{run} is there, but not from this demo: choose another --out")
    if run.exists() and options.fresh:
        shutil.rmtree(run)
    if run.exists() and record.read_text() != text:
        raise DemoError(
            f"{run} holds a run of other settings or from another checkpoint: start over with "
            "--fresh, or choose another --out"
        )
    run.mkdir(parents=True, exist_ok=True)
    record.write_text(text)


def fine_tune(options: Options, start: Path) -> Path:
    """Run the training command unless it is finished, and return the last checkpoint."""
    from olmo.models.run_folder import flaw

    command = training_command(options)
    prepare_run(options, start, command)
    print(shlex.join(command), flush=True)
    last = options.run / f"step{options.steps}"
    if flaw(last) is None:
        print(f"finished already: {last} (--fresh trains anew)")
        return last
    code = subprocess.run(command, check=False).returncode
    if code:
        raise DemoError(f"the training above ended with exit code {code}")
    return last


# --- comparison --------------------------------------------------------------------------------


def load_contenders(
    start: Path, tuned: Path, options: Options, device: torch.device
) -> list[Contender]:
    """The dense model, STTS, and random pruning with the weights of STTS."""
    from olmo.eval.comparison import Contender
    from olmo.models.loading import load_model
    from olmo.train.dry_run import video_flops

    by_chance = {"vision_backbone": {"vit": {"prune_method": "random"}}}
    share = f"topk {options.topk:g}"
    contenders = []
    for key, label, checkpoint, overrides in (
        ("dense", "dense", start, {}),
        ("stts", f"STTS, {share}", tuned, {}),
        ("random", f"random pruning, {share}", tuned, by_chance),
    ):
        model, config = load_model(checkpoint, overrides, device)
        unpruned, pruned = video_flops(config, config.mm_preprocessor.video.max_frames)
        flops_share = pruned.total / unpruned.total
        contenders.append(Contender(key, label, checkpoint, model, config, flops_share))
    return contenders


def compare(
    contenders: list[Contender], test: SyntheticVideoQA, options: Options, device: torch.device
) -> None:
    """Answer the questions with every model, then time them side by side."""
    from olmo.eval.comparison import fixed_batches, load_batch
    from olmo.eval.settings import EvalSettings

    settings = EvalSettings(EVAL_BATCH, options.max_examples)
    (task,) = resolve_tasks(None, SYNTHETIC)
    stage(4, f"evaluation on held-out clips, {len(contenders)} settings")
    for one in contenders:
        one.answer(task, settings, device, test, options.out / "eval")
    stage(5, f"prefill times: {REPEATS} passes over the same batches, the models taking turns")
    config = contenders[0].config
    chunks = fixed_batches(len(test), settings)[:TIMED_BATCHES]
    batches = [load_batch(config, test, chunk, device) for chunk in chunks]
    models = {one.key: one.model for one in contenders}
    found = compare_prefill(models, batches, config.build_tokenizer().eos_id, REPEATS)
    for one in contenders:
        one.prefill = found[one.key]


def example(test: SyntheticVideoQA, index: int) -> dict[str, Any]:
    return test.get(index, np.random.RandomState(0))  # test examples draw nothing from it


# --- results -----------------------------------------------------------------------------------


def notes(options: Options, device: torch.device) -> str:
    """What the figures mean."""
    import torch

    place = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return f"""\
- Dense: `{options.checkpoint}` as it is. STTS: the same after {options.steps} more steps \
with pruning (`configs/{SETTINGS.name}`). Random pruning: the STTS checkpoint, with cells drawn by \
chance.
- The test clips are in no training split.
- Prefill: video and question up to the first token; median of {REPEATS} passes over \
the same batches (at most {TIMED_BATCHES} of {EVAL_BATCH} videos), the models taking turns; \
{place}, threads: {torch.get_num_threads()}.
- FLOPs: of a prefill, in per cent of the same model without pruning.
- Chance: one in the number of options; for an open question the most frequent answer of its \
category.
"""


def save_results(
    contenders: list[Contender], test: SyntheticVideoQA, options: Options, device: torch.device
) -> None:
    """Print the table; write it to ``results.md`` and all figures to ``results.json``."""
    import torch

    from olmo.eval.comparison import COLUMNS, comparison_table, guessing_accuracy

    dense, stts, random = (one.predictions for one in contenders)
    about = [example(test, i)["metadata"] for i in range(len(test))]
    chance = guessing_accuracy(dense, [(m["category"], m["answer"]) for m in about])
    gaps = {
        "STTS - dense": paired_difference(stts, dense),
        "STTS - random pruning": paired_difference(stts, random),
    }
    rows = comparison_table(contenders, chance)
    lines = [f"{name}: {gap}" for name, gap in gaps.items()]
    print("\n".join([format_table(COLUMNS, rows), "", *lines]))
    command = training_command(options)
    text = ["# Demo results", "", markdown_table(COLUMNS, rows), "", "  \n".join(lines), ""]
    text += [notes(options, device), "The fine-tuning:", "", f"    {shlex.join(command)}", ""]
    (options.out / "results.md").write_text("\n".join(text))
    data = {
        "settings": {one.key: one.summary() for one in contenders},
        "chance": chance,
        "differences_in_points": {name: asdict(gap) for name, gap in gaps.items()},
        "topk": options.topk,
        "steps": options.steps,
        "command": command,
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    (options.out / "results.json").write_text(json.dumps(data, indent=2) + "\n")


def draw_pruning(stts: Contender, test: SyntheticVideoQA, path: Path) -> None:
    """Picture of the first answered question about a character that moves."""
    from olmo.data.video_loading import load_video
    from olmo.eval.comparison import load_batch
    from olmo.viewer.cells import CellEdges
    from olmo.viewer.kept import KeptVideo, kept_cells
    from olmo.viewer.picture import pruning_picture

    def rank(one: Prediction) -> tuple[bool, bool]:
        mover = test.scenes[example(test, one.index)["metadata"]["clip"]].mover
        return mover is None, one.category != "which_moves"

    one, config = min(stts.predictions, key=rank), stts.config
    batch = load_batch(config, test, [one.index], stts.model.device)
    keep, scores = kept_cells(stts.model, batch)
    clip = example(test, one.index)["video"]
    video = load_video(clip, FrameSampling.from_config(config.mm_preprocessor.video))
    title = f"STTS on a test video: {1 - keep.mean():.0%} of the visual tokens are dropped"
    kept = KeptVideo(video, CellEdges.of_video(config), keep, scores)
    pruning_picture(kept, title, answer_lines(one)).save(path)


def answer_lines(one: Prediction) -> list[tuple[str, str]]:
    """Caption of a picture: question, options, answer, prediction."""
    verdict = "right" if one.correct else "wrong"
    return [*question_lines(one), ("prediction", f"{one.prediction or 'nothing'} ({verdict})")]


def run_demo(options: Options) -> None:
    import torch

    from olmo.distributed import init_distributed
    from olmo.models.loading import load_model_config

    started = time.perf_counter()
    start = find_start(options.checkpoint)
    device = init_distributed()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)
    options.out.mkdir(parents=True, exist_ok=True)
    stage(1, "data: small rendered clips with questions (rendered once)")
    test = open_data()
    stage(2, f"dense start checkpoint: {start}")
    n_parameters = sum(p.numel() for p in load_model_config(start).build("meta").parameters())
    print(f"{n_parameters / 1e6:.2f} million parameters")
    stage(3, f"fine-tuning with STTS: {options.steps} steps, topk {options.topk:g}")
    tuned = fine_tune(options, start)
    contenders = load_contenders(start, tuned, options, device)
    compare(contenders, test, options, device)
    stage(6, "results")
    save_results(contenders, test, options, device)
    draw_pruning(contenders[1], test, options.out / "pruning.png")
    print()
    for name in ("results.md", "results.json", "pruning.png", "eval", "stts"):
        print(options.out / name)
    print(f"finished in {(time.perf_counter() - started) / 60:.1f} minutes")


@exit_code()
def main(argv: list[str] | None = None) -> int:
    options = parse_args(argv)
    from olmo.distributed import setup_logging

    setup_logging()
    logging.getLogger().setLevel(logging.WARNING)
    try:
        run_demo(options)
    except KeyboardInterrupt:
        print("\nthe same command goes on from the last checkpoint", file=sys.stderr)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
