"""Synthetic clips, each with all its questions in one pass: answers, and which cells were kept.

The questions of a clip are branches of one row that do not see each other, as in training. A
question counts as right when every token of its answer, the end included, is the most likely one:
greedy decoding would give just this answer, and exact match would accept it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from olmo.data.datasets.synthetic.draw import informative_cells
from olmo.data.datasets.synthetic.video import SyntheticVideoQA
from olmo.data.examples import decode_video
from olmo.eval.metrics import bootstrap_interval
from olmo.eval.pairs import Difference
from olmo.patch_grid import pooled_grid
from olmo.preprocessing.multimodal import ExamplePreprocessor
from olmo.types import MODEL_INPUTS, VideoFrames

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config

Change = Callable[[VideoFrames], VideoFrames]


@dataclass(frozen=True)
class ClipResult:
    """What a model made of a clip.

    Attributes:
        clip: its number in the data set.
        correct: category and whether the answer was right, for every question.
        keep: bool ``[frames, cells]``, cells in raster order.
        informative: which of these cells show an event.
    """

    clip: int
    correct: tuple[tuple[str, bool], ...]
    keep: np.ndarray
    informative: np.ndarray


@torch.no_grad()
def answer_clips(
    model: Molmo2,
    config: Molmo2Config,
    data: SyntheticVideoQA,
    clips: Sequence[int],
    change: Change | None = None,
    batch_size: int = 4,
) -> list[ClipResult]:
    """Ask ``model`` the evaluation questions about these clips of ``data``.

    Args:
        change: what is done to the sampled frames first.
        batch_size: clips of a pass.
    """
    preprocessor = config.build_preprocessor(config.build_tokenizer())
    collator = config.build_collator()
    was_training = model.training
    model.eval()
    found: list[ClipResult] = []
    try:
        for first in tqdm(range(0, len(clips), batch_size), "clips", unit="pass"):
            some = clips[first : first + batch_size]
            rows = [_load(data.whole(i), preprocessor, change) for i in some]
            found += _ask(
                model,
                config,
                data,
                list(some),
                collator([row for row, _ in rows]),
                [times for _, times in rows],
            )
    finally:
        model.train(was_training)
    return found


def _load(
    example: dict[str, Any], preprocessor: ExamplePreprocessor, change: Change | None
) -> tuple[dict[str, Any], np.ndarray]:
    """Arrays of a clip with its questions and answers, and the moments of its frames."""
    video = decode_video(example, preprocessor)
    video = video if change is None else change(video)
    return preprocessor(example, video), video.timestamps


def _ask(
    model: Molmo2,
    config: Molmo2Config,
    data: SyntheticVideoQA,
    clips: list[int],
    batch: dict[str, Any],
    times: list[np.ndarray],
) -> Iterator[ClipResult]:
    mask = batch["loss_masks"] > 0
    inputs = {k: batch[k].to(model.device) for k in MODEL_INPUTS if k in batch}
    out = model(**inputs, response_mask=mask.to(model.device))
    hits = (out.logits.argmax(-1).cpu() == batch["labels"][mask]).split(mask.sum(1).tolist())
    branches = batch.get("subsegment_ids", torch.zeros_like(mask))  # none: one question each
    vit, video = config.vision_backbone.vit, config.mm_preprocessor.video
    grid = pooled_grid(*vit.image_num_patch, video.pooling_h, video.pooling_w)
    for row, clip in enumerate(clips):
        branch = branches[row][mask[row]]
        _, sizes = torch.unique_consecutive(branch, return_counts=True)
        right = [bool(one.all()) for one in hits[row].split(sizes.tolist())]
        categories = [question.category for question in data.questions(clip)]
        keep = out.vision.keep[row].cpu()[out.vision.rows[row]].view(len(times[row]), -1).numpy()
        informative = informative_cells(data.scenes[clip], times[row], grid).reshape(keep.shape)
        yield ClipResult(clip, tuple(zip(categories, right, strict=True)), keep, informative)


# --- what must not be enough to answer -----------------------------------------------------------


def no_video(video: VideoFrames) -> VideoFrames:
    """Grey frames."""
    return replace(video, frames=np.full_like(video.frames, 128))


def first_frame(video: VideoFrames) -> VideoFrames:
    """The first frame all the time."""
    return replace(video, frames=np.repeat(video.frames[:1], len(video.frames), 0))


def shuffled(video: VideoFrames) -> VideoFrames:
    """The first frame, and the others in another order."""
    order = np.random.default_rng(len(video.frames)).permutation(len(video.frames) - 1) + 1
    return replace(video, frames=video.frames[[0, *order]])


# --- summaries -----------------------------------------------------------------------------------


def accuracies(results: Sequence[ClipResult]) -> dict[str, float]:
    """Share of right answers of every category, and of all questions as ``all``."""
    answers: dict[str, list[bool]] = {"all": []}
    for result in results:
        for category, right in result.correct:
            answers.setdefault(category, []).append(right)
            answers["all"].append(right)
    return {category: float(np.mean(some)) for category, some in answers.items()}


def answers(results: Sequence[ClipResult]) -> list[float]:
    """1 or 0 for every question."""
    return [float(right) for result in results for _, right in result.correct]


def paired(ours: Sequence[ClipResult], theirs: Sequence[ClipResult]) -> Difference:
    """Our accuracy minus theirs on the same clips, with its interval."""
    pairs = zip(answers(ours), answers(theirs), strict=True)
    points = [100 * (a - b) for a, b in pairs]
    return Difference(sum(points) / len(points), *bootstrap_interval(points), len(points))


def recall(results: Sequence[ClipResult]) -> float:
    """Share of all cells with an event that was kept."""
    kept = sum(int((one.keep & one.informative).sum()) for one in results)
    return kept / sum(int(one.informative.sum()) for one in results)
