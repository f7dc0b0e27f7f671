"""An HTML page of preprocessed examples: what the model sees, and what it is trained to say.

``olmo/assets/examples.html.j2`` has the form, here is what it shows.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from olmo.tokenizer import MolmoTokenizer
from olmo.types import MultimodalType
from olmo.viewer.draw import data_uri


class Run(NamedTuple):
    """Tokens behind each other that are alike.

    Attributes:
        kind: the name of their visual special token; empty for text.
        weight: of the loss.
        group: the conversation of the row.
        n: how many they are.
        text: what they say.
    """

    kind: str
    weight: float
    group: int
    n: int
    text: str


def example_card(
    name: str,
    arrays: dict[str, Any],
    tokenizer: MolmoTokenizer,
    grid: tuple[int, int],
    patch: int,
    width: int = 120,
) -> dict[str, object]:
    """One example of ``ExamplePreprocessor``. ``grid``: rows and columns of patches of ``patch``
    pixels; pictures are ``width`` pixels wide."""
    about, losses = arrays["metadata"], arrays["loss_masks"]
    kinds = [MultimodalType(k).name.lower() for k in arrays["multimodal_type"]] or ["text"]
    facts = {
        "kind": ", ".join(kinds),
        "frames or crops": int(arrays["num_images"].sum()),
        "tokens before pruning": about["n_tokens_before"],
        "tokens after pruning": about["n_tokens_after"],
        "tokens with a loss": int((losses > 0).sum()),
        "sum of loss weights": f"{float(losses.sum()):.3f}",
    }
    facts |= {k: v for k, v in about.items() if not k.startswith("n_tokens_")}
    frames = []
    if "images" in arrays:
        frames = rearrange(
            arrays["images"], "n (h w) (p q c) -> n (h p) (w q) c", h=grid[0], p=patch, q=patch
        )
    return {
        "name": name,
        "pictures": [data_uri(frame, width, quality=80) for frame in frames],
        "width": width,
        "facts": {k: str(v)[:300] for k, v in facts.items()},
        "row": _row(arrays, tokenizer),
        "targets": _targets(arrays, tokenizer),
    }


def _row(arrays: dict[str, Any], tokenizer: MolmoTokenizer) -> list[Run]:
    """The input tokens; those that an earlier position is trained to say have its weight."""
    ids, targets = arrays["input_tokens"], arrays["target_tokens"]
    weights = np.zeros(len(ids), np.float32)
    weights[1:] = np.where(targets[:-1] == ids[1:], arrays["loss_masks"][:-1], 0)
    names = {i: name for name, i in tokenizer.ids.items()}
    kinds = [names.get(i, "") for i in ids.tolist()]
    groups = arrays.get("subsegment_ids", np.zeros_like(ids)).tolist()
    return _runs(ids, list(zip(kinds, weights.tolist(), groups, strict=True)), tokenizer)


def _targets(arrays: dict[str, Any], tokenizer: MolmoTokenizer) -> list[Run]:
    """The target tokens with a loss."""
    keys = [("", weight, 0) for weight in arrays["loss_masks"].tolist()]
    return [run for run in _runs(arrays["target_tokens"], keys, tokenizer) if run.weight > 0]


def _runs(
    ids: np.ndarray, keys: list[tuple[str, float, int]], tokenizer: MolmoTokenizer
) -> list[Run]:
    """``keys``: kind, weight and group of each token."""
    runs = []
    for key, places in groupby(range(len(ids)), keys.__getitem__):
        part = ids[list(places)].tolist()
        runs.append(Run(*key, len(part), tokenizer.decode(part, truncate_at_eos=False)))
    return runs
