"""Evaluation of one task on a fake model and data set."""

import json
from dataclasses import replace

import numpy as np
import pytest

from olmo.config import ConfigError
from olmo.eval import evaluate as one_task
from olmo.eval.evaluate import TaskFailed, evaluate_task, merge, together
from olmo.eval.prediction import Skipped, example_id, labels
from olmo.eval.settings import EvalConfig, EvalSettings
from tests.eval.fakes import (
    CPU,
    TASK,
    FakeDataset,
    FakeModel,
    FakeModelConfig,
    Ranks,
    install,
    prediction,
)


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    install(monkeypatch)


def evaluate(dataset=None, model=None, task=TASK, **settings):
    model = model or FakeModel()
    return evaluate_task(model, FakeModelConfig(), task, EvalSettings(**settings), CPU, dataset)


def rows_of(result):
    return [one.row() for one in result.predictions]


def answers(result):
    """What must not depend on how the run went: everything but the seconds."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(result)]
    return json.dumps([rows, result.metrics])


def test_rows_and_metrics():
    model = FakeModel().train()
    result = evaluate(FakeDataset(broken=(2, 9)), model)
    assert model.training
    rows, metrics = rows_of(result), result.metrics
    assert [row["index"] for row in rows] == [0, 1, 3, 4, 5, 6, 7, 8, 10]
    assert set(rows[1]) == {
        *("index", "example_id", "question", "options", "prediction", "correct", "unparsed"),
        *("parsed", "reference", "category", "labels", "n_tokens_before", "n_tokens_after"),
        *("fingerprint", "seconds"),
    }
    choice, short, empty = rows[1], rows[2], rows[4]
    assert choice["options"] == list("wxyz") and choice["reference"] == "B"
    assert choice["question"].startswith("2 ")  # no question in the data set: the decoded prompt
    assert short["question"] == "what is 3?" and short["reference"] == "C"
    assert choice["prediction"] in "ABCD" and choice["example_id"] == "e1"
    assert (empty["prediction"], empty["parsed"], empty["unparsed"]) == ("", None, 1)
    assert all(row["n_tokens_after"] == row["n_tokens_before"] - 1 for row in rows)
    assert set(rows[0]["seconds"]) == {"load", "vision", "prefill", "decode", "total"}

    assert (metrics["n"], metrics["skipped"], metrics["unparsed"], metrics["empty"]) == (9, 2, 1, 1)
    assert metrics["accuracy"] == np.mean([row["correct"] for row in rows])
    assert metrics["tokens_after"] == pytest.approx(metrics["tokens_before"] - 1)
    assert set(metrics["categories"]) == {"even", "odd"}
    assert [skip["index"] for skip in metrics["skipped_examples"]] == [2, 9]
    assert "clip2.mp4" in metrics["skipped_examples"][0]["error"]
    expected = {"model_name": "fake_model", "max_frames": 8, "topk": 0.5, "prune_at": 3}
    assert metrics["model"] == expected
    seconds = result.timing["seconds_per_example"]
    assert {k: round(seconds[k], 6) for k in ("vision", "prefill", "decode")} == {
        "vision": 0.2,
        "prefill": 0.4,
        "decode": 0.1,
    }
    assert result.timing["examples_per_second"] > 0


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("settings", [{}, {"max_examples": 5}, {"device_batch_size": 3}])
def test_results_do_not_depend_on_the_number_of_ranks(monkeypatch, world, settings):
    dataset = FakeDataset(broken=(4, 7))
    alone = evaluate(dataset, **settings)
    ranks = Ranks(monkeypatch, world)
    for result in ranks.run(lambda: evaluate(dataset, **settings)):
        assert answers(result) == answers(alone)
        assert result.timing["world_size"] == world


@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_results_do_not_depend_on_the_batch_size(size):
    """The fake's answers depend on the padded width, so this holds for single rows only."""
    assert answers(evaluate(device_batch_size=size)) == answers(evaluate())


