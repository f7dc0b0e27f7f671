"""An HTML page of preprocessed examples: what the model sees, and what it is trained to say."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from einops import rearrange

from olmo.tokenizer import MolmoTokenizer
from olmo.types import MultimodalType
from olmo.viewer.draw import data_uri, resized

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; color: #222;
  padding: 0 1rem; background: #fafafa }
article { background: #fff; border: 1px solid #ddd; border-radius: 8px; padding: 1rem 1.25rem;
  margin: 1.25rem 0 }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin: 0 0 .5rem }
.frames { display: flex; flex-wrap: wrap; gap: 4px; margin: .5rem 0; max-height: 420px;
  overflow: auto } .frames figure { margin: 0 } figcaption { font-size: 11px; color: #666 }
.row { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; border-radius: 6px;
  padding: .6rem; font: 13px/1.7 ui-monospace, monospace; max-height: 420px; overflow: auto }
.special { color: #777 } .patches { background: #dde7f5; border-radius: 4px; padding: 0 4px }
.loss { border-radius: 3px } .error { color: #a40000 } dl { display: grid; margin: .3rem 0;
  grid-template-columns: max-content 1fr; gap: .1rem 1rem } dt { color: #666 } dd { margin: 0 }
"""


def page(title: str, cards: Sequence[str]) -> str:
    """The whole page; everything it needs is in it."""
    name = html.escape(title)
    legend = (
        f"<p>Text with a loss is {_weighted('coloured', 1.0)}, the darker the larger its weight "
        "(point at it to see the number). The prompt has none.</p>"
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{name}</title>"
        f"<style>{STYLE}</style></head><body><h1>{name}</h1>{legend}{''.join(cards)}</body></html>\n"
    )


def error_card(name: str, reason: str) -> str:
    """An example that cannot be used."""
    return (
        f"<article><h2>{html.escape(name)}</h2>"
        f"<p class='error'>left out: {html.escape(reason)}</p></article>"
    )


def example_card(
    name: str,
    arrays: dict[str, Any],
    tokenizer: MolmoTokenizer,
    grid: tuple[int, int],
    patch: int,
    width: int = 120,
) -> str:
    """One example of ``ExamplePreprocessor``. ``grid``: rows and columns of patches of ``patch``
    pixels; pictures are ``width`` pixels wide."""
    about = arrays["metadata"]
    kinds = [MultimodalType(k).name.lower() for k in arrays["multimodal_type"]] or ["text"]
    facts = {
        "kind": ", ".join(kinds),
        "frames or crops": int(arrays["num_images"].sum()),
        "tokens before pruning": about["n_tokens_before"],
        "tokens after pruning": about["n_tokens_after"],
        "tokens with a loss": int((arrays["loss_masks"] > 0).sum()),
        "sum of loss weights": f"{float(arrays['loss_masks'].sum()):.3f}",
    }
    facts |= {k: v for k, v in about.items() if not k.startswith("n_tokens_")}
    listed = "".join(
        f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v)[:300])}</dd>" for k, v in facts.items()
    )
    return (
        f"<article><h2>{html.escape(name)}</h2>{_pictures(arrays, grid, patch, width)}"
        f"<dl>{listed}</dl><p>The row:</p><div class='row'>{_row(arrays, tokenizer)}</div>"
        f"<p>What is trained:</p><div class='row'>{_targets(arrays, tokenizer)}</div></article>"
    )


def _pictures(arrays: dict[str, Any], grid: tuple[int, int], patch: int, width: int) -> str:
    if "images" not in arrays:
        return ""
    pixels = rearrange(
        arrays["images"], "n (h w) (p q c) -> n (h p) (w q) c", h=grid[0], p=patch, q=patch
    )
    figures = [
        f"<figure><img width='{width}' src='{_jpeg(frame, width)}' alt=''>"
        f"<figcaption>{i + 1}</figcaption></figure>"
        for i, frame in enumerate(pixels)
    ]
    return f"<div class='frames'>{''.join(figures)}</div>"


def _jpeg(pixels: np.ndarray, width: int) -> str:
    return data_uri(resized(pixels, min(width, pixels.shape[1])), quality=80)


def _row(arrays: dict[str, Any], tokenizer: MolmoTokenizer) -> str:
    """The input tokens; those that an earlier position is trained to say have its weight."""
    ids, targets = arrays["input_tokens"], arrays["target_tokens"]
    weights = np.zeros(len(ids), np.float32)
    said = targets[:-1] == ids[1:]
    weights[1:] = np.where(said, arrays["loss_masks"][:-1], 0)
    groups = arrays.get("subsegment_ids", np.zeros(len(ids), np.int64))
    out, before = [], None
    kinds = [_kind(token, tokenizer) for token in ids]
    runs = groupby(range(len(ids)), lambda i: (int(groups[i]), float(weights[i]), kinds[i]))
    for (group, weight, kind), places in runs:
        part = [int(ids[i]) for i in places]
        if before is not None and group != before:
            out.append("\n<span class='special'>──────── another conversation</span>\n")
        before = group
        if kind == "<im_patch>":
            out.append(f"<span class='patches'>{len(part)} × {html.escape(kind)}</span>")
        elif kind:
            out.append(f"<span class='special'>{html.escape(kind) * len(part)}</span>")
        else:
            out.append(_weighted(tokenizer.decode(part, truncate_at_eos=False), weight))
    return "".join(out)


def _targets(arrays: dict[str, Any], tokenizer: MolmoTokenizer) -> str:
    """Runs of target tokens of one weight, a line each."""
    weights, lines = arrays["loss_masks"], []
    for weight, places in groupby(range(len(weights)), lambda i: float(weights[i])):
        part = [int(arrays["target_tokens"][i]) for i in places]
        if weight > 0:
            text = tokenizer.decode(part, truncate_at_eos=False)
            lines.append(f"{_weighted(text, weight)}  × {weight:.4g} ({len(part)} tokens)")
    return "\n".join(lines) or "nothing"


def _kind(token: int, tokenizer: MolmoTokenizer) -> str:
    """Name of a visual special token, empty for text."""
    return next((name for name, i in tokenizer.ids.items() if i == int(token)), "")


def _weighted(text: str, weight: float) -> str:
    if weight <= 0:
        return html.escape(text)
    strength = 0.15 + 0.55 * min(weight, 1.0)
    return (
        f"<span class='loss' style='background:rgba(40,160,80,{strength:.2f})' "
        f"title='loss weight {weight:.4g}'>{html.escape(text)}</span>"
    )
