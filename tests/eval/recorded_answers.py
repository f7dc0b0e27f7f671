"""Answers with the scores that they are due, recorded from the reference implementation."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from olmo.eval.scoring.score import SCORERS, Score

RECORDED = Path(__file__).parent / "recorded"


def recorded(file: str) -> Any:
    return json.loads((RECORDED / file).read_text())


def answers_to(*tasks: str) -> Iterator[tuple[str, Any, str, Any, Any]]:
    """Task, metadata, prediction, the reference implementation's score (None: it draws or asks a
    judge) and ours (None: free)."""
    for example in recorded("open_answers.json"):
        if example["task"] in tasks:
            for case in example["cases"]:
                yield example["task"], example["metadata"], *case


def score(prediction: str, metadata: Any, metric: str) -> Score:
    return SCORERS[metric](prediction, metadata)


def wrongly_scored(metric: str, *tasks: str, without_molmo2: bool = False) -> list[Any]:
    """The recorded answers to ``tasks`` that get another score, and how many there are in all."""
    wrong, n = [], 0
    for task, metadata, prediction, molmo2, ours in answers_to(*tasks):
        found, n = score(prediction, metadata, metric), n + 1
        expected = [(found.correct, ours)]
        if not without_molmo2:
            theirs = next((v for k, v in found.scores.items() if "molmo2" in k), found.correct)
            expected.append((theirs, molmo2))
        if any(due is not None and abs(got - due) > 1e-5 for got, due in expected):
            wrong.append((task, metadata, prediction, expected))
    return [*wrong, n]
