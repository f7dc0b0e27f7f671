"""Several runs side by side, and the paired tests behind it."""

import json
from dataclasses import replace

import pytest

from olmo.eval.compare import accuracy_table, compare, difference_table, throughput
from olmo.eval.pairs import p_value, paired_difference, paired_gaps
from olmo.eval.runs import load_runs
from olmo.eval.store import write_result
from olmo.files import write_json
from scripts.compare_runs import main
from tests.eval.fakes import prediction


def write_run(folder, scores, topk, tasks=("mvbench",), speed=2.0, about=None, **model):
    rows = [prediction(i, s, prediction=f"{s}") for i, s in enumerate(scores)]
    for task in tasks:
        metrics = {
            "task": task,
            "title": task.upper(),
            "accuracy": sum(scores) / len(scores),
            "n": len(scores),
            "interval": [0.5, 1.0],
            "unparsed": 0,
            "skipped": 0,
            "categories": {},
            "skipped_examples": [],
            "tokens_before": 100.0,
            "tokens_after": 100 - 80 * topk,
            "model": {"prune_method": "scorer", "topk": topk, "max_frames": 64, **model},
            "timing": {"examples_per_second": speed},
            **(about or {}),
        }
        write_result(folder / task, metrics, rows)


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "a", [1] * 20, 0.0, ("mvbench", "tomato"))
    write_run(tmp_path / "b", [1] * 12 + [0] * 8, 0.5, ("tomato", "mvbench"), speed=3.0)
    write_run(tmp_path / "c", [1] * 18 + [0] * 2, 0.8, ("mvbench",), speed=4.0)
    return tmp_path


def test_accuracy_table(runs):
    headers, rows = accuracy_table(compare(load_runs([runs])))
    assert headers[:4] == ["setting", "MVBENCH", "TOMATO", "average"]
    assert rows == [
        ["dense", "100.0", "100.0", "100.0", "100.0", "100.0", "2.00", "1.00x"],
        ["scorer 50%", "60.0*", "60.0*", "60.0", "60.0", "60.0", "3.00", "1.50x"],
        ["scorer 80%", "90.0", None, "90.0", "36.0", "36.0", "4.00", "2.00x"],
    ]


def test_difference_table(runs):
    headers, rows = difference_table(compare(load_runs([runs / "a", runs / "b", runs / "c"])))
    assert len(rows) == 3 and headers[2] == "points"
    assert rows[0][:3] == ["MVBENCH", "scorer 50%", "-40.0"]
    # eight of eight questions that differ: 2 / 2^8; two of two: 2 / 2^2
    assert (rows[0][4], rows[1][4]) == ("0.008", "0.500")
    assert rows[0][5:] == [20, "60.0"]


def test_runs_on_other_questions_are_not_paired(runs):
    write_run(runs / "d", [1] * 5, 0.3)
    found = compare(load_runs([runs / "a", runs / "d"]))
    assert accuracy_table(found)[1][1][1] == "100.0"
    (row,) = difference_table(found)[1]
    assert row[2] is None and "cannot pair 5 answers with 20" in row[3]


def test_labels(runs):
    write_run(runs / "e", [1] * 20, 0.5, max_frames=128)
    labels = [run.label for run in load_runs([runs / "b", f"mine={runs / 'c'}", runs / "e"])]
    assert labels == ["scorer 50%, 64 frames", "mine", "scorer 50%, 128 frames"]
    write_run(runs / "x-topk=0.5", [1] * 20, 0.5)
    (run,) = load_runs([f"mine={runs / 'x-topk=0.5'}"])
    assert run.label == "mine"
    write_run(runs / "f", [1] * 20, 0.5)
    same = [run.label for run in load_runs([runs / "b", runs / "f"])]
    assert same == ["scorer 50% (b)", "scorer 50% (f)"]


def test_a_folder_of_runs_is_sorted(tmp_path):
    for name, topk, method in (
        *(("a", 0.5, "random"), ("b", 0.8, "scorer"), ("c", 0.3, "scorer")),
        *(("d", 0.0, "scorer"), ("e", 0.5, "evs")),
    ):
        write_run(tmp_path / name, [1, 0], topk, prune_method=method)
    expected = ["dense", "scorer 30%", "scorer 80%", "evs 50%", "random 50%"]
    assert [run.label for run in load_runs([tmp_path])] == expected
    named = load_runs([tmp_path / "a", tmp_path / "d"])
    assert [run.label for run in named] == ["random 50%", "dense"]  # in the order given


