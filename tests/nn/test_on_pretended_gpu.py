"""The benchmark's stages and generation on a pretended GPU: the CPU's results, and few waits.

``pytest -m slow -n 0 -s tests/nn/test_on_pretended_gpu.py`` prints what was counted and where.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from olmo.benchmark.plan import DENSE, STAGES, ModelSpec, Setting
from olmo.benchmark.work import Inputs, Outcome, run_stage
from olmo.models.molmo2.molmo2 import Molmo2
from olmo.nn.generate import GenerateOutput
from olmo.nn.kv_cache import KVCache
from tests.models.conftest import PRUNING, VOCAB, build, collate, text_row, video_row
from tests.pretended_gpu import PretendedGpu, pretended_gpu, to_gpu, to_host

pytestmark = pytest.mark.slow

WAITS = {"vit": 1, "backbone": 1, "prefill": 2, "train": 2}
"""Most host waits of the model in one pass over two videos, whatever the setting and type: one
when the survivors are known, one when the language model's row is."""
TOKENS = {"plain": ((5, 7), 0.0), "replayed": ((24, 32), 1 / 8)}
"""Of generation, before and after a step is captured as a graph: two numbers of tokens, between
which the cost of one more is taken, and the most host waits for it."""
SETTINGS = (
    DENSE,
    Setting(0.5),
    Setting(0.5, "scorer", "packed+refill"),
    Setting(0.5, "evs"),
    Setting(0.5, "heuristic"),
    Setting(0.5, "random"),
)
CASES = [(s, x) for s in WAITS for x in SETTINGS if x.applies(STAGES[s])]
BOUNDS = {"float32": (1e-6, 1e-5), "bfloat16": (0.04, 0.1)}
"""Relative error of values and of gradients. Measured: 0 and 8e-7 in float32, 0.02 and 0.04 in
bfloat16, where the device keeps float32 inside attention."""
SEEDS = {"evs": 135}
"""Of the videos, else 42. The last score kept and the first removed differ by 0.008 or more (evs
0.07), and scores in bfloat16 from those in float32 by at most 0.002 (evs 0.015): both devices
remove the same."""


@dataclass
class Run:
    """One pass: its outcome, the gradients by name, and the device with its counts."""

    out: Outcome
    grads: dict[str, Tensor]
    gpu: PretendedGpu | None


def one_pass(name: str, setting: Setting, dtype: str, gpu: PretendedGpu | None) -> Run:
    """On a device one pass goes before, over fewer frames: what a process does once for all is
    not counted, what it does for each new shape is."""
    stage = STAGES[name]
    model = setting.of(ModelSpec("tiny", dtype=dtype).build()).train(stage.trains)
    inputs = Inputs.make(model.config, 4, 2, SEEDS.get(setting.method, 42))
    if gpu is not None:
        run_stage(to_gpu(model), moved(Inputs.make(model.config, 3, 2)), stage)
        model.zero_grad()
        inputs = moved(inputs)
        gpu.reset()
    out = run_stage(model, inputs, stage)
    grads = {n: to_host(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    return Run(out, grads, gpu)


def moved(inputs: Inputs) -> Inputs:
    names = ("images", "token_pooling", "input_ids", "answer")
    return dataclasses.replace(inputs, **{n: getattr(inputs, n).to("cuda") for n in names})


@cache
def on_gpu(name: str, setting: Setting, dtype: str) -> Run:
    with pretended_gpu() as gpu:
        return one_pass(name, setting, dtype, gpu)


def report(title: str, gpu: PretendedGpu) -> None:
    waits, uploads, launches = gpu.waits.total(), gpu.uploads.total(), gpu.launches.total()
    print(f"\n{title}: {waits} waits, {uploads} uploads, {launches} launches")
    for what, n in gpu.waits.most_common():
        print(f"    {n:3} {what}")


def label(value: object) -> str:
    return value.label.replace(" ", "-") if isinstance(value, Setting) else str(value)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("name", "setting"), CASES, ids=label)
def test_a_stage_gives_what_the_cpu_gives(name: str, setting: Setting, dtype: str) -> None:
    """The same cells stay; values, and each parameter's gradient, within the bounds. A gradient
    that is next to nothing is measured by the largest one."""
    device, cpu = on_gpu(name, setting, dtype), one_pass(name, setting, dtype, None)
    bound, grad_bound = BOUNDS[dtype]
    assert torch.equal(to_host(device.out.keep), cpu.out.keep)
    assert device.out.n_features == cpu.out.n_features
    assert device.out.row_lengths == cpu.out.row_lengths
    values, expected = to_host(device.out.values).float(), cpu.out.values.float()
    assert (values - expected).norm() <= bound * expected.norm()
    assert device.grads.keys() == cpu.grads.keys()
    assert bool(cpu.grads) == STAGES[name].trains
    largest = max((g.float().norm() for g in cpu.grads.values()), default=torch.zeros(()))
    for parameter, grad in cpu.grads.items():
        error = (device.grads[parameter].float() - grad.float()).norm()
        size = torch.maximum(grad.float().norm(), 0.1 * largest)
        assert error <= grad_bound * size, f"{parameter}: {error / size:.1e}"


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("name", "setting"), CASES, ids=label)
def test_host_waits_of_a_stage(name: str, setting: Setting, dtype: str) -> None:
    """And cuDNN's attention, which plans for each new shape, is never allowed."""
    gpu = on_gpu(name, setting, dtype).gpu
    assert gpu is not None
    report(f"{name}, {setting.label}, {dtype}", gpu)
    of_model = {line: n for line, n in gpu.waits.items() if "olmo/benchmark" not in line}
    assert sum(of_model.values()) <= WAITS[name], gpu.waits
    assert not any("CUDNN_ATTENTION" in call.backends for call in gpu.sdpa_calls)


