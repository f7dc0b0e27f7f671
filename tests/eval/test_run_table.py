"""Several runs side by side."""

import json

import pytest

from olmo.eval.compare import accuracy_table, compare, difference_table, throughput
from olmo.eval.pairs import paired_gaps
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


def test_throughput_weighs_by_examples(tmp_path):
    write_run(tmp_path, [1] * 10, 0.5, ("mvbench",), speed=1.0)
    write_run(tmp_path, [1] * 10, 0.5, ("tomato",), speed=4.0)
    (run,) = load_runs([tmp_path])
    assert throughput(run, ["mvbench", "tomato"]) == pytest.approx(20 / 12.5)
    run.metrics["tomato"]["timing"] = None
    assert throughput(run, ["mvbench", "tomato"]) is None


def test_examples_that_one_run_skipped_are_the_reason(tmp_path):
    write_run(tmp_path / "a", [1] * 8, 0.0)
    skipped = [{"index": i, "error": "cut off"} for i in (5, 6, 7)]
    write_run(tmp_path / "b", [1] * 5, 0.5, about={"skipped": 3, "skipped_examples": skipped})
    (row,) = compare(load_runs([tmp_path])).differences
    assert row.reason == (
        "cannot pair 5 answers with 8: 3 and 0 examples of the same questions were skipped"
    )
    write_run(tmp_path / "b", [1] * 4, 0.5, about={"skipped_examples": skipped})
    (row,) = compare(load_runs([tmp_path])).differences
    assert row.reason == "cannot pair 4 answers with 8 to other questions"


def test_results_by_several_metrics_are_not_compared(tmp_path, capsys):
    for name, topk, metric, score in (("a", 0, "own_data", 0), ("b", 0.5, "my_rule.py:two", 1)):
        tasks, more = ("mvbench",), {"metric": metric}
        write_run(tmp_path / name, [score] * 20, topk, tasks, about=more)
        write_run(tmp_path / name, [score] * 20, topk, ("tomato",), about={"metric": "same"})
    found = compare(load_runs([tmp_path]))
    apart, alike = found.differences
    assert apart.reason == "scored by own_data and my_rule.py:two" and apart.points is None
    assert alike.points == 100
    (score, other), row = found.runs[1].tasks.values(), accuracy_table(found)[1][1]
    assert (score.differs, score.metric, other.differs) == (False, "my_rule.py:two", True)
    assert row[1:4] == ["100.0", "100.0*", "100.0"] and found.runs[0].average == 0
    assert found.notes == ["Not in the average, as runs scored it by several metrics: MVBENCH."]
    page = tmp_path / "page.html"
    assert main([str(tmp_path), f"--html={page}"]) == 0
    assert found.notes[0] in capsys.readouterr().out
    text = page.read_text()
    assert "Scored by own_data (dense) and my_rule.py:two (scorer 50%); these are not" in text
    assert "Scored by same." in text and found.notes[0] in text
    assert text.count("<polyline") == 2 * 2  # overall and of the task that one metric scored


def test_no_common_task(tmp_path, capsys):
    write_run(tmp_path / "a", [1], 0.0, ("mvbench",))
    write_run(tmp_path / "b", [1], 0.5, ("tomato",))
    assert main([str(tmp_path), f"--html={tmp_path / 'page.html'}"]) == 0
    note = "No task was scored in every run"
    assert note in capsys.readouterr().out and note in (tmp_path / "page.html").read_text()


def test_of_how_many_answers_an_accuracy_is(tmp_path):
    for name, topk in (("a", 0.0), ("b", 0.5)):
        write_run(tmp_path / name, [1, 0], topk, about={"n": 3, "scored": 2})
    found = compare(load_runs([tmp_path]))
    assert [row[1] for row in accuracy_table(found)[1]] == ["50.0 (2 of 3)"] * 2
    assert (found.runs[0].tasks["mvbench"].scored, found.differences[0].n) == (2, 2)


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
