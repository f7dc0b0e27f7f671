"""Ranges of the numbers of a config, which may come from a file of somebody else."""

from __future__ import annotations

from operator import attrgetter

MOST_ROWS = 1 << 24
LAYERS, HEADS, WIDTH, ROWS = (f"[1, {n}]" for n in (1 << 10, 1 << 12, 1 << 20, MOST_ROWS))
PIXELS, POOL, POSITIONS = (f"[1, {n}]" for n in (1 << 14, 1 << 7, 1 << 31))
"""Bounds far above any model, so that a wrong number does not first fill the memory."""
POSITIVE, PROBABILITY = "(0, inf)", "[0, 1)"


def check_range(config: object, interval: str, *names: str) -> None:
    """``ValueError`` unless each field, or each item of one, lies in ``interval``, such as
    ``[0, 1)``. A name may be dotted. None is a field that is left out."""
    low, high = map(float, interval[1:-1].split(","))
    for name in names:
        value = attrgetter(name)(config)
        for item in value if isinstance(value, tuple) else (value,):
            if item is None or low < item < high:
                continue
            if not ((item == low and interval[0] == "[") or (item == high and interval[-1] == "]")):
                raise ValueError(f"{name} must be in {interval}, got {value}")
