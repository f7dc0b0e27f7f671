"""Ranges of the numbers of a config, which may come from a file of somebody else."""

from __future__ import annotations

MOST_ROWS = 1 << 24
LAYERS, HEADS, WIDTH, ROWS = (f"[1, {n}]" for n in (1 << 10, 1 << 12, 1 << 20, MOST_ROWS))
PIXELS, POSITIONS = (f"[1, {n}]" for n in (1 << 14, 1 << 31))
"""Bounds far above any model, so that a wrong number does not first fill the memory."""
POSITIVE, PROBABILITY = "(0, inf)", "[0, 1)"
