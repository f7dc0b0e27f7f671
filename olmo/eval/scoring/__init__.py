"""From a prediction and an example's metadata to a score, by the name of the metric."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from pathlib import Path

from olmo.eval.scoring import letters, open, own, points, tracking  # noqa: F401 (fill the table)
from olmo.eval.scoring.score import SCORERS, Metadata, Score, as_score
from olmo.outside import describe
from olmo.text import nearest

log = logging.getLogger(__name__)


def score_example(prediction: str, metadata: Metadata, metric: str) -> Score:
    """Score one answer. ``ValueError`` for an unknown metric, without a reference, and for whatever
    a scorer raises or gives that is no score."""
    if metric not in SCORERS:
        raise ValueError(f"unknown metric {metric!r}; {nearest(metric, SCORERS, listed=True)}")
    if not isinstance(prediction, str) or not isinstance(metadata, Mapping):
        given = f"{type(prediction).__name__} and {type(metadata).__name__}"
        raise ValueError(f"{metric}: expected an answer as text and metadata by name, got {given}")
    function = SCORERS[metric]
    ours = function.__module__.startswith("olmo.")
    try:
        found = function(prediction, dict(metadata))
    except Exception as e:  # whatever a user's function raises
        if ours and isinstance(e, ValueError):
            raise
        log.debug("traceback of the error below", exc_info=True)
        at = traceback.extract_tb(e.__traceback__)[-1]
        place = f"{Path(at.filename).name}, line {at.lineno}"
        raise ValueError(f"{metric}: {describe(e)} ({place})") from e
    return found if ours else as_score(found, prediction, metadata, metric)
