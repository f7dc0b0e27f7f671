"""Text tables, summaries and the HTML report."""

import pytest
from PIL import Image

from olmo.eval.failure_pictures import picture_path
from olmo.eval.prediction import Skipped
from olmo.eval.report import (
    Problem,
    average_rows,
    find_problems,
    format_problems,
    format_summary,
    summarize,
    timing,
)
from olmo.eval.report_html import report_page, write_report
from olmo.eval.runs import load_runs
from olmo.eval.store import write_result
from olmo.eval.tasks import groups
from olmo.files import write_json
from tests.eval.fakes import prediction


def test_summary():
    done = {
        "task": "synthetic_video_qa",
        "accuracy": 0.75,
        "interval": [0.5, 1.0],
        "n": 8,
        "unparsed": 1,
        "skipped": 0,
        "tokens_before": 120.0,
        "tokens_after": 70.25,
        "timing": {"seconds_per_example": {"total": 0.0421}},
    }
    done["scores"] = {"molmo2": 0.625}
    empty = dict.fromkeys(done) | {"task": "empty", "n": 0, "unparsed": 0, "skipped": 3}
    header, _, first, second = format_summary([done, empty]).splitlines()
    assert "accuracy %" in header and "95% interval" in header
    for cell in ("75.0", "62.5", "50.0 - 100.0", "120.0", "70.2", "0.042"):
        assert cell in first
    assert second.split() == ["empty", "-", "-", "-", "0", "0", "3", "-", "-", "-"]


def row(index, correct, **more):
    about = {
        "question": "Which <colour>?",
        "options": ["red", "blue"],
        "reference": "B",
        "category": "colour",
        "labels": ["colour"],
        "n_tokens_after": 6 + index,
        "pruning": {"pruned_fraction": 0.5},
        "seconds": {"prefill": 0.1 * (index + 1), "total": 0.5},
    }
    return prediction(index, correct, **about | more)


def test_summary_of_rows():
    rows = [row(0, 1), row(1, 0, prediction="", unparsed=1), row(2, 0)]
    found = summarize(rows, [Skipped(3, "no file")])
    assert (found["n"], found["skipped"], found["empty"], found["unparsed"]) == (3, 1, 1, 1)
    assert (found["tokens_before"], found["tokens_after"]) == (10, 7)
    assert found["stts"] == {"pruned_fraction": 0.5}
    times = timing(rows)
    assert times["seconds_per_example"] == {"prefill": pytest.approx(0.2), "total": 0.5}
    assert times["examples_per_second"] == 2
    assert timing([])["examples_per_second"] is None


def test_problems():
    done = {"task": "t", "n": 3, "skipped": 0, "empty": 1, "skipped_examples": []}
    assert find_problems(done) == []
    left_out = done | {"skipped": 1, "skipped_examples": [{"index": 7, "error": "cut off"}]}
    (problem,) = find_problems(left_out)
    assert problem.reason == "1 of 4 examples left out, first 7: cut off"
    assert [p.reason for p in find_problems(done | {"n": 0, "empty": 0})] == ["no examples"]
    assert "generated nothing" in find_problems(done | {"empty": 3})[0].reason
    assert format_problems([problem]) == "  t: 1 of 4 examples left out, first 7: cut off"


def test_means_of_whole_groups():
    def metrics(task, accuracy):
        return {"task": task, "accuracy": accuracy}

    one, two, three = (task.name for task in groups()["multi_image"])
    rows = average_rows([metrics(one, 0.2), metrics(two, 0.3), metrics(three, 0.55)])
    assert [row[:2] for row in rows] == [["mean of multi_image (3 tasks)", "35.0"]]
    assert average_rows([metrics(one, 0.2), metrics(two, 0.3)]) == []
    assert average_rows([metrics(one, 0.2), metrics(two, 0.3), metrics(three, None)]) == []


