"""Read JSON files of a checkpoint, which are not trusted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from olmo.config import ConfigError
from olmo.outside import OutsideError, foreign

MAX_BYTES = 64 << 20
"""Far above any index or config; a tokenizer is not read here."""


def read_json(path: Path, error: type[OutsideError] = ConfigError) -> dict[str, Any]:
    """A JSON object. ``error`` names the file: for one that is no JSON, is not UTF-8, has a key
    twice or a number that is not finite, is nested too deep or too large."""
    with foreign(lambda reason: error(f"{path}: not a readable JSON file: {reason}")):
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{size} bytes are more than {MAX_BYTES}")
        text = path.read_bytes().decode("utf-8-sig")
        data = json.loads(
            text, object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite
        )
        if not isinstance(data, dict):
            raise ValueError("expected a JSON object")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} is there twice")
    return data


def _finite(text: str) -> float:
    """Of a number that JSON has, or of the ``NaN`` and ``Infinity`` that Python reads as well."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value
