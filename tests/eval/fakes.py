"""A fake model and data set for tests of the evaluator; ranks are threads."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from olmo.config import Config
from olmo.data.video_loading import VideoReadError
from olmo.eval import answer, evaluate, own_data, run
from olmo.eval.prediction import Prediction
from olmo.eval.tasks import Task
from olmo.preprocessing.chat import DataFormatterConfig

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
        if idx in self.broken:
            example["video"] = f"clip{idx}.mp4"
        if idx % 3:
            metadata |= {"options": list("wxyz"), "answer_idx": idx % 4}
            return example
        metadata |= {"answer": "C"}
        return example | {"question": f"what is {idx}?"}


def fake_prepare(example, preprocessor, rng=None):
    assert preprocessor == "preprocessor" and rng is None
    if "video" in example:
        raise VideoReadError(example["video"], "no such file")
    return example


def fake_collator(examples):
    width = max(len(e["input_tokens"]) for e in examples)
    ids = torch.full((len(examples), width), -1)
    for row, example in zip(ids, examples, strict=True):
        row[: len(example["input_tokens"])] = torch.from_numpy(example["input_tokens"])
    return {"input_ids": ids, "metadata": [e["metadata"] for e in examples]}


class FakeTokenizer:
    eos_id = EOS

    def before_end(self, ids):
        return list(itertools.takewhile(lambda i: i != EOS, ids))

    def decode(self, ids, truncate_at_eos=True):
        assert not truncate_at_eos
        return " ".join(chr(i) if 65 <= i < 91 else str(i) for i in ids)


class FakeModelConfig(Config):
    model_name = "fake_model"
    vision_backbone = SimpleNamespace(vit=SimpleNamespace(topk=0.5, prune_at=3))
    mm_preprocessor = SimpleNamespace(video=SimpleNamespace(max_frames=8))
    data_formatter = DataFormatterConfig()

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
        self.parts = [None] * world
        for name in ("get_rank", "get_world_size", "is_main", "gather", "from_main"):
            for module in (answer, evaluate, run):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, getattr(self, name))

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

    def gather(self, obj):
        self.parts[self.local.rank] = obj
        self.meet.wait()
        out = list(self.parts)
        self.meet.wait()
        return out

    def from_main(self, action):
        return self.gather(action() if self.is_main() else None)[0]


def prediction(index, correct=1, **more):
    """A scored answer."""
    about = {"question": "which?", "prediction": "A", "n_tokens_before": 10, "n_tokens_after": 6}
    given = about | {"example_id": f"e{index}", "parsed": "A", **more}
    return Prediction(index=index, correct=correct, **given)


def install(monkeypatch):
    """Put the fakes in the place of data loading and of the registry."""
    monkeypatch.setattr(answer, "prepare", fake_prepare)
    monkeypatch.setattr(own_data, "get_dataset", lambda name, split: FakeDataset())
