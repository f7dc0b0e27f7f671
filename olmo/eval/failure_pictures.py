"""Pictures of the kept tokens of wrongly answered videos, for the report."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olmo.data.frame_sampling import FrameSampling
from olmo.data.registry import Dataset
from olmo.data.video_loading import Clip, load_video
from olmo.distributed import is_main
from olmo.eval.answer import collate_examples, raw_example
from olmo.eval.prediction import Prediction
from olmo.viewer.picture import cell_grid, kept_cells, pruning_picture

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2

log = logging.getLogger(__name__)

PICTURES = "pictures"


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
    drawn = 0
    for one in predictions:
        if drawn == limit:
            break
        if not one.is_failure:
            continue
        example = raw_example(dataset, one.index, seed)
        if isinstance(example.get("video"), str):
            _draw(model, dataset, example, one, folder, seed)
            drawn += 1


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
    keep, scores = kept_cells(model, batch)
    if not is_main():
        return
    video = load_video(
        example["video"],
        FrameSampling.from_config(config.mm_preprocessor.video),
        clip=Clip.of(example.get("metadata") or {}),
        decoder=config.mm_preprocessor.video.decoder,
        limits=config.mm_preprocessor.limits,
    )
    picture = pruning_picture(
        video.frames, keep, cell_grid(config), video.timestamps, scores=scores, columns=8, width=140
    )
    path = picture_path(folder, one)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=85)
