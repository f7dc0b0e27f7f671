"""The lmms-eval plug-in: against the package where it is installed, else its interface.

The package's own run (``python -m lmms_eval``) must give the answers of ``evaluate_task``.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import types
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from olmo.data.datasets.synthetic.video import SyntheticVideoQA
from olmo.eval.answer import raw_example
from olmo.eval.evaluate import evaluate_task
from olmo.eval.settings import EvalSettings
from olmo.eval.tasks import Task
from olmo.models.loading import load_model

ROOT = Path(__file__).parents[2]
INSTALLED = find_spec("lmms_eval") is not None


@dataclass
class FakeManifest:
    model_id: str
    simple_class_path: str | None = None


@dataclass
class FakeCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class FakeResult:
    text: str
    token_counts: Any = None


class FakeModel:
    """The interface of ``lmms_eval.api.model.lmms``."""

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}
        self.rank = 0
        self.cache_hook = SimpleNamespace(add_partial=lambda *args: None)


@dataclass
class FakeInstance:
    args: tuple[Any, ...] = field(default_factory=tuple)


@pytest.fixture
def adapter(monkeypatch):
    """The module, on the package or on stand-ins with its documented names."""
    if not INSTALLED:
        for name, content in {
            "lmms_eval": {},
            "lmms_eval.api": {},
            "lmms_eval.api.instance": {
                "GenerationResult": FakeResult,
                "Instance": FakeInstance,
                "TokenCounts": FakeCounts,
            },
            "lmms_eval.api.model": {"lmms": FakeModel},
            "lmms_eval.models": {},
            "lmms_eval.models.registry_v2": {"ModelManifest": FakeManifest},
        }.items():
            module = types.ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "olmo.eval.lmms_eval_adapter", raising=False)
    threads = torch.get_num_threads()
    yield importlib.import_module("olmo.eval.lmms_eval_adapter")
    torch.set_num_threads(threads)
    if not INSTALLED:
        sys.modules.pop("olmo.eval.lmms_eval_adapter", None)


def docs(n: int, root: Path) -> list[dict[str, Any]]:
    """Questions as a harness hands them over: finished text and a video."""
    dataset = SyntheticVideoQA("test", 2, root=root)
    found = [raw_example(dataset, i, 0) for i in range(n)]
    return [{"video": e["video"], "question": e["question"]} for e in found]


class Questions:
    """The same questions as a data set of ours."""

    def __init__(self, found: list[dict[str, Any]]) -> None:
        self.found = found

    def __len__(self) -> int:
        return len(self.found)

    def get(self, idx: int, rng: Any) -> dict[str, Any]:
        return {**self.found[idx], "style": "video_eval_multiple_choice", "answer": "none"}


def expected(checkpoint: Path, found: list[dict[str, Any]], topk: float) -> list[str]:
    model, config = load_model(checkpoint, {"vision_backbone": {"vit": {"topk": topk}}})
    task = Task("x", "x", "test", "short_answer", 16)
    torch.set_num_threads(1)
    result = evaluate_task(
        model, config, task, EvalSettings(), torch.device("cpu"), Questions(found)
    )
    return [one.prediction for one in result.predictions]


def request(adapter, found, i, **options):
    options = {"max_new_tokens": 16, "until": ["\n\n"], **options}
    args = (found[i]["question"], options, lambda doc: [doc["video"]], i, "task", "test")
    if INSTALLED:
        return adapter.Instance(
            "generate_until", args, 0, {"task": "task", "doc_id": i, "repeats": 1}
        )
    return adapter.Instance(args)


def test_answers_are_those_of_our_own_evaluation(adapter, scored_checkpoint, tmp_path):
    found = docs(4, tmp_path)
    model = adapter.Molmo2Stts(str(scored_checkpoint), device="cpu", topk=0.3)
    model.task_dict = {"task": {"test": found}}
    answers = model.generate_until([request(adapter, found, i) for i in range(4)])
    assert [a.text for a in answers] == expected(scored_checkpoint, found, 0.3)
    assert all(a.token_counts.input_tokens > 50 for a in answers)
    with pytest.raises(ValueError, match="greedily"):
        model.generate_until([request(adapter, found, 0, temperature=0.7)])
    with pytest.raises(NotImplementedError):
        model.loglikelihood([])


def test_manifest_names_the_model(adapter):
    manifest = adapter.manifest()
    assert manifest.model_id == "molmo2_stts"
    assert manifest.simple_class_path == "olmo.eval.lmms_eval_adapter.Molmo2Stts"


def test_model_args_become_overrides(adapter):
    given = {"topk": 0.3, "max_frames": 128, "llm.max_sequence_length": 9, "model.a.b": 1}
    assert adapter.nested_overrides(given) == {
        "vision_backbone": {"vit": {"topk": 0.3}},
        "mm_preprocessor": {"max_frames": 128},
        "llm": {"max_sequence_length": 9},
        "a": {"b": 1},
    }
    with pytest.raises(ValueError, match="dtype 'int8'"):
        adapter.Molmo2Stts("nowhere", dtype="int8")


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs lmms-eval")
@pytest.mark.parametrize("processes", [1, 2])
def test_run_through_the_harness(scored_checkpoint, tmp_path, processes):
    """``python -m lmms_eval`` finds the model by its entry point and gives the same answers, also
    with the questions divided among processes."""
    found = docs(5, tmp_path)
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(d) + "\n" for d in found))
    plugin = tmp_path / "path" / "plugin-0.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 0\n")
    entry = "molmo2_stts = olmo.eval.lmms_eval_adapter:manifest"
    (plugin / "entry_points.txt").write_text(f"[lmms_eval.models]\n{entry}\n")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "utils.py").write_text("def visual(doc):\n    return [doc['video']]\n")
    (tasks / "tiny_video.yaml").write_text(
        f"""task: tiny_video
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "docs.jsonl"}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: "{{{{question}}}}"
doc_to_target: "none"
generation_kwargs: {{max_new_tokens: 16, until: ["\\n\\n"]}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
    )
    args = f"pretrained={scored_checkpoint},topk=0.3,device=cpu"
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    launch = launch if processes > 1 else []
    command = [
        sys.executable,
        *launch,
        "-m",
        "lmms_eval",
        "--model",
        "molmo2_stts",
        "--model_args",
        args,
    ]
    command += ["--tasks", "tiny_video", "--include_path", str(tasks), "--batch_size", "1"]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    path = os.pathsep.join([str(tmp_path / "path"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HOME": str(tmp_path / "hf")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    files = list((tmp_path / "out").rglob("*samples_tiny_video.jsonl"))
    assert done.returncode == 0 and files, done.stdout[-3000:] + done.stderr[-3000:]
    rows = sorted(map(json.loads, files[0].read_text().splitlines()), key=lambda r: r["doc_id"])
    answers = [row["filtered_resps"] for row in rows]
    assert answers == expected(scored_checkpoint, found, 0.3)
