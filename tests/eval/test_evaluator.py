"""The evaluator on a fake model and data set; ranks are threads."""

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from olmo.config import Config, ConfigError
from olmo.data.video_loading import VideoReadError
from olmo.eval import evaluator
from olmo.eval.evaluator import EvalConfig, EvalPlan, EvalSettings, evaluate_task, run_evaluation
from olmo.eval.report import RankResults, merge_ranks
from olmo.eval.tasks import Task

TASK = Task("fake", "fake_set", "test", "question_answering", max_new_tokens=4)
CPU = torch.device("cpu")
EOS = 0


class FakeDataset:
    """Example ``i`` starts with token ``i + 1``; lengths differ."""

    def __init__(self, n=11, broken=()):
        self.n, self.broken = n, broken

    def __len__(self):
        return self.n

    def get(self, idx, rng):
        length = 3 + idx * 7 % 5
        metadata = {"category": "even" if idx % 2 == 0 else "odd", "example_id": f"e{idx}"}
        noise = rng.randint(1000, size=length - 1)
        example = {"input_tokens": np.array([idx + 1, *noise]), "metadata": metadata}
        if idx % 3:
            metadata |= {"options": list("wxyz"), "answer_idx": idx % 4}
            return example
        metadata |= {"answer": "C"}
        return example | {"question": f"what is {idx}?"}


def fake_load_example(dataset, idx, rng, preprocessor, is_training, for_inference):
    assert preprocessor == "preprocessor" and not is_training and for_inference
    if idx in dataset.broken:
        raise VideoReadError(f"clip{idx}.mp4", "no such file")
    return dataset.get(idx, rng)


def fake_collator(examples):
    width = max(len(e["input_tokens"]) for e in examples)
    ids = torch.full((len(examples), width), -1)
    for row, example in zip(ids, examples, strict=True):
        row[: len(example["input_tokens"])] = torch.from_numpy(example["input_tokens"])
    return {"input_ids": ids, "metadata": [e["metadata"] for e in examples]}


class FakeTokenizer:
    eos_id = EOS

    def decode(self, ids, truncate_at_eos=True):
        assert not truncate_at_eos
        return " ".join(chr(i) if 65 <= i < 91 else str(i) for i in ids)


class FakeModelConfig(Config):
    model_name = "fake_model"
    vision_backbone = SimpleNamespace(vit=SimpleNamespace(topk=0.5, prune_at=3))

    def build_tokenizer(self):
        return FakeTokenizer()

    def build_preprocessor(self, tokenizer):
        return "preprocessor"

    def build_collator(self):
        return fake_collator

    def to_dict(self):
        return {"topk": self.vision_backbone.vit.topk}


class FakeModel(nn.Module):
    """Answers with a letter that depends on the example, its noise and the padded width."""

    def generate(self, batch, max_new_tokens, stop_ids):
        assert not self.training and not torch.is_grad_enabled()
        assert stop_ids == [EOS] and set(batch) == {"input_ids"}
        ids = batch["input_ids"]
        n_tokens = (ids >= 0).sum(1)
        letters = 65 + (ids.clamp(min=0).sum(1) + ids.shape[1]) % 4
        tokens = torch.full((len(ids), max_new_tokens), EOS)
        tokens[:, 0] = letters
        tokens[ids[:, 0] == 6, 0] = EOS  # example 5: an empty answer
        timings = {"vision": 0.2 * len(ids), "prefill": 0.4 * len(ids), "decode": 0.1 * len(ids)}
        return SimpleNamespace(token_ids=tokens, n_prompt_tokens=n_tokens - 1, timings=timings)