def generated(model: Molmo2, n_tokens: int, gpu: PretendedGpu | None) -> GenerateOutput:
    """Answers to a video and a text, no row of which stops."""
    batch = collate(video_row(3, 0), text_row(4, 1))
    if gpu is not None:
        host = ("num_images", "multimodal_type")
        batch = {k: v if k in host else v.to("cuda") for k, v in batch.items()}
        gpu.reset()
    return model.generate(batch, n_tokens, [VOCAB + 100])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("phase", TOKENS)
@pytest.mark.parametrize("name", ["dense", "pruned"])
def test_generation(name: str, phase: str, dtype: torch.dtype) -> None:
    """float32: the tokens and scores of the CPU. Both: the counts of one token more."""
    (few, many), most_waits = TOKENS[phase]
    changes = () if name == "dense" else (PRUNING,)
    expected = generated(build(*changes).to(dtype), many, None)
    waits, launches = [], []
    for n in (few, few, many):  # the first one also does what a process does once
        with pretended_gpu() as gpu:
            out = to_host(dataclasses.asdict(generated(to_gpu(build(*changes).to(dtype)), n, gpu)))
        waits.append(gpu.waits)
        launches.append(gpu.launches)
    assert torch.equal(out["n_prompt_tokens"], expected.n_prompt_tokens)
    if dtype == torch.float32:
        assert torch.equal(out["token_ids"], expected.token_ids)
        torch.testing.assert_close(out["scores"], expected.scores)
    report(f"generate {many} tokens, {name}, {dtype}", gpu)
    more = [(b.total() - a.total()) / (many - few) for a, b in (waits[1:], launches[1:])]
    print(f"    one token more, {phase}: {more[0]:g} waits, {more[1]:g} launches")
    assert more[0] <= most_waits, waits[2] - waits[1]


def test_text_on_the_host_costs_no_wait() -> None:
    """Also if only a part of its fields lies there."""
    batch = collate(video_row(3, 0), video_row(2, 1), text_row(4, 1))
    valid = batch["input_ids"] >= 0
    want = build(PRUNING)(**batch).logits[:, 0].detach()
    visual = {k: v.to("cpu") for k, v in batch.items()}
    for mask, waits in ((valid, 1), (valid, 2)):
        with pretended_gpu() as gpu, torch.no_grad():
            model = to_gpu(build(PRUNING))
            on_gpu = {k: visual[k].to("cuda") for k in ("images", "token_pooling")}
            given = mask.to("cuda") if waits == 2 else mask
            gpu.reset()
            out = model(**visual | on_gpu, attention_mask=given)
            assert gpu.waits.total() == waits, gpu.waits
            torch.testing.assert_close(to_host(out.logits[:, 0]), want)


def test_launches() -> None:
    """Of a ViT block under autocast; and of one layer of the language model for one token, the norm
    counted once: a GPU has one kernel for it, which the device here does not pretend."""
    llm = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
    counts = []
    for n_layers in (2, 4):
        overrides = {"llm": llm | {"n_layers": n_layers}}
        model = DENSE.of(ModelSpec("tiny", dtype="bfloat16", overrides=overrides).build()).eval()
        cache, token = KVCache(room=1), torch.zeros(1, 1, dtype=torch.int64)
        with pretended_gpu() as gpu, torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            to_gpu(model)
            frames = torch.randn(2, 81, 64).to("cuda", torch.bfloat16)
            gpu.reset()
            model.vision_backbone.image_vit.blocks[0](frames)
            assert gpu.launches.total() <= 12, gpu.launches
            for layer in range(n_layers):
                cache.append(layer, *torch.randn(2, 1, 20, 2, 16).to("cuda", torch.bfloat16))
            cache.start(torch.full((1,), 20).to("cuda"))
            gpu.reset()
            model.decode_step(token.to("cuda"), token.to("cuda"), cache)
            norms = 7 * gpu.launches["rsqrt"]  # cast, square, mean, add, rsqrt, product, cast
            counts.append(gpu.launches.total() - norms + gpu.launches["rsqrt"])
    assert (counts[1] - counts[0]) / 2 <= 28, counts
