"""Evaluate a checkpoint on groups of tasks.

    torchrun --nproc-per-node 8 launch_scripts/eval_molmo2.py CHECKPOINT --mode=video
    python launch_scripts/eval_molmo2.py CHECKPOINT --tasks=mvbench,mlvu_mc --max_examples=50
    python launch_scripts/eval_molmo2.py CHECKPOINT --tasks=my.jsonl --dry_run

Writes SAVE_FOLDER/SET_UP/TASK/metrics.json and predictions.json, a report.html, and prints a table.
Started again after a stop, it goes on where it was; finished results for the same checkpoint,
settings and data are shown again instead of recomputed.

Exit code 0: every example of every task was scored. 1: the run ended, but a task failed, examples
were left out or a model generated nothing; the list is printed and in problems.json. 2: the
command line, the checkpoint or the config cannot be used.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from olmo.command_line import Parser, exit_code
from olmo.config import merge
from olmo.eval.tasks import TASKS, groups

if TYPE_CHECKING:
    from olmo.eval.settings import EvalConfig, EvalPlan

log = logging.getLogger(__name__)

GPU_WORKERS = 4
"""Videos are decoded while the GPU answers."""
TIMEOUT_MINUTES = 24 * 60
"""Ranks wait for the slowest one at the end of a task, which may take long."""


def build_parser() -> Parser:
    """Flags of the script; what is not given keeps the default of ``EvalConfig``."""
    parser = Parser(
        __doc__,
        plugins=True,
        argument_default=argparse.SUPPRESS,
        epilog="Any further --model.KEY=VALUE overrides the model config of the checkpoint, for "
        "example\n--model.vision_backbone.vit.topk=0.3.",
    )
    modes, tasks = ", ".join(groups()), ", ".join(task.name for task in TASKS)
    add = parser.add_argument
    add("checkpoint", help="checkpoint folder, or run folder (its newest checkpoint is taken)")
    add("--mode", help=f"task groups, separated by commas: {modes}")
    add("--tasks", help=f"tasks, or files of own data, separated by commas: {tasks}")
    metric = "scorer of own data, such as anls (default: by what each example's reference is)"
    add("--metric", metavar="NAME", help=metric)
    own = "score own data by a function (prediction, metadata) -> number of your own"
    add("--scorer", metavar="FILE.py:FUNCTION", help=own)
    batch = "examples that a rank loads at once (default: the task's own); no answer depends on it"
    add("--device_batch_size", type=int, metavar="N", help=batch)
    generation = "one example per forward pass (default), or batches, where a near-tie may flip"
    add("--generation", choices=("exact", "batched"), help=generation)
    add("--max_examples", type=int, metavar="N", help="only N examples of each task (default all)")
    tokens = "limit of each answer (default: the task's own)"
    add("--max_new_tokens", type=int, metavar="N", help=tokens)
    seed = "picks the examples of --max_examples and seeds the data (default 691203)"
    add("--seed", type=int, metavar="N", help=seed)
    workers = f"processes per rank that load videos (default {GPU_WORKERS} with a GPU, else 0)"
    add("--num_workers", type=int, metavar="N", help=workers)
    folder = (
        "where results are written (default: RUN/eval of a training run that can be written to, "
    )
    folder += "else runs/eval/NAME)"
    add("--save_folder", "--out", metavar="DIR", help=folder)
    name = "subfolder for this set-up (default: the checkpoint's name and the overrides)"
    add("--eval_name", metavar="NAME", help=name)
    add("--overwrite", action="store_true", help="recompute finished results")
    add("--dry_run", action="store_true", help="show the tasks, their data and limits, then end")
    add("--fsdp", action="store_true", help="shard the model over the ranks: for large models")
    weights = "type of the weights (default: bf16 on a GPU, fp32 on the CPU)"
    add("--weights", choices=("bf16", "fp32"), help=weights)
    pictures = "failures per task whose kept tokens the report shows (default 4)"
    add("--pictures", type=int, metavar="N", help=pictures)
    add("--debug", action="store_true", help="also show the traceback of an error")
    return parser


def build_config(argv: list[str]) -> EvalConfig:
    """Config of a command line; ``--debug`` takes effect at once. Raises ``ConfigError`` for an
    unknown or ill-typed key."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    import torch

    from olmo.eval.settings import EvalConfig
    from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig

    given: dict[str, Any] = vars(args)
    if given.pop("debug", False):
        log.setLevel(logging.DEBUG)
        logging.getLogger("olmo.eval").setLevel(logging.DEBUG)
    if torch.cuda.is_available():
        given.setdefault("num_workers", GPU_WORKERS)
    return EvalConfig.from_dict(
        merge(given, parser.overrides(rest, EvalConfig, TemporalVideoOlmoConfig))
    )


def show(plan: EvalPlan) -> int:
    """Print what would run; the exit code that a run would have, as far as the data tell."""
    from olmo.eval.dry_run import describe_evaluation
    from olmo.eval.report import format_problems

    found = describe_evaluation(plan)
    if os.environ.get("RANK", "0") == "0":
        print(found.text)
        if found.problems:
            print(f"problems:\n{format_problems(found.problems)}", file=sys.stderr)
    return 1 if found.problems else 0


@exit_code()
def main(argv: list[str] | None = None) -> int:
    """Exit code 1 if something was left out."""
    config = build_config(sys.argv[1:] if argv is None else argv)
    from olmo.distributed import init_distributed, is_main, setup_logging
    from olmo.eval.report import format_problems, format_summary
    from olmo.eval.report_html import REPORT_FILE
    from olmo.eval.run import run_evaluation
    from olmo.eval.settings import plan_evaluation

    setup_logging()
    plan = plan_evaluation(config)
    if config.dry_run:
        return show(plan)
    outcome = run_evaluation(plan, init_distributed(TIMEOUT_MINUTES))
    if is_main():
        print(format_summary(outcome.metrics))
        print(f"results in {plan.folder}, with {REPORT_FILE}")
        if outcome.problems:
            print(f"problems:\n{format_problems(outcome.problems)}", file=sys.stderr)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
