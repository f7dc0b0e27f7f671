"""The benchmark: what it runs, what it refuses, and what it makes of the times."""

from __future__ import annotations

import dataclasses
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch

import olmo.benchmark.checks as checks
import olmo.benchmark.measure as measure
from olmo.benchmark.checks import Bench
from olmo.benchmark.clock import Clock, model_parts, split_parts
from olmo.benchmark.measure import Options, run_plans
from olmo.benchmark.memory import PeakMemory, can_measure_cpu, cpu_peak
from olmo.benchmark.plan import DENSE, PRESETS, STAGES, SUITES, Group, ModelSpec, Plan, Setting
from olmo.benchmark.report import Report
from olmo.benchmark.results import Runs, compare, summarize
from olmo.benchmark.stock import Stock, stock_state
from olmo.benchmark.work import Inputs, round_inputs, run_stage, stage_work
from olmo.eval.timing import Spread, take_turns
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from tests.pretended_gpu import pretended_gpu

SPEC = ModelSpec("tiny")
RAGGED, PACKED = Setting(0.5), Setting(0.5, layout="packed")


@pytest.fixture(scope="module")
def model() -> TemporalVideoOlmo:
    return SPEC.build()


# --- turns, settings, inputs -------------------------------------------------------------------


def test_everyone_gets_every_place():
    rounds = list(take_turns(["a", "b", "c"], 3))
    assert [counts for counts, _ in rounds] == [False, True, True, True]
    assert [order for _, order in rounds[:3]] == [list("abc"), list("bca"), list("cab")]
    assert Spread.of([3.0, 1.0, 2.0, 9.0, 2.5]) == Spread(2.5, 1.0, 9.0)


def test_settings_are_all_combinations():
    found = Plan((), (), (0.3, 0.5), ("scorer", "evs"), ("ragged", "packed")).settings()
    assert [s.label for s in found] == [
        "dense",
        "scorer ragged 0.3",
        "scorer ragged 0.5",
        "scorer packed 0.3",
        "scorer packed 0.5",
        "evs ragged 0.3",  # has no layout
        "evs ragged 0.5",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ("vti",)}, "stages: 'vti' is not one of vit, backbone"),
        ({"methods": ("best",)}, "methods: 'best' is not one of scorer"),
        ({"layouts": ("loose",)}, "layouts: 'loose' is not one of ragged, packed"),
        ({"topk": (1.0,)}, r"share to remove, in \[0, 1\): got 1.0"),
        ({"frames": (0,)}, "frames must be at least 1"),
        ({"new_tokens": 1}, "new_tokens must be at least 2, got 1"),
        ({"frames": (64, 9), "vary": True}, "vary needs at least 10 frames, got 9"),
    ],
)
def test_wrong_plans(change: dict[str, Any], message: str):
    plan = Plan(("vit",), (4,), (0.5,))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(plan, **change).groups()


def test_a_method_that_prunes_behind_the_vit_has_no_vit_stage():
    plan = Plan(("vit", "backbone"), (4,), (0.5,), ("evs",))
    assert [len(g.settings) for g in plan.groups()] == [1, 2]


def test_inputs(model: TemporalVideoOlmo):
    a, b = (Inputs.make(model.config, 6, 2, seed=3) for _ in range(2))
    assert a.digest() == b.digest() != Inputs.make(model.config, 6, 2, seed=4).digest()
    b.images[1, 5, 80, 2] ^= 1
    assert a.digest() != b.digest()
    assert a.n_kept(model.config, DENSE) == 54 and a.n_kept(model.config, RAGGED) == 27
    assert a.n_text_tokens == 6 * 8 + 128
    new = (a.images[:, 1:] != a.images[:, :-1]).any(-1).float().mean(-1)
    assert new.min() < 0.3 and new.max() > 0.7  # frames differ in how much is new


def test_presets():
    config = ModelSpec("molmo2_4b").config()
    large = config.build("meta")
    scorer = large.vision_backbone.image_vit.scorer
    assert scorer is not None
    n_scorer = sum(p.numel() for p in scorer.parameters())
    assert sum(p.numel() for p in large.parameters()) - n_scorer == 4_461_913_040
    small = ModelSpec("small").config().vision_backbone
    assert small.vit.image_num_patch == (27, 27) and small.vit.image_emb_dim == 192
    assert max(small.read_layers()) + 1 == 12
    assert {suite.preset for suite in SUITES.values()} <= set(PRESETS)
    for suite in SUITES.values():
        assert [plan.groups() for plan in suite.plans]


