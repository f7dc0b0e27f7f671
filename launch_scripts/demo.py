"""STTS from start to end on a CPU, in a few minutes: `make demo`, or

    python launch_scripts/demo.py [--out DIR] [--steps N] [--topk SHARE ...] [--seed N] [--fresh]

Takes the small dense video model that comes with the repository and fine-tunes it with STTS. Then
asks the dense model, STTS and random pruning the same questions about clips that none has seen, at
every share of removed tokens. Writes OUT/results.md, results.json and pruning.png. Run again, it
uses the fine-tuned checkpoint in OUT/stts, or resumes it when it is not finished.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olmo.command_line import Parser, RunError, exit_code, path, positive, share
from olmo.data.datasets.synthetic.video import SyntheticVideoQA
from olmo.data.registry import get_dataset
from olmo.eval.tasks import SYNTHETIC
from olmo.text import format_table, markdown_table

if TYPE_CHECKING:
    import torch

    from olmo.eval.clips import ClipResult
    from olmo.eval.pairs import Difference
    from olmo.eval.timing import Prefill
    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config

ROOT = Path(__file__).resolve().parents[1]
START = ROOT / "checkpoints" / "tiny-dense"
N_STAGES = 6

SETTINGS = ROOT / "configs" / "tiny_stts.yaml"
STEPS, BATCH = 150, 8  # clips of a step

SHARES = (0.5, 0.8)
CLIPS, TIMED_CLIPS, REPEATS = 150, 4, 5  # of the test clips; how often they are timed
PICTURED = 0.8
"""The picture is of the largest share up to this one: there it matters most what is kept."""


class DemoError(RunError):
    """The demo cannot go on; the message says why and what helps."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    out: Path
    steps: int
    clips: int
    checkpoint: Path
    topk: tuple[float, ...]
    seed: int | None
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
    add("--clips", type=positive, default=CLIPS, help=f"test clips to ask about ({CLIPS})")
    add("--checkpoint", type=path, help="dense checkpoint to start from (the one shipped)")
    text = "shares of visual tokens to remove; the first is fine-tuned with (0.5 0.8)"
    add("--topk", type=share, nargs="+", default=SHARES, help=text)
    add("--seed", type=int, help="another scorer to begin with than that of the training script")
    add("--fresh", action="store_true", help="fine-tune anew although OUT/stts is there")
    args = parser.parse_args(argv)
    for topk in args.topk:
        if not 0 < topk < 1:
            parser.error(f"--topk is the share to remove, between 0 and 1: got {topk}")
    args.topk = tuple(dict.fromkeys(args.topk))
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
    """Fine-tuning with STTS through the training script. On a CPU two processes of one thread are
    faster than one of two."""
    import torch

    n = 1 if torch.cuda.is_available() else min(os.cpu_count() or 1, 2)
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", str(n), "--standalone")
    script = os.path.relpath(ROOT / "launch_scripts" / "train_image_video_sft.py")
    return [
        *(sys.executable, *launcher, script, str(options.checkpoint), SYNTHETIC),
        *("--config", os.path.relpath(SETTINGS), "--run_name=stts"),
        *(f"--max_duration={options.steps}", f"--save_folder={options.run}"),
        f"--device_batch_size={BATCH // n}",
        f"--model.vision_backbone.vit.topk={options.topk[0]}",
        *([] if options.seed is None else [f"--seed={options.seed}"]),
    ]


def prepare_run(options: Options, start: Path, command: Sequence[str]) -> None:
    """Make the folder of the run, or check that the one there is of the same command.

    Raises ``DemoError`` for a run from another checkpoint or with other settings, and for a
    folder that the demo did not make, which ``--fresh`` does not delete either.
    """
    record, run = options.run / "demo.json", options.run
    files = [f for f in sorted(start.rglob("*")) if f.is_file()]
    sizes = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    wanted = {"arguments": list(command[command.index("--standalone") + 2 :]), "start": sizes}
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


@dataclass
class Contender:
    """A model at a share of removed tokens, and what came out."""

    label: str
    checkpoint: Path
    model: Molmo2
    config: Molmo2Config
    topk: float
    results: list[ClipResult] = field(default_factory=list)
    prefill: Prefill | None = None

    def figures(self) -> dict[str, Any]:
        """What is printed and written."""
        from olmo.eval.clips import accuracies, answers, recall
        from olmo.eval.metrics import bootstrap_interval

        assert self.prefill is not None
        right = answers(self.results)
        return {
            "accuracy": sum(right) / len(right),
            "interval": bootstrap_interval(right),
            "n": len(right),
            "recall": recall(self.results),
            "visual_tokens_per_video": self.prefill.visual_tokens,
            "prefill_seconds_per_video": self.prefill.seconds,
            "categories": accuracies(self.results),
        }


def load_contenders(
    start: Path, tuned: Path, options: Options, device: torch.device
) -> list[Contender]:
    """The dense model, then STTS and random pruning with the weights of STTS at every share."""
    from olmo.models.loading import load_model

    contenders = [Contender("dense", start, *load_model(start, {}, device), 0.0)]
    for topk in options.topk:
        for label, method in (("STTS", "scorer"), ("random", "random")):
            vit = {"vit": {"prune_method": method, "topk": topk}}
            loaded = load_model(tuned, {"vision_backbone": vit}, device)
            contenders.append(Contender(f"{label} {topk:.0%}", tuned, *loaded, topk))
    return contenders