def test_batched_generation_puts_similar_lengths_together():
    widths, dataset = [], FakeDataset(30)

    class Watched(FakeModel):
        def generate(self, batch, *args):
            widths.append((batch["input_ids"].shape, (batch["input_ids"] < 0).sum().item()))
            return super().generate(batch, *args)

    result = evaluate(dataset, Watched(), device_batch_size=6, generation="batched")
    assert [len(shape) and shape[0] for shape, _ in widths] == [6] * 5
    assert sum(padding for _, padding in widths) <= 15  # at random: about 60
    assert [one.index for one in result.predictions] == list(range(30))
    assert result.metrics["generation"] == "batched"


def test_workers_change_nothing():
    dataset = FakeDataset(broken=(4,))
    assert answers(evaluate(dataset, num_workers=2)) == answers(evaluate(dataset))


def test_limited_runs_nest():
    picks = [{one.index for one in evaluate(max_examples=n).predictions} for n in (2, 5, 11, 100)]
    assert [len(p) for p in picks] == [2, 5, 11, 11]
    assert picks[0] < picks[1] < picks[2]
    assert {one.index for one in evaluate(max_examples=5, seed=1).predictions} != picks[1]


def test_only_some_examples():
    result = evaluate(task=replace(TASK, only=("category", "even")), max_examples=4)
    assert len(result.predictions) == 4
    assert all(one.index % 2 == 0 for one in result.predictions)


def test_the_prompt_form_of_the_task_is_used(monkeypatch):
    seen = []

    def prepare(example, *args):
        seen.append(example["style"])
        return example

    monkeypatch.setattr("olmo.eval.answer.prepare", prepare)
    evaluate(task=replace(TASK, prompt="video_eval_multiple_choice"), max_examples=2)
    assert seen == ["video_eval_multiple_choice"] * 2


def test_no_readable_video():
    result = evaluate(FakeDataset(3, broken=range(3)))
    assert (result.metrics["n"], result.metrics["skipped"]) == (0, 3)
    assert result.metrics["accuracy"] is None and result.metrics["tokens_after"] is None
    json.dumps(result.metrics, allow_nan=False)


def test_a_prompt_that_is_too_long_is_left_out():
    class Short(FakeModel):
        def generate(self, batch, *args):
            if batch["input_ids"][0, 0] == 4:
                raise ValueError("a prompt of 9 positions is too long")
            return super().generate(batch, *args)

    metrics = evaluate(model=Short()).metrics
    assert (metrics["n"], metrics["skipped"]) == (10, 1)
    expected = [{"index": 3, "error": "a prompt of 9 positions is too long"}]
    assert metrics["skipped_examples"] == expected


def test_merging_loses_and_doubles_nothing():
    def rows(*indices):
        return [prediction(i) for i in indices]

    skipped = [Skipped(1, "")]
    merged, left_out = merge([rows(3, 0), rows(2), skipped], range(4))
    assert [one.index for one in merged] == [0, 2, 3] and left_out == skipped
    for parts in ([rows(0, 1), rows(1)], [rows(0)], [rows(0, 1, 2)], [rows(0, 1), skipped]):
        with pytest.raises(AssertionError):
            merge(parts, range(2))


def test_an_error_on_one_rank_is_an_error_on_all(monkeypatch):
    ranks = Ranks(monkeypatch, 3)

    def fail_on_the_last():
        if one_task.get_rank() == 2:
            raise KeyError("lost")
        return one_task.get_rank()

    def caught():
        with pytest.raises(TaskFailed, match="KeyError: 'lost'"):
            together(fail_on_the_last)
        return together(one_task.get_rank)

    assert ranks.run(caught) == [0, 1, 2]


def test_names_and_labels():
    assert example_id({"example_id": 3, "question_id": "q"}, 7) == "3"
    assert example_id({"question_id": "q"}, 7) == "q" and example_id({}, 7) == "7"
    metadata = {"a": "x", "b": [1, 2], "c": None}
    assert labels(("a",), metadata) == ["x"]
    assert labels(("a", "b", "c", "d"), metadata) == ["a/x", "b/1", "b/2"]


@pytest.mark.parametrize(
    "bad",
    [
        {"max_examples": 0},
        {"device_batch_size": 0},
        {"num_workers": -1},
        {"model": 3},
        {"generation": "fast"},
        {"weights": "fp16"},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        EvalConfig.from_dict({"checkpoint": "x", **bad})
    assert EvalSettings(max_examples=-1).max_examples is None