# --- clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["prefill", "train"])
def test_parts_of_a_run(model: TemporalVideoOlmo, stage: str):
    inputs, clock = Inputs.make(model.config, 4, 1), Clock()
    model = RAGGED.of(model)
    model.train(STAGES[stage].trains)
    with clock.watch(*model_parts(model)):
        run_stage(model, inputs, STAGES[stage], clock)
    names = [name for name, _ in clock._marks]
    assert names.count("whole blocks") == 2 and names.count("pruned blocks") == 4
    parts = split_parts(clock.seconds, total=9.0)
    backward = ["backward"] if stage == "train" else []
    assert list(parts) == [
        *("embedding", "whole blocks", "scorer", "planning", "pruned blocks"),
        *("connector", "llm", *backward, "other"),
    ]
    assert sum(parts.values()) == pytest.approx(9.0)
    assert min(parts.values()) >= 0
    model.zero_grad()


def test_a_watched_model_is_left_as_it_was(model: TemporalVideoOlmo):
    vit = model.vision_backbone.image_vit
    with Clock().watch(*model_parts(model)):
        assert "forward" in vars(vit.blocks[0])
    for owner in (model.vision_backbone, model.transformer, vit, *vit.blocks):
        assert not {"forward", "embed", "connect", "method_scores"} & set(vars(owner))


# --- measuring ---------------------------------------------------------------------------------


def test_speedup():
    assert compare([4.0, 6.0, 5.0], [2.0, 4.0, 1.0]) == Spread(2.5, 1.5, 5.0)


def test_results(monkeypatch: pytest.MonkeyPatch):
    ticks = iter(range(10_000))
    monkeypatch.setattr(measure, "device_seconds", lambda device: float(next(ticks)))
    plan = Plan(("vit", "prefill"), (4,), (0.5,), batch_sizes=(1, 2))
    found = list(run_plans([plan], SPEC, Options(repeats=2)))
    assert [(r[0].stage, r[0].n_rows) for r in found] == [
        *(("vit", 1), ("vit", 2), ("prefill", 1), ("prefill", 2))
    ]
    for dense, pruned in found:
        assert dense.setting == DENSE and dense.speedup is None and dense.ceiling == 1
        assert pruned.speedup == Spread(1.0, 1.0, 1.0)  # by this watch every run takes a second
        assert pruned.rounds == [1.0, 1.0] and pruned.problem is None
        assert pruned.ceiling > 1
        assert pruned.reached == pytest.approx(1 / pruned.ceiling)
        assert (pruned.cells, pruned.all_cells) == (18, 36)
    assert found[1][1].flops["vit"] == 2 * found[0][1].flops["vit"]


def test_decoding(model: TemporalVideoOlmo):
    """Against transformers too, on shapes that change with every round."""
    plan = Plan(("decode", "vit"), (12,), (0.5,), vary=True, new_tokens=5)
    (dense, theirs, pruned), vit = run_plans([plan], SPEC, Options(2, baseline="transformers"))
    assert [r.setting for r in vit] == [DENSE, RAGGED]
    for r in (dense, theirs, pruned):
        assert r.problem is None and r.shapes == "varying" and set(r.parts) == {"prefill", "decode"}
        assert r.seconds is not None and r.seconds.median == pytest.approx(sum(r.rounds) / 2)
        assert r.rates["ms/token"] == pytest.approx(1000 * r.seconds.median / 4)
        assert r.rates["GB/s"] == pytest.approx(r.bytes / r.seconds.median / 1e9)
    assert theirs.bytes == dense.bytes and theirs.ceiling == 1
    assert pruned.ceiling == pytest.approx(dense.bytes / pruned.bytes) and pruned.ceiling > 1
    assert pruned.speedup is not None and pruned.speedup_over_best is not None
    faster = min(sum(dense.rounds), sum(theirs.rounds))
    assert pruned.speedup_over_best.median == pytest.approx(faster / sum(pruned.rounds))


