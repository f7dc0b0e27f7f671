"""Evaluate a checkpoint on groups of tasks.

    torchrun --nproc-per-node 8 launch_scripts/eval_molmo2.py CHECKPOINT --mode=synthetic
    python launch_scripts/eval_molmo2.py CHECKPOINT --tasks=synthetic_video_qa --max_examples=50

Writes SAVE_FOLDER/TASK/metrics.json and predictions.json and prints a table. Results that are
there for the same checkpoint, settings and model config are shown again instead of recomputed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

from olmo.config import ConfigError, merge, parse_overrides
from olmo.distributed import close_distributed, init_distributed, is_main, setup_logging
from olmo.eval.evaluator import EvalConfig, plan_evaluation, run_evaluation
from olmo.eval.report import format_summary
from olmo.eval.tasks import TASKS, groups

log = logging.getLogger(__name__)

TIMEOUT_MINUTES = 24 * 60
"""Ranks wait for the slowest one at the end of a task, which may take long."""


def build_parser() -> argparse.ArgumentParser:
    """Flags of the script; what is not given keeps the default of ``EvalConfig``."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        epilog="Any further --model.KEY=VALUE overrides the model config of the checkpoint, for "
        "example\n--model.vision_backbone.vit.topk=0.3. Values are read as YAML.",
    )
    default = EvalConfig(checkpoint="")
    modes, tasks = ", ".join(groups()), ", ".join(task.name for task in TASKS)
    add = parser.add_argument
    add("checkpoint", help="checkpoint folder, or run folder (its newest checkpoint is taken)")
    add("--mode", help=f"task groups, separated by commas: {modes}")
    add("--tasks", help=f"tasks, separated by commas: {tasks}")
    batch = f"examples per rank that are generated at once (default {default.device_batch_size})"
    add("--device_batch_size", type=int, metavar="N", help=batch)
    add("--max_examples", type=int, metavar="N", help="only N examples of each task (default all)")
    tokens = "limit of each answer (default: the task's own)"
    add("--max_new_tokens", type=int, metavar="N", help=tokens)
    seed = f"picks the examples of --max_examples and seeds the data (default {default.seed})"
    add("--seed", type=int, metavar="N", help=seed)
    workers = "processes per rank that load videos (default 0: none beside the rank itself)"
    add("--num_workers", type=int, metavar="N", help=workers)
    folder = "where results are written (default: folder 'eval' beside the checkpoint)"
    add("--save_folder", metavar="DIR", help=folder)
    add("--eval_name", metavar="NAME", help="subfolder of the save folder for this set-up")
    add("--overwrite", action="store_true", help="recompute finished results")
    add("--debug", action="store_true", help="also show the traceback of an error")
    return parser


def build_config(argv: list[str]) -> EvalConfig:
    """Config of a command line; ``--debug`` takes effect at once. Raises ``ConfigError`` for an
    unknown or ill-typed key."""
    args, overrides = build_parser().parse_known_args(argv)
    given: dict[str, Any] = vars(args)
    if given.pop("debug", False):
        log.setLevel(logging.DEBUG)
    return EvalConfig.from_dict(merge(given, parse_overrides(overrides)))


def main(argv: list[str] | None = None) -> int:
    """Exit code 2, and one message, for what can be put right on the command line."""
    setup_logging()
    speaks = os.environ.get("RANK", "0") == "0"
    try:
        plan = plan_evaluation(build_config(sys.argv[1:] if argv is None else argv))
        device = init_distributed(TIMEOUT_MINUTES)
        speaks = True  # from here on, ranks may fail for reasons of their own
        results = run_evaluation(plan, device)
        if is_main():
            print(format_summary(results))
            print(f"results in {plan.folder}")
    except (ConfigError, ValueError, FileNotFoundError, PermissionError) as e:
        log.debug("traceback of the error below", exc_info=True)
        if speaks:
            print(f"{os.path.basename(sys.argv[0])}: error: {e}", file=sys.stderr)
        return 2
    finally:
        close_distributed()
    return 0


if __name__ == "__main__":
    sys.exit(main())
