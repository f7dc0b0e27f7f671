"""Results of many small fine-tunings, a line each: settings over their seeds, and tables."""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from olmo.eval.metrics import bootstrap_interval


def columns(rival: str) -> tuple[str, ...]:
    """Head of ``table``."""
    first = ("setting", "seeds", "accuracy %", "against dense", f"against {rival}")
    return (*first, "events kept %", "tokens kept %", "FLOPs %")


ORDER = ("dense", "scorer", "easy", "heuristic", "evs", "random")


PLACES = ("--save_folder=", "--run_name=", "--seed=", "--data.seed=")
"""Words of a command that say where and which, not how."""


def how(command: list[str]) -> list[str]:
    """The settings in a training command, in any order."""
    return sorted(word for word in command if not word.startswith(PLACES))


def common(line: dict[str, Any]) -> tuple[object, ...]:
    """What lines have to share to be compared; the oldest do not say what their config held."""
    return line.get("config_digest"), line["test"], line["clips"]


@dataclass(frozen=True)
class Setting:
    """One method at one share, in all its seeds."""

    name: str
    topk: float
    lines: tuple[dict[str, Any], ...]

    @property
    def label(self) -> str:
        share = f" {self.topk:.0%}" if self.topk else ""
        return self.name.removesuffix(self.how_asked) + share + self.how_asked

    @property
    def how_asked(self) -> str:
        """The words of the name that say so, where it is not as in training."""
        return "".join(re.findall(r", trained at \d+%|, \d+ fps", self.name))

    @cached_property
    def answers(self) -> dict[int, np.ndarray]:
        """1 or 0 for every question, by seed."""
        each = {line["seed"]: "".join(line["correct"].values()) for line in self.lines}
        return {seed: np.array([float(c) for c in one]) for seed, one in each.items()}

    def family(self, name: str) -> float:
        rows = [[int(c) for c in line["correct"][name]] for line in self.lines]
        return float(np.mean(rows))

    def mean(self, key: str) -> float:
        return float(np.mean([line[key] for line in self.lines]))

    @property
    def spread(self) -> str:
        """Accuracy: mean over the seeds, and its range."""
        shares = sorted(100 * one.mean() for one in self.answers.values())
        return f"{np.mean(shares):.1f} ({shares[0]:.1f} to {shares[-1]:.1f})"

    def against(self, other: Setting) -> str:
        """Points above ``other`` in the seeds of both, with the interval over the questions."""
        if common(self.lines[0]) != common(other.lines[0]):
            return "other clips or config"
        both = self.answers.keys() & other.answers.keys()
        if not both:
            return "no seed in common"
        gaps = 100 * np.mean([self.answers[seed] - other.answers[seed] for seed in both], axis=0)
        low, high = bootstrap_interval(gaps.tolist())
        return f"{gaps.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a file of results; none if there is no file. ``ValueError`` names a torn one."""
    lines = []
    for n, text in enumerate(file.read_text().splitlines() if file.exists() else (), 1):
        try:
            line = json.loads(text)
            lines.append({**line, "how": how(shlex.split(line["command"]))})
        except (ValueError, TypeError, KeyError) as e:
            raise ValueError(f"{file}, line {n}: not a line of results, remove it: {e}") from e
    return lines


def read_results(file: Path) -> list[Setting]:
    """Settings of a file of lines, in the order of ``ORDER`` and the share. The newest line of a
    run counts, and of other seeds only what was made and asked like the newest of all."""
    groups: dict[tuple[str, float], dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in read_lines(file):
        seeds = groups[line["run"], line["topk"]]
        seeds.pop(line["seed"], None)  # so that the newest line is the last one
        seeds[line["seed"]] = line
    found = []
    for (name, topk), lines in groups.items():
        newest = made_and_asked(list(lines.values())[-1])
        alike = [lines[s] for s in sorted(lines) if made_and_asked(lines[s]) == newest]
        found.append(Setting(name, topk, tuple(alike)))
    return in_order(found)


def in_order(settings: Iterable[Setting]) -> list[Setting]:
    """By method, as in ``ORDER``, and share."""
    place = {name: i for i, name in enumerate(ORDER)}
    return sorted(settings, key=lambda one: (place.get(one.name, len(ORDER)), one.name, one.topk))


def made_and_asked(line: dict[str, Any]) -> tuple[object, ...]:
    """What tells whether a line is still what a plan asks for."""
    return line["how"], *common(line)


def only(settings: Iterable[Setting], name: str, topk: float) -> Setting | None:
    return next((one for one in settings if (one.name, one.topk) == (name, topk)), None)


def table(
    settings: list[Setting], dense: Setting | None, others: list[Setting], rival: str
) -> list[list[object]]:
    """Rows under ``columns``; differences are to ``dense``, and to the setting of ``others`` that
    is called ``rival``, removes as much and was trained and asked alike."""
    rows: list[list[object]] = []
    for one in settings:
        other = only(others, rival + one.how_asked, one.topk)
        rows.append(
            [
                *(one.label, len(one.lines), one.spread),
                one.against(dense) if dense and one is not dense else None,
                one.against(other) if other and one is not other else None,
                f"{100 * one.mean('recall'):.1f}",
                f"{100 * one.mean('kept'):.1f}",
                f"{100 * one.mean('flops'):.1f}",
            ]
        )
    return rows


def family_table(settings: list[Setting]) -> tuple[list[str], list[list[object]]]:
    """Accuracy by kind of question: columns and rows."""
    families = list(settings[0].lines[0]["correct"])
    rows: list[list[object]] = [
        [one.label, *(f"{100 * one.family(f):.0f}" for f in families)] for one in settings
    ]
    return ["setting", *families], rows
