"""Pictures of the kept tokens of wrongly answered videos, for the report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olmo.data.frame_sampling import FrameSampling
from olmo.data.registry import Dataset
from olmo.data.video_loading import Clip, load_video
from olmo.distributed import is_main
from olmo.eval.answer import collate_examples, raw_example
from olmo.eval.prediction import Prediction
from olmo.viewer.cells import CellEdges
from olmo.viewer.kept import KeptVideo, kept_cells
from olmo.viewer.picture import pruning_picture

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2

PICTURES = "pictures"
COLOURS = ("heat maps", "coloured by the order of the scores, not by their values")
"""Line of the legend: by value a single outlier would leave one colour for all others."""


def picture_path(folder: Path, one: Prediction) -> Path:
    """Where the picture of a prediction of the task in ``folder`` lies, if there is one."""
    return folder / PICTURES / f"{one.index}.jpg"


def draw_failures(
    model: Molmo2,
    dataset: Dataset,
    predictions: Sequence[Prediction],
    folder: Path,
    limit: int,
    seed: int,
) -> None:
    """Draw the first ``limit`` failures about a video into ``folder/pictures``, in place of
    older pictures. Every rank of a sharded model has to call it; rank 0 draws."""
    if is_main():
        shutil.rmtree(folder / PICTURES, ignore_errors=True)
    failures = (one for one in predictions if one.is_failure)
    found = ((one, raw_example(dataset, one.index, seed)) for one in failures)
    videos = (pair for pair in found if isinstance(pair[1].get("video"), str))
    for one, example in islice(videos, limit):
        _draw(model, dataset, example, one, folder, seed)


def _draw(
    model: Molmo2,
    dataset: Dataset,
    example: dict[str, Any],
    one: Prediction,
    folder: Path,
    seed: int,
) -> None:
    config = model.config
    batch = collate_examples(config, dataset, [one.index], seed)
    found = kept_cells(model, batch)
    if not is_main():
        return
    video = load_video(
        example["video"],
        FrameSampling.from_config(config.mm_preprocessor.video),
        clip=Clip.of(example.get("metadata") or {}),
        decoder=config.mm_preprocessor.video.decoder,
        limits=config.mm_preprocessor.limits,
    )
    kept = KeptVideo(video, CellEdges.of_video(config), *found)
    path = picture_path(folder, one)
    path.parent.mkdir(parents=True, exist_ok=True)
    legend = [] if kept.scores is None else [COLOURS]
    picture = pruning_picture(kept, caption=legend, columns=8, width=140, by_rank=True)
    picture.save(path, quality=85)