@pytest.fixture
def colours(tmp_path):
    """A run of one task, with a category, a picture and an example that was left out."""
    rows = [row(0, 1), row(1, 0, prediction="<b>x"), row(2, 0.5, example_id="drawn")]
    metrics = {
        "task": "colours:test",
        "title": "Colours",
        **summarize(rows, [Skipped(9, "cut <off>")]),
        "scores": {"molmo2": 0.75},
        "model": {"topk": 0.5},
        "checkpoint": "run/step7",
        "timing": {
            "seconds_per_example": {"prefill": 0.25},
            "examples_per_second": 4,
            "device": "cpu",
        },
    }
    folder = tmp_path / "half" / "colours-test"
    write_result(folder, metrics, rows)
    path = picture_path(folder, rows[2])
    path.parent.mkdir()
    Image.new("RGB", (8, 8)).save(path)
    return folder.parent, metrics, rows


def test_html(colours):
    folder, metrics, _ = colours
    write_report(folder, [metrics], [Problem("mvbench", "no <files>")])
    text = (folder / "report.html").read_text()
    assert text.startswith("<!doctype html>") and "2 of 3 answers are not right<" in text
    assert "no &lt;files&gt;" in text and "cut &lt;off&gt;" in text and "&lt;b&gt;x" in text
    assert text.index("<b>drawn") < text.index("<b>e1") and "data:image/jpeg;base64," in text
    assert "<b>e0" not in text and "<polyline" not in text
    assert 'href="#colours:test"' in text and 'id="colours:test"' in text
    for words in ("checkpoint run/step7", "topk 0.5", "device cpu", "95% interval"):
        assert words in text
    assert "<td>prefill<td>0.250" in text and "<td>50.0<td>75.0<td>" in text
    assert "<script" not in text and "http://" not in text and "https://" not in text


def test_html_of_answers_without_a_score(tmp_path):
    rows = [row(0, 1), row(1, 0), row(2, None, reference=None)]
    metrics = {"task": "t", "metric": "own_<data>", **summarize(rows, [])}
    write_result(tmp_path / "t", metrics, rows)
    write_report(tmp_path, [metrics], [])
    text = (tmp_path / "report.html").read_text()
    assert "1 of 2 answers with a score are not right; 1 more without a score<" in text
    assert text.count("<td>2 of 3<td>") == 2  # the task's, and its category's
    assert "Scored by own_&lt;data&gt;." in text
    assert "<dd>A. red / B. blue" in text and "<dd>B. blue" in text
    assert "2 of 3" in format_summary([metrics])


def test_html_of_several_runs(colours):
    folder, metrics, rows = colours
    dense = metrics | {"model": {"topk": 0}, "accuracy": 2 / 3, "tokens_after": 10.0}
    dense["title"] = "<i>Colours"
    write_result(folder.parent / "dense" / "colours-test", dense, rows)
    runs = load_runs([f"<s>d</s>={folder.parent / 'dense'}", f"half={folder}"])
    text = report_page(runs, "Two <runs>")
    assert "<td>half<td>50.0<td>75.0<td>" in text and "<td>colour<td>half<td>" not in text
    assert "<td>colour<td>&lt;s&gt;d&lt;/s&gt;<td>50.0" in text and "<td><td>half<td>50.0" in text
    assert "<s>" not in text and "<i>" not in text and "Two &lt;runs&gt;" in text
    assert "<td>prefill<td>0.250<td>0.250" in text and "No task failed" not in text
    assert "half: 2 of 3 answers are not right" in text
    assert "<title>half: 50.0 at 7</title>" in text and "<title>half: 50.0 at 0.25</title>" in text
    assert text.count("<polyline") == 2 and text.count('class="best"') == 3
    assert '<li value="2">half: 50.0 at 7' in text


def test_html_names_the_folder_that_lacks_something(colours):
    folder, _, rows = colours
    left = [{k: v for k, v in one.row().items() if k != "question"} for one in rows]
    write_json(folder / "colours-test" / "predictions.json", left)
    with pytest.raises(ValueError, match=r"half/colours-test: 'question' is not in its results"):
        report_page(load_runs([folder]), "one")


def test_html_of_nothing(tmp_path):
    write_report(tmp_path, [], [])
    assert "No task failed" in (tmp_path / "report.html").read_text()
