"""The examples of every evaluation reader carry what the metric of their task needs: the right
answer scores 1, a wrong one 0."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from olmo.data.datasets.catalogue import dataset_rows
from olmo.data.registry import get_dataset
from olmo.eval.scoring import score_example
from olmo.eval.tasks import SYNTHETIC, TASKS, Task
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.points import points_text, tracks_text
from tests.data.worlds import First, write_case

FORMAT = DataFormatterConfig().build()
SCORED = [t for t in TASKS if t.metric != "predictions_only" and t.dataset != SYNTHETIC]


def right_answer(metadata: dict[str, Any]) -> str:
    """What a model that knows everything would say."""
    if metadata.get("answer_idx") is not None and "option_names" in metadata:
        return str(metadata["option_names"][metadata["answer_idx"]])
    if "answer" in metadata or "answers" in metadata:
        return str(metadata.get("answer") or Counter(metadata["answers"]).most_common(1)[0][0])
    if "gt_abs_triplets" in metadata:
        ((time, x, y),) = metadata["gt_abs_triplets"]
        return points_text([(str(time), [(x, y)], (5, 6))], "it")
    if "video_fps" in metadata:
        times = [f / metadata["video_fps"] for f in metadata["points"]]
        return tracks_text(times, list(metadata["points"].values()), (5, 6), "it")
    if "mask" in metadata:
        return points_text([("1", [(3, 2)] * metadata.get("count", 1), (8, 4))], "it")
    if "masks" in metadata:
        return points_text([("1", metadata["points"], (8, 4))], "it")
    points = [(0.1 * i, 0.5) for i in range(metadata["count"])]
    return points_text([("1", points, 1.0)], "it", "point_count")


def worth(answer: str, metadata: dict[str, Any], metric: str) -> float:
    """Less than 1 where fewer annotators than three, or of the others, gave this answer."""
    answers = metadata.get("answers", [])
    if metric == "a_okvqa_da":
        return min(answers.count(answer) / 3, 1)
    if metric in ("vqa_score", "text_vqa_score"):
        others = [answers[:i] + answers[i + 1 :] for i in range(len(answers))]
        return fmean(min(rest.count(answer) / 3, 1) for rest in others)
    return 1


@pytest.mark.parametrize("task", SCORED, ids=lambda task: task.name)
def test_scores(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    write_case(task.dataset, tmp_path / dataset_rows()[task.dataset].home)
    data = get_dataset(task.dataset, task.split)
    for i in range(len(data)):
        example = data.get(i, First())
        example |= {"style": task.prompt} if task.prompt else {}
        formatted = FORMAT(example, for_inference=True, sizes=[(8, 4)] * 3)
        metadata = {**example.get("metadata", {}), **formatted.metadata}
        if task.only and metadata[task.only[0]] not in task.only[1:]:
            continue
        answer = right_answer(metadata)
        right = score_example(answer, metadata, task.metric)
        if metadata.get("answer_idx", 0) is None:  # MMIU: the letter of no option
            assert right.correct == 0
            continue
        assert right.correct == pytest.approx(worth(answer, metadata, task.metric))
        assert score_example("zzz", metadata, task.metric).correct == 0