def test_varying_shapes(model: TemporalVideoOlmo):
    """Every round is new, in 90 to 100% of the frames, and the same for the same seed."""
    group = Group("prefill", 20, 2, (DENSE,), vary=True)
    found = round_inputs(group, model, 8, seed=1)
    shapes = [(x.n_frames, x.n_rows, x.input_ids.shape[1]) for x in found]
    assert len({length for *_, length in shapes}) == 8
    assert {n for n, *_ in shapes} == {18, 19, 20} and {rows for _, rows, _ in shapes} == {2}
    again = round_inputs(group, model, 8, seed=1)
    assert [x.digest() for x in found] == [x.digest() for x in again]
    assert len(round_inputs(dataclasses.replace(group, vary=False), model, 8, seed=1)) == 1


def test_stock_transformers_takes_no_memory_for_weights(model: TemporalVideoOlmo):
    ours = {p.untyped_storage().data_ptr() for p in model.parameters()}
    state = stock_state(model)
    copied = [k for k, v in state.items() if v.untyped_storage().data_ptr() not in ours]
    assert copied == ["model.language_model.embed_tokens.weight"]
    theirs = Stock(model).model
    assert {k: v.data_ptr() for k, v in theirs.state_dict().items() if k not in copied} == {
        k: v.data_ptr() for k, v in state.items() if k not in copied
    }
    assert not any(t.is_meta for t in (*theirs.parameters(), *theirs.buffers()))


