"""The examples of every evaluation reader carry what the metric of their task needs: the right
answer scores 1, a wrong one 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.eval.scorers import score_example
from olmo.eval.tasks import TASKS, Task
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.points import points_text, tracks_text
from tests.data.datasets_miniature import Miniature
from tests.data.test_datasets_all import CASES

FORMAT = DataFormatterConfig().build()
BY_SPLIT = {str(case): case for case in CASES if case.split != "train"}
PAIRS = [
    (task, case)
    for task in TASKS
    for split in {task.split, task.split.replace("validation", "val")}
    if (case := BY_SPLIT.get(f"{task.dataset}:{split}")) and task.metric != "predictions_only"
]


def right_answer(metadata: dict[str, Any]) -> str:
    """What a model that knows everything would say."""
    if metadata.get("answer_idx") is not None:
        return str(metadata["option_names"][metadata["answer_idx"]])
    if "answer" in metadata or "answers" in metadata:
        return str(metadata.get("answer") or metadata["answers"][0])
    if "gt_abs_triplets" in metadata:
        ((time, x, y),) = metadata["gt_abs_triplets"]
        return points_text([(str(time), [(x, y)], (5, 6))], "it")
    if "video_fps" in metadata:
        times = [f / metadata["video_fps"] for f in metadata["points"]]
        return tracks_text(times, list(metadata["points"].values()), (5, 6), "it")
    if "mask" in metadata:
        return points_text([("1", [(3, 2)], (8, 4))], "it")
    if "masks" in metadata:
        return points_text([("1", metadata["points"], (8, 4))], "it")
    points = [(0.1 * i, 0.5) for i in range(metadata["count"])]
    return points_text([("1", points, 1.0)], "it", "point_count")


def test_most_tasks_are_among_the_pairs() -> None:
    assert len(PAIRS) >= 19, [task.name for task, _ in PAIRS]


@pytest.mark.parametrize(("task", "case"), PAIRS, ids=lambda x: getattr(x, "name", str(x)))
def test_scores(
    task: Task, case: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    case.write(tmp_path)
    for example in case.read(np.random.RandomState(0)):
        example |= {"style": task.prompt} if task.prompt else {}
        formatted = FORMAT(example, for_inference=True, sizes=[(8, 4)])
        metadata = {**example.get("metadata", {}), **formatted.metadata}
        if task.only and metadata[task.only[0]] not in task.only[1:]:
            continue
        best = 1 / 3 if task.metric == "vqa_score" else 1  # one annotator of three
        right = score_example(right_answer(metadata), metadata, task.metric)
        assert right["correct"] == pytest.approx(best)
        assert score_example("zzz", metadata, task.metric)["correct"] == 0