def compare(contenders: list[Contender], test: SyntheticVideoQA, options: Options) -> None:
    """Answer the questions with every model, then time them side by side."""
    from olmo.eval.answer import collate_examples
    from olmo.eval.clips import answer_clips
    from olmo.eval.timing import compare_prefill

    clips = range(min(options.clips, test.n_clips))
    stage(4, f"questions about {len(clips)} test clips, {len(contenders)} settings")
    for one in contenders:
        print(one.label, flush=True)
        one.results = answer_clips(one.model, one.config, test, clips)
    stage(5, f"prefill times: {REPEATS} passes over the same videos, the models taking turns")
    config, device = contenders[0].config, contenders[0].model.device
    first = {test.get(i, None)["metadata"]["clip"]: i for i in reversed(range(len(test)))}
    batch = collate_examples(config, test, [first[c] for c in clips[:TIMED_CLIPS]], 0)
    models = {one.label: one.model for one in contenders}
    inputs = {k: v.to(device) for k, v in batch.items()}
    found = compare_prefill(models, [inputs], config.build_tokenizer().eos_id, REPEATS)
    for one in contenders:
        one.prefill = found[one.label]


# --- results -----------------------------------------------------------------------------------

COLUMNS = ("setting", "accuracy %", "95% interval", "events kept %", "visual tokens", "prefill ms")


def table(contenders: list[Contender]) -> list[list[object]]:
    """Rows under ``COLUMNS``."""
    rows: list[list[object]] = []
    for one in contenders:
        found = one.figures()
        low, high = found["interval"]
        rows.append(
            [
                *(one.label, f"{100 * found['accuracy']:.1f}"),
                *(f"{100 * low:.1f} to {100 * high:.1f}", f"{100 * found['recall']:.1f}"),
                f"{found['visual_tokens_per_video']:.0f}",
                f"{1000 * found['prefill_seconds_per_video']:.1f}",
            ]
        )
    return rows


def gaps(contenders: list[Contender]) -> dict[str, Difference]:
    """Paired differences: STTS to dense and to random, at every share."""
    from olmo.eval.clips import paired

    dense, *pruned = contenders
    found = {}
    for stts, random in zip(pruned[::2], pruned[1::2], strict=True):
        for other in (dense, random):
            found[f"{stts.label} - {other.label}"] = paired(stts.results, other.results)
    return found


def notes(options: Options, device: torch.device, n: int) -> str:
    """What the figures mean."""
    import torch

    place = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return f"""\
- Dense: `{options.checkpoint}` as it is. STTS: the same after {options.steps} more steps \
at {options.topk[0]:.0%} (`configs/{SETTINGS.name}`). Random: the STTS checkpoint, with cells \
drawn by chance.
- {n} questions about clips that are in no training split. A right answer is right to its end.
- Events kept: share of the cells with an event, which the generator knows, that pruning kept.
- Prefill: video and question up to the first token, per video; median of {REPEATS} passes over \
the same {TIMED_CLIPS} videos, the models taking turns; {place}, threads: {torch.get_num_threads()}.
"""


def save_results(contenders: list[Contender], options: Options, device: torch.device) -> None:
    """Print the table; write it to ``results.md`` and all figures to ``results.json``."""
    import torch

    rows, differences = table(contenders), gaps(contenders)
    lines = [f"{name}: {gap}" for name, gap in differences.items()]
    print("\n".join([format_table(COLUMNS, rows), "", *lines]))
    command = training_command(options)
    figures = {one.label: one.figures() | {"topk": one.topk} for one in contenders}
    text = ["# Demo results", "", markdown_table(COLUMNS, rows), "", "  \n".join(lines), ""]
    text.append(notes(options, device, figures["dense"]["n"]))
    text.append(f"The fine-tuning:\n\n    {shlex.join(command)}\n")
    (options.out / "results.md").write_text("\n".join(text))
    data = {
        "settings": figures,
        "differences_in_points": {name: asdict(gap) for name, gap in differences.items()},
        **{"steps": options.steps, "command": command},
        **{"device": device.type, "threads": torch.get_num_threads()},
    }
    (options.out / "results.json").write_text(json.dumps(data, indent=2) + "\n")


def draw_pruning(stts: Contender, test: SyntheticVideoQA, path: Path) -> None:
    """Picture of the clip with the most kinds of events of which all were told right."""
    from olmo.data.frame_sampling import FrameSampling
    from olmo.data.video_loading import load_video
    from olmo.viewer.cells import CellEdges
    from olmo.viewer.kept import KeptVideo
    from olmo.viewer.picture import pruning_picture

    def rank(one: ClipResult) -> tuple[float, int]:
        return sum(right for _, right in one.correct) / len(one.correct), len(one.correct)

    best = max(stts.results, key=rank)
    sampling = FrameSampling.from_config(stts.config.mm_preprocessor.video)
    video = load_video(test.whole(best.clip)["video"], sampling)
    removed = f"{1 - best.keep.mean():.0%} of the visual tokens are dropped"
    kept = KeptVideo(video, CellEdges.of_video(stts.config), best.keep)
    asked = zip(test.questions(best.clip), best.correct, strict=True)
    caption = [
        (question.text, question.answer if right else f"wrong (it is {question.answer})")
        for question, (_, right) in asked
    ]
    pruning_picture(kept, f"STTS on a test video: {removed}", caption, columns=8).save(path)


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
    stage(3, f"fine-tuning with STTS: {options.steps} steps, topk {options.topk[0]:g}")
    tuned = fine_tune(options, start)
    contenders = load_contenders(start, tuned, options, device)
    compare(contenders, test, options)
    stage(6, "results")
    save_results(contenders, options, device)
    pruned = [one for one in contenders[1::2] if one.topk <= PICTURED]
    shown = max(pruned, key=lambda one: one.topk, default=contenders[1])
    draw_pruning(shown, test, options.out / "pruning.png")
    names = ("results.md", "results.json", "pruning.png", "stts")
    print("", *(options.out / name for name in names), sep="\n")
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
