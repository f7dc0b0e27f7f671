"""A whole run with fakes: files, what is reused, what a broken task costs."""

import json
from dataclasses import replace

import pytest

from olmo.data.registry import MissingDataError
from olmo.eval import own_data, run
from olmo.eval.run import run_evaluation
from olmo.eval.settings import EvalConfig, EvalPlan, set_up_name
from olmo.eval.store import HALF, TaskStore, example_fingerprint
from olmo.preprocessing.chat import DataFormatterConfig
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


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A plan for a checkpoint with one file; ``plan.loads`` counts the loaded models, ``plan.data``
    maps data sets to what is opened, ``plan.answered`` are the first tokens of the prompts."""
    install(monkeypatch)
    checkpoint = tmp_path / "run" / "step5"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.pt").write_text("weights")
    config = EvalConfig(checkpoint=str(checkpoint), max_examples=6, pictures=0)
    made = EvalPlan(config, checkpoint, FakeModelConfig(), [TASK], tmp_path / "out")
    made.loads, made.data, made.answered, made.model = (
        [],
        {"fake_set": FakeDataset()},
        [],
        FakeModel,
    )

    def load(path, *args, **kwargs):
        made.loads.append(path)
        model = made.model()
        generate = model.generate

        def watched(batch, *args):
            made.answered.append(int(batch["input_ids"][0, 0]))
            return generate(batch, *args)

        model.generate = watched
        return model

    def get(name, split):
        if name not in made.data:
            raise MissingDataError(name, ["annotations.json"], tmp_path)
        return made.data[name]

    monkeypatch.setattr(run, "load_for_evaluation", load)
    monkeypatch.setattr(own_data, "get_dataset", get)
    return made


def files(plan, name="fake"):
    """Metrics and predictions without what is measured."""
    folder = plan.folder / name
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = json.loads((folder / "predictions.json").read_text())
    metrics.pop("timing")
    for row in rows:
        assert set(row.pop("seconds")) >= {"load", "prefill", "decode", "total"}
    return json.dumps(metrics), json.dumps(rows)


def test_files(plan):
    outcome = run_evaluation(plan, CPU)
    (metrics,) = outcome.metrics
    assert outcome.problems == []
    names = {f.name for f in plan.folder.rglob("*")}
    assert names == {"fake", "metrics.json", "predictions.json", "problems.json", "report.html"}
    written = json.loads((plan.folder / "fake" / "metrics.json").read_text())
    assert written == metrics and written["checkpoint"].endswith("step5")
    assert len(json.loads((plan.folder / "fake" / "predictions.json").read_text())) == 6

    first = files(plan)
    plan.config.overwrite = True
    run_evaluation(plan, CPU)
    assert len(plan.loads) == 2 and len(plan.answered) == 12
    assert files(plan) == first


def test_finished_results_are_reused(plan):
    first = run_evaluation(plan, CPU)
    assert run_evaluation(plan, CPU) == first
    assert len(plan.loads) == 1 and len(plan.answered) == 6


def test_more_examples_go_on_from_the_finished_ones(plan):
    run_evaluation(plan, CPU)
    plan.config.max_examples = None
    run_evaluation(plan, CPU)
    assert len(plan.answered) == len(set(plan.answered)) == 11
    plan.config.max_examples = 3
    (fewer,) = run_evaluation(plan, CPU).metrics
    assert fewer["n"] == 3 and len(plan.loads) == 2  # no model is needed for that


def reworded(folder):
    """Formatter whose file of wordings begins with another prompt."""
    file = folder / "prompts.yaml"
    file.write_text("short_answer: ['Briefly: {question}']\n")
    return DataFormatterConfig(prompts=str(file))


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: setattr(plan.config, "max_new_tokens", 9),
        lambda plan: setattr(plan.config, "seed", 1),
        lambda plan: setattr(plan.config, "weights", "bf16"),
        lambda plan: setattr(plan.config, "generation", "batched"),
        lambda plan: setattr(plan.model_config, "to_dict", lambda: {"topk": 0.3}),
        lambda plan: setattr(plan.model_config, "data_formatter", reworded(plan.folder)),
        lambda plan: plan.tasks.__setitem__(0, replace(TASK, split="validation")),
        lambda plan: plan.tasks.__setitem__(0, replace(TASK, prompt="demo")),
        lambda plan: (plan.checkpoint / "model.pt").write_text("other weights"),
        lambda plan: (plan.checkpoint / "more.pt").write_text(""),
        lambda plan: (plan.folder / "fake" / "metrics.json").write_text("{"),
    ],
)
def test_results_of_another_set_up_are_replaced(plan, change):
    run_evaluation(plan, CPU)
    change(plan)
    (again,) = run_evaluation(plan, CPU).metrics
    assert len(plan.loads) == 2
    written = json.loads((plan.folder / "fake" / "metrics.json").read_text())
    assert written["cache_key"] == again["cache_key"]


def test_only_changed_examples_are_answered_again(plan):
    run_evaluation(plan, CPU)
    done = list(plan.answered)

    class Corrected(FakeDataset):
        def get(self, idx, rng):
            example = super().get(idx, rng)
            if idx == done[0] - 1:
                example["metadata"]["category"] = "corrected"
            return example

    plan.data["fake_set"] = Corrected()
    (metrics,) = run_evaluation(plan, CPU).metrics
    assert plan.answered[6:] == done[:1] and "corrected" in metrics["categories"]


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_killed_run_goes_on(plan, kept):
    """Killed after ``kept`` answers; the last line on disk may be cut off."""
    run_evaluation(plan, CPU)
    expected = files(plan)
    plan.config.overwrite = True

    class Killed(FakeModel):
        def generate(self, batch, *args):
            if len(plan.answered) > 6 + kept:
                raise KeyboardInterrupt
            return super().generate(batch, *args)

    plan.model = Killed
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(plan, CPU)
    plan.config.overwrite, plan.model = False, FakeModel
    (lines,) = (plan.folder / "fake").glob("progress-*/*.jsonl")
    assert lines.read_text().count("\n") == kept
    lines.write_text(lines.read_text() + '{"index": 3, "ques')
    plan.answered.clear()
    run_evaluation(plan, CPU)
    assert files(plan) == expected
    assert len(plan.answered) == 6 - kept
    assert not list((plan.folder / "fake").glob("progress-*"))


def test_ranks_share_one_reading_of_the_cache(plan, monkeypatch):
    ranks = Ranks(monkeypatch, 2)
    first = ranks.run(lambda: run_evaluation(plan, CPU))
    assert first[0].metrics[0]["cache_key"] == first[1].metrics[0]["cache_key"]
    assert len(plan.loads) == 2  # one model per rank
    ranks.run(lambda: run_evaluation(plan, CPU))
    assert len(plan.loads) == 2


def test_a_broken_task_costs_no_other(plan):
    """A missing data set, unreadable videos, a metric without a reference, and no answers."""

    class Strange(FakeDataset):
        def get(self, idx, rng):
            example = super().get(idx, rng)
            return {**example, "metadata": {}}

    plan.data |= {
        "partly": FakeDataset(broken=(0, 1, 2, 3, 4, 5)),
        "strange": Strange(),
        "nothing": FakeDataset(0),
    }
    names = ("missing", "partly", "fake_set", "strange", "nothing")
    plan.tasks = [replace(TASK, name=f"{n}_task", dataset=n) for n in names]
    outcome = run_evaluation(plan, CPU)
    scored = ["partly_task", "fake_set_task", "strange_task", "nothing_task"]
    assert [m["task"] for m in outcome.metrics] == scored
    problems = {p.task: p.reason for p in outcome.problems}
    assert set(problems) == {"missing_task", "partly_task", "strange_task", "nothing_task"}
    assert "annotations.json" in problems["missing_task"]
    assert "examples left out, first" in problems["partly_task"]
    assert "clip" in problems["partly_task"]
    assert "no reference" in problems["strange_task"]
    assert problems["nothing_task"] == "no examples"
    written = json.loads((plan.folder / "problems.json").read_text())
    assert {p["task"] for p in written} == set(problems)
    assert "annotations.json" in (plan.folder / "report.html").read_text()


def test_left_out_examples_are_tried_again(plan):
    plan.data["fake_set"] = FakeDataset(broken=range(6))
    (before,) = run_evaluation(plan, CPU).metrics
    assert before["skipped"]
    plan.data["fake_set"] = FakeDataset()
    outcome = run_evaluation(plan, CPU)
    assert outcome.metrics[0]["skipped"] == 0 and outcome.problems == []
    assert len(plan.answered) == 6  # nothing twice


def test_a_model_that_generates_nothing(plan):
    class Silent(FakeModel):
        def generate(self, batch, *args):
            out = super().generate(batch, *args)
            out.token_ids[:] = 0
            return out

    plan.model = Silent
    outcome = run_evaluation(plan, CPU)
    assert [p.reason for p in outcome.problems] == [
        "the model generated nothing for any of 6 examples"
    ]
    (metrics,) = outcome.metrics
    assert (metrics["accuracy"], metrics["unparsed"], metrics["empty"]) == (0.0, 6, 6)


def test_a_failed_write_keeps_what_was_there(tmp_path):
    store = TaskStore(tmp_path, "key" * 22)
    store.write({"cache_key": store.key}, [prediction(0)])
    before = {f.name: f.read_text() for f in tmp_path.iterdir()}
    for metrics, rows in (({"n": float("nan")}, []), ({}, [prediction(1, parsed={1})])):
        with pytest.raises((TypeError, ValueError)):
            store.write(metrics, rows)
        assert {f.name: f.read_text() for f in tmp_path.iterdir()} == before | {
            f.name: f.read_text() for f in tmp_path.glob("answers-*")
        }


def test_overwriting_waits_until_the_task_is_known_to_be_possible(plan):
    run_evaluation(plan, CPU)
    before = files(plan)
    plan.config.overwrite = True
    plan.tasks[0] = replace(TASK, own=True, metric="video_points")
    plan.data = {}
    assert run_evaluation(plan, CPU).problems
    assert files(plan) == before


def test_a_failed_write_costs_its_task_alone(plan):
    plan.tasks = [TASK, replace(TASK, name="other")]
    (plan.folder / "fake" / "predictions.json").mkdir(parents=True)
    (plan.folder / "report.html").mkdir()
    outcome = run_evaluation(plan, CPU)
    assert [m["task"] for m in outcome.metrics] == ["other"]
    assert [p.task for p in outcome.problems] == ["fake", "report.html"]


def test_set_ups_have_folders_of_their_own(tmp_path):
    step = tmp_path / "step5"
    assert set_up_name(step, {}) == "step5"
    over = {"vision_backbone": {"vit": {"topk": 0.3}}, "mm_preprocessor": {"max_frames": 128}}
    assert set_up_name(step, over) == "step5-max_frames=128-topk=0.3"
    twice = {"a": {"x": 1}, "b": {"x": "y/z"}}
    assert set_up_name(step, twice) == "step5-a.x=1-b.x=y_z"


def test_fingerprints(tmp_path):
    video = tmp_path / "a.mp4"
    example = {"video": str(video), "question": "q", "subtitle": {(0.5, 2.0): "hello"}}
    absent = example_fingerprint(example)
    video.write_bytes(b"12")
    there = example_fingerprint(example)
    assert there != absent
    moved = tmp_path / "moved" / "a.mp4"
    moved.parent.mkdir()
    moved.write_bytes(b"34")
    assert example_fingerprint({**example, "video": str(moved)}) == there  # same name and size
    other = moved.rename(tmp_path / "b.mp4")
    assert example_fingerprint({**example, "video": str(other)}) != there
    frames = {**example, "video": str(moved.parent)}
    seen = {example_fingerprint(frames)}
    for name in ("0.jpg", "1.jpg"):
        (moved.parent / name).write_bytes(b"12")
        seen.add(example_fingerprint(frames))
    assert len(seen) == 3
    for change in ({"question": "r"}, {"subtitle": {(0.5, 2.5): "hello"}}, {"style": "x"}):
        assert example_fingerprint({**example, **change}) != there


def test_a_store_knows_its_rows_by_fingerprint(tmp_path):
    store = TaskStore(tmp_path / "task", "key" * 22)
    rows = [prediction(i, fingerprint=f"f{i}") for i in range(3)]
    store.write({"cache_key": store.key}, rows)
    assert store.finished({0: "f0", 1: "other", 5: "f5"}) == {0: rows[0]}
    other = TaskStore(store.folder, "other" * 13)
    assert other.metrics() is None and other.finished({0: "f0"}) == other.answered({0: "f0"}) == {}
    rescored = TaskStore(store.folder, store.key[:HALF] + "x" * HALF)
    assert rescored.metrics() is None and rescored.finished({0: "f0"}) == {}
    assert rescored.answered({0: "f0", 1: "other"}) == {0: rows[0]}
    store.write({"cache_key": store.key}, rows[1:2])  # a smaller run: the other answers stay
    assert store.finished(dict(enumerate(("f0", "f1")))) == {1: rows[1]}
    assert rescored.answered(dict(enumerate(("f0", "f1", "x")))) == dict(enumerate(rows[:2]))
    store.write({"cache_key": store.key}, rows)
    assert not list(store.folder.glob("answers-*"))


@pytest.mark.parametrize(
    "text",
    ["{", "[", "[[1]]", "3", "null", '[{"index": 0}]', '{"a": 1}', '["x"]', "\xff", "[" * 9999],
)
def test_broken_files_of_results_are_replaced(plan, text):
    """Whatever stands in them: the answers are made anew, and no other is lost."""
    run_evaluation(plan, CPU)
    expected, folder = files(plan), plan.folder / "fake"
    rows = json.loads((folder / "predictions.json").read_text())
    (folder / "predictions.json").write_text(text, encoding="latin-1")
    run_evaluation(plan, CPU)
    assert files(plan) == expected
    for key, value in (("index", []), ("prediction", 3), ("correct", "x"), ("seconds", 1)):
        broken = [{**rows[0], key: value}, *rows[1:]]
        (folder / "predictions.json").write_text(json.dumps(broken))
        plan.answered.clear()
        run_evaluation(plan, CPU)
        assert files(plan) == expected and len(plan.answered) == 1, key
    (folder / "metrics.json").write_text(text, encoding="latin-1")
    run_evaluation(plan, CPU)
    assert files(plan) == expected


@pytest.mark.parametrize("change", [{"metric": "short_answer"}, {"macro": "e"}])
def test_a_change_of_the_scoring_keeps_the_answers(plan, change):
    """Questions of the fake have options or not: by the other metric some have no reference."""
    run_evaluation(plan, CPU)
    before = json.loads((plan.folder / "fake" / "predictions.json").read_text())
    plan.tasks[0] = replace(TASK, **change)
    run_evaluation(plan, CPU)
    assert len(plan.loads) == 1 and len(plan.answered) == 6
    expected = files(plan)
    plan.config.max_examples = 2  # a smaller run, by the first metric: the other answers stay
    plan.tasks[0] = TASK
    assert run_evaluation(plan, CPU).metrics[0]["n"] == 2
    plan.config.max_examples = 6
    (again,) = run_evaluation(plan, CPU).metrics
    assert len(plan.answered) == 6 and again["n"] == 6
    plan.tasks[0] = replace(TASK, **change)
    run_evaluation(plan, CPU)
    assert files(plan) == expected and len(plan.answered) == 6
    after = json.loads((plan.folder / "fake" / "predictions.json").read_text())
    answers = {row["index"]: (row["prediction"], row["n_tokens_after"]) for row in before}
    assert len(after) == 6  # those that the metric refuses, too
    assert all(answers[r["index"]] == (r["prediction"], r["n_tokens_after"]) for r in after)
    run_evaluation(plan, CPU)
    assert files(plan) == expected
