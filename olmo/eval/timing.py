"""Fair comparison of prefill times: several models take turns on the same batches."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2


@dataclass(frozen=True)
class Prefill:
    """Median ``seconds`` of prefill (vision included) per video, and the mean number of
    ``visual_tokens`` of a video that the language model saw."""

    seconds: float
    visual_tokens: float


def compare_prefill(
    models: Mapping[str, Molmo2],
    batches: Sequence[dict[str, Any]],
    stop_id: int,
    repeats: int = 7,
) -> dict[str, Prefill]:
    """Prefill every batch ``repeats`` times with every model, one row per video.

    The models alternate batch by batch, in an order that rotates, so that a slow spell of the
    machine hits all of them. A first round, to warm up, does not count. ``batches`` are collated
    prompts on the models' device.
    """
    names = list(models)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    tokens: dict[str, list[float]] = {name: [] for name in names}
    total = (repeats + 1) * len(batches) * len(names)
    with tqdm(total=total, desc="prefill", unit="pass") as bar:
        for turn in range(repeats + 1):
            first = turn % len(names)
            for batch in batches:
                for name in names[first:] + names[:first]:
                    time, n_tokens = _prefill(models[name], batch, stop_id)
                    bar.update()
                    if turn:
                        seconds[name].append(time)
                        tokens[name].append(n_tokens)
    return {
        name: Prefill(statistics.median(seconds[name]), statistics.fmean(tokens[name]))
        for name in names
    }


def _prefill(model: Molmo2, batch: dict[str, Any], stop_id: int) -> tuple[float, float]:
    """Seconds, and visual tokens after pruning, per row of ``batch``."""
    out = model.generate(batch, 1, [stop_id])
    ids = batch["input_ids"]
    text = ((ids >= 0) & (ids != model.special_ids["<im_patch>"])).sum(1)
    visual = out.n_prompt_tokens - text
    return out.timings["prefill"] / len(ids), float(visual.double().mean())
