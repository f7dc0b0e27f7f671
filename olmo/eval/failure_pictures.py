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
from olmo.eval.answering import Row
from olmo.eval.examples import collate_examples, raw_example
from olmo.viewer.cells import CellEdges
from olmo.viewer.kept import KeptVideo, kept_cells
from olmo.viewer.picture import pruning_picture

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2

PICTURES = "pictures"


def is_failure(row: Row) -> bool:
    """Whether a row was scored and is not wholly right."""
    return row["correct"] is not None and row["correct"] < 1


def picture_path(folder: Path, row: Row) -> Path:
    """Where the picture of a row of the task in ``folder`` lies, if there is one."""
    return folder / PICTURES / f"{row['index']}.jpg"


def draw_failures(
    model: Molmo2,
    dataset: Dataset,
    rows: Sequence[Row],
    folder: Path,
    limit: int,
    seed: int,
) -> None:
    """Draw the first ``limit`` failures about a video into ``folder/pictures``, in place of
    older pictures. Every rank of a sharded model has to call it; rank 0 draws."""
    if is_main():
        shutil.rmtree(folder / PICTURES, ignore_errors=True)
    failures = ((row, raw_example(dataset, row["index"], seed)) for row in filter(is_failure, rows))
    videos = (found for found in failures if isinstance(found[1].get("video"), str))
    for row, example in islice(videos, limit):
        _draw(model, dataset, row, example, folder, seed)


def _draw(
    model: Molmo2, dataset: Dataset, row: Row, example: dict[str, Any], folder: Path, seed: int
) -> None:
    config = model.config
    batch = collate_examples(config, dataset, [row["index"]], seed)
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
    path = picture_path(folder, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    pruning_picture(kept, columns=8, width=140).save(path, quality=85)