class Ranks:
    """Threads that take the place of the processes of ``olmo.distributed``."""

    def __init__(self, monkeypatch, world):
        self.world, self.local = world, threading.local()
        self.meet = threading.Barrier(world, timeout=10)
        self.parts, self.box = [None] * world, None
        for name in ("get_rank", "get_world_size", "is_main", "gather_object", "broadcast_object"):
            monkeypatch.setattr(evaluator, name, getattr(self, name))

    def run(self, function):
        def on(rank):
            self.local.rank = rank
            return function()

        with ThreadPoolExecutor(self.world) as pool:
            return list(pool.map(on, range(self.world)))

    def get_rank(self):
        return self.local.rank

    def get_world_size(self):
        return self.world

    def is_main(self):
        return self.local.rank == 0

    def gather_object(self, obj):
        self.parts[self.local.rank] = obj
        self.meet.wait()
        return list(self.parts) if self.is_main() else None

    def broadcast_object(self, obj):
        if self.is_main():
            self.box = obj
        self.meet.wait()
        out = self.box
        self.meet.wait()
        return out


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr(evaluator, "load_example", fake_load_example)
    monkeypatch.setattr(evaluator, "get_dataset", lambda name, split: FakeDataset())


def evaluate(dataset=None, model=None, **settings):
    model = model or FakeModel()
    return evaluate_task(model, FakeModelConfig(), TASK, EvalSettings(**settings), CPU, dataset)


def test_rows_and_metrics():
    model = FakeModel().train()
    result = evaluate(FakeDataset(broken=(2, 9)), model)
    assert model.training
    rows, metrics = result.predictions, result.metrics
    assert [row["index"] for row in rows] == [0, 1, 3, 4, 5, 6, 7, 8, 10]
    assert list(rows[1]) == [
        "index",
        "example_id",
        "question",
        "options",
        "prediction",
        "correct",
        "unparsed",
        "parsed",
        "reference",
        "category",
        "n_tokens_before",
        "n_tokens_after",
    ]
    choice, short, empty = rows[1], rows[2], rows[4]
    assert choice["options"] == list("wxyz") and choice["reference"] == "B"
    assert choice["question"].startswith("2 ")  # no question in the data set: the decoded prompt
    assert short["question"] == "what is 3?" and short["reference"] == "C"
    assert choice["prediction"] in "ABCD" and choice["example_id"] == "e1"
    assert (empty["prediction"], empty["parsed"], empty["unparsed"]) == ("", None, 1)
    assert all(row["n_tokens_after"] == row["n_tokens_before"] - 1 for row in rows)

    assert (metrics["n"], metrics["skipped"], metrics["unparsed"]) == (9, 2, 1)
    assert metrics["accuracy"] == np.mean([row["correct"] for row in rows])
    assert metrics["tokens_after"] == pytest.approx(metrics["tokens_before"] - 1)
    assert set(metrics["categories"]) == {"even", "odd"}
    assert [skip["index"] for skip in metrics["skipped_examples"]] == [2, 9]
    assert "clip2.mp4" in metrics["skipped_examples"][0]["error"]
    assert metrics["model"] == {"model_name": "fake_model", "topk": 0.5, "prune_at": 3}
    seconds = result.timing["seconds_per_example"]
    assert {k: round(seconds[k], 6) for k in ("vision", "prefill", "decode")} == {
        "vision": 0.2,
        "prefill": 0.4,
        "decode": 0.1,
    }


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("settings", [{}, {"max_examples": 5}, {"device_batch_size": 3}])
def test_results_do_not_depend_on_the_number_of_ranks(monkeypatch, world, settings):
    dataset = FakeDataset(broken=(4, 7))
    alone = evaluate(dataset, **settings)
    ranks = Ranks(monkeypatch, world)
    for together in ranks.run(lambda: evaluate(dataset, **settings)):
        assert json.dumps(together.metrics) == json.dumps(alone.metrics)
        assert json.dumps(together.predictions) == json.dumps(alone.predictions)
        assert together.timing["world_size"] == world


def test_workers_change_nothing():
    dataset = FakeDataset(broken=(4,))
    assert evaluate(dataset, num_workers=2).predictions == evaluate(dataset).predictions


def test_limited_runs_nest():
    picks = [
        {row["index"] for row in evaluate(max_examples=n).predictions} for n in (2, 5, 11, 100)
    ]
    assert [len(p) for p in picks] == [2, 5, 11, 11]
    assert picks[0] < picks[1] < picks[2]
    assert {row["index"] for row in evaluate(max_examples=5, seed=1).predictions} != picks[1]


def test_no_readable_video():
    result = evaluate(FakeDataset(3, broken=range(3)))
    assert (result.metrics["n"], result.metrics["skipped"]) == (0, 3)
    assert result.metrics["accuracy"] is None and result.metrics["tokens_after"] is None
    json.dumps(result.metrics, allow_nan=False)


