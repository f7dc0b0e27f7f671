"""Generation with a sharded model: ranks are threads, and every call of the model is a collective
that all of them have to reach."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from olmo.eval import lockstep
from olmo.eval.lockstep import Lockstep

EOS = 0
CPU = torch.device("cpu")


class World:
    """Sums over threads. A rank that waits for another in vain breaks the barrier."""

    def __init__(self, monkeypatch, size):
        self.size, self.local = size, threading.local()
        self.meet = threading.Barrier(size, timeout=5)
        self.values = [0] * size
        monkeypatch.setattr(lockstep, "all_reduce_sum", self.sum)

    def sum(self, value):
        self.values[self.local.rank] = int(value)
        self.meet.wait()
        total = sum(self.values)
        self.meet.wait()
        return torch.tensor(total)

    def run(self, function):
        def on(rank):
            self.local.rank = rank
            return function(rank)

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(on, range(self.size)))


class Sharded(nn.Module):
    """Counts from the last token of the prompt down to the stop token; calls are collectives."""

    def __init__(self, world=None, limit=50):
        super().__init__()
        self.world, self.calls = world, []
        self.config = SimpleNamespace(llm=SimpleNamespace(max_sequence_length=limit))

    def forward(self, input_ids, topk=None, cache=None, response_mask=None):
        self.together("prefill")
        valid = input_ids >= 0
        positions = valid.cumsum(1) - 1
        last = input_ids[response_mask] if response_mask is not None else input_ids[:, -1]
        return SimpleNamespace(logits=self.next(last), valid=valid, position_ids=positions)

    def decode_step(self, input_ids, position_ids, cache):
        self.together("decode")
        return self.next(input_ids[:, -1])

    def next(self, tokens):
        return torch.nn.functional.one_hot((tokens - 1).clamp(min=0), 60).float()

    def together(self, name):
        self.calls.append(name)
        if self.world is not None:
            self.world.meet.wait()


def prompt(*tokens):
    return {"input_ids": torch.tensor([tokens])}


def answer(model, prompts, max_new_tokens=20):
    """What a rank does: its prompts, then idle until all ranks are through."""
    ranked = Lockstep(model, prompt(1) | {"labels": torch.zeros(1)}, CPU)
    found = []
    for one in prompts:
        ranked.anyone(True)
        try:
            found.append(ranked.generate(one, max_new_tokens, [EOS]).token_ids[0].tolist())
        except ValueError as e:
            found.append(str(e)[:8])
    while ranked.anyone(False):
        assert ranked.generate(None, max_new_tokens, [EOS]) is None
    return found


@pytest.mark.parametrize(
    "work",
    [
        [[prompt(5, 9)], [prompt(3)]],  # answers of nine tokens and of three
        [[prompt(4), prompt(2, 7)], [prompt(2)], []],  # a rank without any example
        [[], [prompt(12)], [prompt(1), prompt(1), prompt(6)]],
        [[prompt(3)], [prompt(*range(1, 40)), prompt(5)]],  # a prompt that is too long
    ],
)
def test_no_rank_waits_for_another(monkeypatch, work):
    alone = World(monkeypatch, 1)
    expected = [alone.run(lambda _, w=w: answer(Sharded(), w))[0] for w in work]
    world = World(monkeypatch, len(work))
    models = [Sharded(world) for _ in work]
    assert world.run(lambda rank: answer(models[rank], work[rank])) == expected
    assert all(model.calls == models[0].calls for model in models)
    assert "a prompt" in expected[-1] or all(e[-1] == EOS for one in expected for e in one)


def test_an_error_inside_the_model_is_not_kept(monkeypatch):
    """The others are inside a collective then, so the run has to end."""

    class Broken(Sharded):
        def forward(self, **inputs):
            raise ValueError("counts differ")

    def run(_):
        ranked = Lockstep(Broken(), prompt(1), CPU)
        with pytest.raises(ValueError, match="counts differ"):
            ranked.generate(prompt(5), 3, [EOS])
        return ranked.in_step

    assert World(monkeypatch, 1).run(run) == [False]
