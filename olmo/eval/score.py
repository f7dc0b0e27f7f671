"""The table of scorers, and what a scorer returns.

A scorer returns at least ``correct`` (0 to 1, the headline score), ``unparsed`` (0 or 1),
``parsed`` (what was read) and ``reference``; also ``scores`` (further values, averaged) and
``labels`` (further categories) where the benchmark has them. A missing reference is a
``ValueError``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Metadata = Mapping[str, Any]
Score = dict[str, Any]
Scorer = Callable[[str, Metadata], Score]

SCORERS: dict[str, Scorer] = {}


def scorer(name: str) -> Callable[[Scorer], Scorer]:
    """Register a scorer under the ``metric`` name of a task. A module may define
    its scorer anew, but take no other's name."""

    def register(function: Scorer) -> Scorer:
        of = SCORERS.get(name, function).__module__
        if of != function.__module__:
            raise ValueError(f"scorer {name!r} is that of {of}: take another name")
        SCORERS[name] = function
        return function

    return register


def score_of(correct: float, parsed: Any, reference: Any, **more: Any) -> Score:
    """A score; what was ``parsed`` is None for an answer that cannot be read."""
    return {
        "correct": correct,
        "unparsed": int(parsed is None),
        "parsed": parsed,
        "reference": reference,
        **more,
    }
