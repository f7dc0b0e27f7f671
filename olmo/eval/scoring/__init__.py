"""From a prediction and an example's metadata to a score, by the name of the metric."""

from __future__ import annotations

import copy
import logging
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from olmo.eval.scoring import letters, open, own, points, tracking  # noqa: F401 (fill the table)
from olmo.eval.scoring.score import SCORERS, BadScore, Metadata, Score, as_score
from olmo.outside import describe
from olmo.text import nearest

log = logging.getLogger(__name__)


def is_ours(metric: str) -> bool:
    """Whether a metric is one of this project: what it refuses does not depend on the answer."""
    return metric in SCORERS and SCORERS[metric].__module__.startswith("olmo.")


def score_example(prediction: str, metadata: Metadata, metric: str) -> Score:
    """Score one answer. ``ValueError`` for an unknown metric, without a reference, and for whatever
    a scorer raises or gives that is no score."""
    if metric not in SCORERS:
        raise ValueError(f"unknown metric {metric!r}; {nearest(metric, SCORERS, listed=True)}")
    if not isinstance(prediction, str) or not isinstance(metadata, Mapping):
        given = f"{type(prediction).__name__} and {type(metadata).__name__}"
        raise ValueError(f"{metric}: expected an answer as text and metadata by name, got {given}")
    function = SCORERS[metric]
    ours = is_ours(metric)
    try:
        if ours:
            return function(prediction, metadata)
        found = function(prediction, copy.deepcopy(dict(metadata)))  # it may change its own
        return as_score(found, prediction, metadata)
    except (Exception, SystemExit, GeneratorExit) as e:  # whatever a user's function raises
        if ours and isinstance(e, ValueError):
            raise
        if isinstance(e, BadScore):
            raise ValueError(f"{metric}: {e}") from e
        log.debug("traceback of the error below", exc_info=True)
        code = getattr(function, "__code__", None)  # an object that can be called has none
        module = sys.modules.get(function.__module__)
        file = code.co_filename if code else getattr(module, "__file__", None)
        lines = [at.lineno for at in traceback.extract_tb(e.__traceback__) if at.filename == file]
        place = f" ({Path(str(file)).name}, line {lines[-1]})" if lines else ""
        raise ValueError(f"{metric}: {describe(e)}{place}") from e
