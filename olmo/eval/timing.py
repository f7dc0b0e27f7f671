"""Fair comparison of times: the contenders take turns on the same inputs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2

Name = TypeVar("Name")


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def take_turns(names: Sequence[Name], repeats: int) -> Iterator[tuple[bool, list[Name]]]:
    """(whether the round counts, order of the names in it) of ``repeats`` rounds that count,
    after one that does not, to warm up.

    The order rotates, so that a slow spell of the machine, or what a contender leaves behind,
    hits all of them.
    """
    for turn in range(repeats + 1):
        first = turn % len(names)
        yield turn > 0, [*names[first:], *names[:first]]


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

    The models alternate batch by batch, as ``take_turns`` says. ``batches`` are collated prompts
    on the models' device.
    """
    names = list(models)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    tokens: dict[str, list[float]] = {name: [] for name in names}
    total = (repeats + 1) * len(batches) * len(names)
    with tqdm(total=total, desc="prefill", unit="pass") as bar:
        for counts, order in take_turns(names, repeats):
            for batch in batches:
                for name in order:
                    time, n_tokens = _prefill(models[name], batch, stop_id)
                    bar.update()
                    if counts:
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
