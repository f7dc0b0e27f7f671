"""Folders of runs: what is found in them, and what the runs are called."""

from pathlib import Path

import pytest

from olmo.eval.runs import load_runs, telling_parts
from tests.eval.test_run_table import write_run


def labels(*paths):
    return [run.label for run in load_runs(paths)]


def test_labels(tmp_path):
    for name, topk in (("b", 0.5), ("c", 0.8)):
        write_run(tmp_path / name, [1] * 20, topk)
    write_run(tmp_path / "e", [1] * 20, 0.5, max_frames=128)
    given = labels(tmp_path / "b", f"mine={tmp_path / 'c'}", tmp_path / "e")
    assert given == ["scorer 50%, 64 frames", "mine", "scorer 50%, 128 frames"]
    write_run(tmp_path / "x-topk=0.5", [1] * 20, 0.5)
    assert labels(f"mine={tmp_path / 'x-topk=0.5'}") == ["mine"]
    write_run(tmp_path / "f", [1] * 20, 0.5)
    assert labels(tmp_path / "b", tmp_path / "f") == ["scorer 50% (b)", "scorer 50% (f)"]


def test_a_folder_of_runs_is_sorted(tmp_path):
    for name, topk, method in (
        *(("a", 0.5, "random"), ("b", 0.8, "scorer"), ("c", 0.3, "scorer")),
        *(("d", 0.0, "scorer"), ("e", 0.5, "evs")),
    ):
        write_run(tmp_path / name, [1, 0], topk, prune_method=method)
    expected = ["dense", "scorer 30%", "scorer 80%", "evs 50%", "random 50%"]
    assert labels(tmp_path) == expected
    assert labels(tmp_path / "a", tmp_path / "d") == ["random 50%", "dense"]  # as given


def test_runs_of_one_name_are_told_apart_by_their_path(tmp_path):
    for name in ("a", "b", "c"):
        write_run(tmp_path / name / "eval" / "step800", [1], 0.0)
    eval_folders = [tmp_path / name / "eval" for name in ("a", "b", "c")]
    assert labels(*eval_folders) == ["dense (a)", "dense (b)", "dense (c)"]
    assert labels(f"dense={eval_folders[0]}", eval_folders[1]) == ["dense", "dense (step800)"]
    with pytest.raises(ValueError, match=r"two runs are called 'x': .*a.* and .*b.*; label them"):
        labels(*(f"x={folder}" for folder in eval_folders[:2]))
    with pytest.raises(ValueError, match="two runs are called"):
        labels(eval_folders[0], eval_folders[0])


def test_parts_of_paths():
    paths = ("/r/a/eval/s1", "/r/a/eval/s2", "/r/b/eval/s1")
    assert telling_parts([Path(p) for p in paths]) == ["a/eval/s1", "a/eval/s2", "b/eval/s1"]
    assert telling_parts([Path("/r/a/s1"), Path("/r/b/s1")]) == ["a", "b"]


def test_what_a_folder_may_be(tmp_path):
    run = tmp_path / "run"
    write_run(run / "eval" / "step1", [1], 0.5)
    write_run(run / "eval" / "step1-topk=0", [1], 0.0)
    (run / "step1").mkdir()
    assert labels(run) == labels(run / "eval") == ["dense", "scorer 50%"]
    with pytest.raises(FileNotFoundError, match=r"gone: no such folder"):
        labels(f"x={tmp_path / 'gone'}")
    with pytest.raises(FileNotFoundError, match=r"step1: no metrics.json of a task in it"):
        labels(run / "step1")
    task = run / "eval" / "step1" / "mvbench"
    with pytest.raises(ValueError, match=r"of one task; give that of its run, .*eval/step1$"):
        labels(task)
    with pytest.raises(ValueError, match=r"holds 2 runs: the label 'x' is for one"):
        labels(f"x={run}")