def test_memory_of_training_stages(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def peak(spec: ModelSpec, group: Group, setting: Setting, threads: int) -> PeakMemory:
        if setting == PACKED:
            raise BrokenProcessPool
        return PeakMemory(400 if setting == DENSE else 100, 1)

    monkeypatch.setattr(measure, "cpu_peak", peak)
    plan = Plan(("vit", "train_vit"), (4,), (0.5,), layouts=("ragged", "packed"))
    forward, (dense, ragged, packed) = run_plans([plan], SPEC, Options(repeats=1))
    assert [r.memory for r in forward] == [None] * 3
    assert dense.memory == PeakMemory(400, 1) and dense.memory_share is None
    assert ragged.memory_share == 0.25
    assert packed.memory is None and packed.speedup is not None
    assert "train_vit, scorer packed 0.5: its process was killed" in caplog.text


def test_flops_of_a_stage(model: TemporalVideoOlmo):
    inputs = Inputs.make(model.config, 4, 1)
    vit, backbone, prefill, train = (
        stage_work(model, inputs, DENSE, STAGES[s]).flops
        for s in ("vit", "backbone", "prefill", "train")
    )
    assert vit["connector"] == vit["llm"] == backbone["llm"] == 0
    assert vit["vit"] == backbone["vit"] == prefill["vit"]
    assert backbone["connector"] == prefill["connector"] > 0
    llm = model.config.llm  # 64 logits of the answer in place of one
    assert train["llm"] - prefill["llm"] == 2.0 * 63 * llm.d_model * llm.n_embeddings


def time_tiny(
    model: TemporalVideoOlmo, problems: dict[Setting, str | None]
) -> tuple[Inputs, Group, dict[Setting, Runs]]:
    inputs = Inputs.make(model.config, 4, 1)
    group = Group("vit", 4, 1, tuple(problems))
    return inputs, group, measure.time_group(Bench(model), [inputs], group, problems, 1)


def test_no_speedup_for_a_setting_with_a_problem(model: TemporalVideoOlmo):
    found = time_tiny(model, {DENSE: None, RAGGED: "not the same work: x", PACKED: None})
    dense, ragged, packed = summarize(model, [found[0]], *found[1:])
    assert dense.seconds is not None and packed.speedup is not None
    assert ragged.seconds is None and ragged.speedup is None
    assert ragged.problem == "not the same work: x"


def test_no_speedup_over_a_dense_side_with_a_problem(
    model: TemporalVideoOlmo, monkeypatch: pytest.MonkeyPatch
):
    def too_large(model, *args):
        if not model.config.vision_backbone.vit.prune:
            raise torch.cuda.OutOfMemoryError("too large")
        return run_stage(model, *args)

    monkeypatch.setattr(checks, "run_stage", too_large)
    found = time_tiny(model, {DENSE: None, RAGGED: None})
    dense, ragged = summarize(model, [found[0]], *found[1:])
    assert dense.problem == "out of memory" and ragged.problem == "dense: out of memory"
    assert ragged.seconds is not None and ragged.speedup is None and ragged.reached is None


def test_no_speedup_when_a_run_changes_the_inputs(
    model: TemporalVideoOlmo, monkeypatch: pytest.MonkeyPatch
):
    def careless(model, inputs, *args):
        inputs.images[0, 0, 0, 0] ^= 1
        return run_stage(model, inputs, *args)

    monkeypatch.setattr(checks, "run_stage", careless)
    # one warm-up round and one that counts: an even number of flips would restore the pixel
    found = time_tiny(model, {DENSE: None, RAGGED: "x"})[2]
    assert found[DENSE].problem is None
    monkeypatch.setattr(
        checks, "run_stage", lambda m, i, *a: (i.images.zero_(), run_stage(m, i, *a))[1]
    )
    found = time_tiny(model, {DENSE: None, RAGGED: None})[2]
    assert found[RAGGED].problem == "not the same work: a run changed the inputs"


def test_every_timed_run_is_checked(model: TemporalVideoOlmo, monkeypatch: pytest.MonkeyPatch):
    def lossy(*args):
        out = run_stage(*args)
        return dataclasses.replace(out, values=out.values * torch.nan)

    monkeypatch.setattr(checks, "run_stage", lossy)
    found = time_tiny(model, {DENSE: None})[2]
    assert found[DENSE].problem == "not the same work: the result is not finite"
    assert found[DENSE].seconds == []


MEMORY_RUN = (SPEC, Group("train_vit", 64, 1, (DENSE,)), DENSE, 1)


def plausible(found: PeakMemory) -> bool:
    """Over the input of each linear layer and both sides of the activation; over torch itself."""
    vit = SPEC.config().vision_backbone.vit
    floats = 64 * vit.n_patches * (4 * vit.image_emb_dim + 2 * vit.image_mlp_dim) * 6
    return 4 * floats < found.extra < 8 * 4 * floats and found.baseline > 50 << 20


@pytest.mark.slow
@pytest.mark.skipif(not can_measure_cpu(), reason="needs Linux")
def test_peak_memory_of_a_fresh_process():
    assert plausible(cpu_peak(*MEMORY_RUN))


@pytest.mark.slow
def test_on_a_pretended_gpu():
    """Parts from events (each a millisecond there), memory from the allocator."""
    with pretended_gpu():
        (dense, pruned), decode = run_plans(
            [Plan(("train", "decode"), (4,), (0.5,), new_tokens=4)],
            ModelSpec("tiny", "cuda"),
            Options(repeats=1),
        )
    assert [r.problem for r in (dense, pruned, *decode)] == [None] * 4
    assert dense.parts["whole blocks"] == pytest.approx(0.006)
    assert pruned.parts["pruned blocks"] == pytest.approx(0.004)
    assert pruned.parts["backward"] == pytest.approx(0.001)
    assert dense.memory == PeakMemory(extra=1, baseline=0)


@pytest.mark.gpu
@pytest.mark.parametrize("stage", list(STAGES))
def test_on_a_gpu(stage: str):
    methods = ("scorer", "easy", "heuristic", "random", "evs")
    layouts = ("ragged", "packed", "packed+refill")
    plan = Plan((stage,), (8,), (0.3, 0.8), methods, layouts, (1, 2))
    for dtype in ("float32", "bfloat16"):
        spec = ModelSpec("tiny", "cuda", dtype)
        for result in (r for found in run_plans([plan], spec, Options(2)) for r in found):
            assert result.problem is None, f"{result.setting.label}: {result.problem}"
            assert result.memory is not None and result.memory.extra > 0


# --- output and script -------------------------------------------------------------------------


def test_a_wide_range_is_pointed_out(model: TemporalVideoOlmo):
    found = time_tiny(model, {DENSE: None, RAGGED: None})
    dense, ragged = summarize(model, [found[0]], *found[1:])
    quiet = dataclasses.replace(ragged, speedup=Spread(1.5, 1.45, 1.55))
    noisy = dataclasses.replace(ragged, speedup=Spread(1.5, 1.0, 2.0))
    report = Report("", SPEC, Options(), [dense, quiet])
    assert not report.warnings
    report.results.append(noisy)
    assert report.warnings == [
        "vit, 4 frames, batch 1, scorer ragged 0.5: the rounds differ by 100%; "
        "repeat on a quiet machine"
    ]
    assert report.warnings[0] in report.table() and not report.problems


def test_report_without_results(tmp_path: Path):
    report = Report("python scripts/benchmark.py", SPEC, Options())
    for path in report.save(tmp_path):
        assert path.stat().st_size > 0
