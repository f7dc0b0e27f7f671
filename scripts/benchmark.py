"""Speed and peak memory of dense and pruned models with random weights, side by side.

    python scripts/benchmark.py --suite cpu --out DIR     # the CPU table of docs/performance.md
    python scripts/benchmark.py --suite gpu-train --baseline transformers --out DIR
                                                          # of gpu-vit, -prefill, -train, -decode
    python scripts/benchmark.py --suite methods           # every method and layout, small preset
    python scripts/benchmark.py --preset tiny --stages vit,prefill --frames 4,8 --topk 0.3,0.5

Prints a table and writes DIR/benchmark.{md,json,png}, anew after every group. The settings of a
group, dense first among them, take turns in one process. A speed-up is given only when both sides
did the same work: counts of cells, features and tokens as planned, finite results, the dense
features bit for bit at topk 0, and transformers' results equal ours; otherwise the reason is
printed and the exit code is 1. The tests compare every setting with slow, obvious forms. Any key of
the model can be set as --model.a.b=value.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from olmo.benchmark.plan import (
    DTYPES,
    LAYOUTS,
    METHODS,
    NEW_TOKENS,
    PRESETS,
    STAGES,
    SUITES,
    ModelSpec,
    Plan,
    Suite,
)
from olmo.command_line import Parser, exit_code, path, positive, seed
from olmo.config import parse_overrides, section


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def threads(text: str) -> int:
    """As many as torch can start."""
    n, most = positive(text), 8 * (os.cpu_count() or 1)
    if n > most:
        raise argparse.ArgumentTypeError(f"expected at most {most}, eight per core, got {n}")
    return n


GRID: dict[str, tuple[Callable[[str], object], Any, str]] = {
    "preset": (str, "small", f"size of the model: {', '.join(PRESETS)}"),
    "stages": (names, ("vit",), f"any of {','.join(STAGES)}"),
    "frames": (integers, (16,), "frames per video"),
    "topk": (numbers, (0.5,), "shares of cells to remove"),
    "methods": (names, ("scorer",), f"any of {','.join(METHODS)}"),
    "layouts": (names, ("ragged",), f"any of {','.join(LAYOUTS)}"),
    "batch_sizes": (integers, (1,), "rows of one video each"),
    "new_tokens": (int, NEW_TOKENS, "tokens of an answer, stage decode"),
}
"""Flags of the preset and of the fields of ``Plan``: type, default, help."""


def parser() -> Parser:
    out = Parser(__doc__)
    add, cores = out.add_argument, os.cpu_count() or 1
    add("--suite", choices=SUITES, help="a named set of measurements, in place of the grid below")
    for name, (kind, default, text) in GRID.items():
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        add(f"--{name}", type=kind, help=f"{text} ({shown})")
    add("--vary", action="store_true", default=None, help="other frames and text every round")
    add("--baseline", choices=["transformers"], help="beside ours, for whole models")
    add("--device", help="cpu or cuda (cuda if there is one; the suite's)")
    add("--dtype", choices=DTYPES, help="bfloat16: with autocast (float32; the suite's)")
    add("--repeats", type=positive, default=5, help="rounds that count, after one to warm up (5)")
    add("--threads", type=threads, default=cores, help=f"of torch on the CPU ({cores})")
    add("--seed", type=seed, default=0, help="of weights and inputs (0)")
    add("--no_cpu_memory", action="store_true", help="skip the processes that measure memory")
    add("--out", type=path, default=Path("benchmark_output"), help="folder (benchmark_output)")
    return out


def chosen_suite(args: argparse.Namespace) -> Suite:
    """The suite by name, or one of the flags' grid."""
    import torch

    grid = (*GRID, "vary")
    given = {name: value for name in grid if (value := getattr(args, name)) is not None}
    if args.suite:
        if given:
            raise ValueError(f"--suite {args.suite} has its own --{', --'.join(given)}")
        return SUITES[args.suite]
    chosen = {name: default for name, (_, default, _) in GRID.items()} | given
    preset, device = chosen.pop("preset"), "cuda" if torch.cuda.is_available() else "cpu"
    return Suite((Plan(**chosen),), preset, device, "float32")


def read_plans(args: argparse.Namespace, rest: list[str]) -> tuple[tuple[Plan, ...], ModelSpec]:
    """``ValueError`` for what cannot be measured, before anything runs."""
    import torch

    from olmo.benchmark.stock import stock_classes

    overrides = parse_overrides(rest)
    if set(overrides) - {"model"}:
        raise ValueError(f"unknown flags {' '.join(rest)}: see --help")
    suite = chosen_suite(args)
    device, dtype = args.device or suite.device, args.dtype or suite.dtype
    if (kind := torch.device(device).type) not in ("cpu", "cuda"):
        raise ValueError(f"device {device} is not supported, only cpu and cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: torch sees no GPU")
    if args.baseline:
        stock_classes()
    spec = ModelSpec(suite.preset, device, dtype, args.seed, section(overrides, "model"))
    spec.config().build("meta")
    for plan in suite.plans:
        plan.groups()
    return suite.plans, spec


@exit_code()
def main(argv: list[str] | None = None) -> int:
    """Exit code 1 if a setting has no speed-up."""
    argv = sys.argv[1:] if argv is None else argv
    known = parser()
    args, rest = known.parse_known_args(argv)
    import torch

    from olmo.benchmark.measure import Options, run_plans
    from olmo.benchmark.report import Report

    try:
        plans, spec = read_plans(args, rest)
    except (RuntimeError, ValueError) as e:  # torch's own complaint of a device is the former
        known.error(str(e))
    options = Options(args.repeats, args.threads, not args.no_cpu_memory, args.baseline)
    torch.set_num_threads(options.threads)
    command = shlex.join(["python", "scripts/benchmark.py", *argv])
    report = Report(command, spec, options)
    for results in run_plans(plans, spec, options):
        report.results += results
        report.save(args.out)
    print(report.table())
    print(f"\n{report.setting_line()}\n{report.kernel_line()}")
    for suffix in ("md", "json", "png"):
        print(args.out / f"benchmark.{suffix}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