def test_throughput_weighs_by_examples(tmp_path):
    write_run(tmp_path, [1] * 10, 0.5, ("mvbench",), speed=1.0)
    write_run(tmp_path, [1] * 10, 0.5, ("tomato",), speed=4.0)
    (run,) = load_runs([tmp_path])
    assert throughput(run, ["mvbench", "tomato"]) == pytest.approx(20 / 12.5)
    run.metrics["tomato"]["timing"] = None
    assert throughput(run, ["mvbench", "tomato"]) is None


def test_p_value():
    assert p_value([0, 0, 0]) == 1.0
    assert p_value([1] * 6) == pytest.approx(2 / 64)
    assert p_value([1, 1, 1, -1]) == pytest.approx(2 * 5 / 16)
    assert p_value([1, -1]) == 1.0
    # four gaps of one sign: two of the sixteen sign patterns are as large
    assert p_value([0.5, 0.25, 0.5, 0.75]) == pytest.approx(2 / 16)
    assert p_value([0.5] * 30) < 0.001


def test_pairs_need_the_same_examples():
    rows = [prediction(0, 1), prediction(1, 0)]
    assert paired_gaps(rows, rows[::-1]) == [0, 0]
    assert paired_difference(rows, rows).points == 0
    with pytest.raises(ValueError, match="cannot pair"):
        paired_gaps(rows, [replace(rows[0], example_id="b"), rows[1]])


def test_answers_without_a_score_are_in_no_pair(tmp_path):
    rows = [prediction(0, 1), prediction(1, None)]
    assert paired_gaps(rows, rows) == [0]
    with pytest.raises(ValueError, match="none of 1 has a score"):
        paired_gaps(rows[1:], rows[1:])
    for name in ("a", "b"):
        write_run(tmp_path / name, [1, 0], 0.5)
        write_json(tmp_path / name / "mvbench" / "predictions.json", [one.row() for one in rows])
    assert main([str(tmp_path), f"--html={tmp_path / 'page.html'}"]) == 0


def test_script(runs, capsys, tmp_path):
    assert main([str(runs)]) == 0
    out = capsys.readouterr().out
    assert "scorer 80%" in out and "Differences from dense:" in out
    assert main([str(runs), "--format=markdown", f"--out={tmp_path / 'table.md'}"]) == 0
    assert (tmp_path / "table.md").read_text().startswith("| setting | MVBENCH |")
    assert main([str(runs), "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"titles", "runs", "differences", "notes"}
    row, (gap, *rest) = found["runs"][1], found["differences"]
    assert (row["average"], row["tokens_share"], row["speed_up"]) == (60.0, 60.0, 1.5)
    assert row["tasks"]["mvbench"] == {
        **{"accuracy": 60.0, "n": 20, "scored": 20, "metric": None, "differs": True}
    }
    assert (gap["task"], gap["points"], gap["n"], gap["same_answers"]) == ("mvbench", -40, 20, 60)
    assert gap["p"] == pytest.approx(2 / 2**8) and gap["low"] < -40 < gap["high"] < 0
    assert len(rest) == 2 and gap["reason"] is None


def test_script_writes_a_page(runs, capsys):
    page = runs / "page.html"
    labelled = [f"first={runs / 'a'}", f"second={runs / 'a'}"]
    assert main([*labelled, f"--html={page}"]) == 0
    text = page.read_text()
    assert "2 runs side by side" in text and "Differences from first" in text
    assert text.count("<polyline") == 2 * 3  # overall, and for each of the two tasks
    assert "setting" in capsys.readouterr().out
    (runs / "b" / "mvbench" / "predictions.json").write_text('[{"index": 0, "example_id": "e"}]')
    assert main([str(runs / "b"), f"--html={page}"]) == 2
    assert "'question' is not in its results" in capsys.readouterr().err


def test_script_without_results(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "metrics.json").write_text("[]")
    assert main([str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "no metrics.json of a task in it" in err and "not the metrics of a task" in err