def test_merging_loses_and_doubles_nothing():
    def rows(*indices):
        return RankResults([{"index": i} for i in indices], seconds={"total": [1.0] * len(indices)})

    skipped = RankResults(skipped=[{"index": 1, "error": ""}])
    merged = merge_ranks([rows(3, 0), rows(2), skipped], range(4))
    assert [row["index"] for row in merged.rows] == [0, 2, 3]
    assert merged.seconds == {"total": [1.0] * 3}
    for parts in ([rows(0, 1), rows(1)], [rows(0)], [rows(0, 1, 2)], [rows(0, 1), skipped]):
        with pytest.raises(AssertionError):
            merge_ranks(parts, range(2))


@pytest.mark.parametrize(
    "bad", [{"max_examples": 0}, {"device_batch_size": 0}, {"num_workers": -1}, {"model": 3}]
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        EvalConfig.from_dict({"checkpoint": "x", **bad})
    assert EvalSettings(max_examples=-1).max_examples is None


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A plan for a checkpoint with one file; ``plan.loads`` counts the loaded models."""
    checkpoint = tmp_path / "run" / "step5"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.pt").write_text("weights")
    loads = []

    def load(path, overrides, device, dtype):
        loads.append(path)
        return FakeModel(), FakeModelConfig()

    monkeypatch.setattr(evaluator, "load_model", load)
    config = EvalConfig(checkpoint=str(checkpoint), max_examples=4)
    made = EvalPlan(config, checkpoint, FakeModelConfig(), [TASK], tmp_path / "out")
    made.loads = loads
    return made


def test_files(plan):
    (metrics,) = run_evaluation(plan, CPU)
    folder = plan.folder / "fake"
    assert sorted(f.name for f in folder.iterdir()) == ["metrics.json", "predictions.json"]
    written = json.loads((folder / "metrics.json").read_text())
    assert written == metrics and written["checkpoint"].endswith("step5")
    assert len(json.loads((folder / "predictions.json").read_text())) == written["n"] == 4

    first = {f.name: f.read_text() for f in folder.iterdir()}
    plan.config.overwrite = True
    run_evaluation(plan, CPU)
    assert (folder / "predictions.json").read_text() == first["predictions.json"]
    before, after = (
        text.partition('"timing"')[0]
        for text in (first["metrics.json"], (folder / "metrics.json").read_text())
    )
    assert before == after


def test_finished_results_are_reused(plan):
    first = run_evaluation(plan, CPU)
    assert run_evaluation(plan, CPU) == first
    assert len(plan.loads) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: setattr(plan.config, "overwrite", True),
        lambda plan: setattr(plan.config, "max_examples", 3),
        lambda plan: setattr(plan.config, "max_new_tokens", 9),
        lambda plan: setattr(plan.config, "seed", 1),
        lambda plan: setattr(plan.model_config, "to_dict", lambda: {"topk": 0.3}),
        lambda plan: plan.tasks.__setitem__(0, replace(TASK, split="validation")),
        lambda plan: (plan.checkpoint / "model.pt").write_text("other weights"),
        lambda plan: (plan.checkpoint / "more.pt").write_text(""),
        lambda plan: (plan.folder / "fake" / "metrics.json").write_text("{"),
    ],
)
def test_results_of_another_set_up_are_replaced(plan, change):
    run_evaluation(plan, CPU)
    change(plan)
    (again,) = run_evaluation(plan, CPU)
    assert len(plan.loads) == 2
    written = json.loads((plan.folder / "fake" / "metrics.json").read_text())
    assert math.isclose(written["accuracy"], again["accuracy"])
    assert written["cache_key"] == again["cache_key"]


def test_ranks_share_one_reading_of_the_cache(plan, monkeypatch):
    ranks = Ranks(monkeypatch, 2)
    first = ranks.run(lambda: run_evaluation(plan, CPU))
    assert first[0][0]["cache_key"] == first[1][0]["cache_key"]
    assert len(plan.loads) == 2  # one model per rank
    ranks.run(lambda: run_evaluation(plan, CPU))
    assert len(plan.loads) == 2
