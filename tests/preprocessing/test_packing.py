import copy
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from olmo.preprocessing.packing import PackingConfig, knapsack, pack

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
REFERENCE = json.loads((FIXTURES / "packing.json").read_text())
WINDOW = 9


def example(n_tokens, n_images=0, n_pruned=0, patches=4, window=WINDOW, rows=0, first=0):
    tokens = first + np.arange(n_tokens, dtype=np.int64)
    out = {
        "input_tokens": tokens,
        "target_tokens": tokens + 1,
        "loss_masks": np.ones(n_tokens, np.float32),
        "position_ids": np.arange(n_tokens, dtype=np.int64),
        "num_images": np.array([n_images] if n_images else [], np.int64),
        "multimodal_type": np.array([2] if n_images else [], np.int64),
        "n_pruned": n_pruned,
        "visual_end": min(n_tokens, 2) if n_images else 0,
        "metadata": {},
    }
    if n_images:
        out["images"] = np.zeros((n_images, patches, 6), np.uint8)
        ids = np.arange(rows * window) % (n_images * patches)
        out["token_pooling"] = ids.reshape(rows, window).astype(np.int64)
        out["token_pooling"].flat[-1] = -1
    return out


def three():
    c = example(5, 1, window=4, rows=2, first=50)
    c["subsegment_ids"] = np.array([10000, 10000, 0, 0, 0])
    return [example(4, 2, rows=3), example(3), c]


def run(seq_len, stream, **config):
    packer = PackingConfig(**config).build(seq_len)
    emitted = []
    for i, (n, m) in enumerate(stream):
        out = packer.add(i, example(n, m, rows=1))
        if out is not None:
            emitted.append((i, out, packer.buffered_ids))
    return packer, emitted


def test_pack_reference():
    expected = REFERENCE["pack_three"]["out"]
    examples = three()
    before = copy.deepcopy(examples)
    out = pack(examples)
    out["images"] = np.concatenate(out["image_parts"])
    for key in (
        "images",
        "input_tokens",
        "target_tokens",
        "loss_masks",
        "token_pooling",
        "subsegment_ids",
        "position_ids",
    ):
        assert out[key].tolist() == expected[key]["values"], key
        assert str(out[key].dtype) == expected[key]["dtype"]
    assert out["metadata"] == [{}, {}, {}]
    assert out["num_images"].tolist() == [2, 1]
    assert out["multimodal_type"].tolist() == [2, 2]
    assert out["visual_end"] == 9
    for a, b in zip(examples, before, strict=True):
        assert a.keys() == b.keys()
        for k in a:
            np.testing.assert_array_equal(a[k], b[k])


def test_pack_of_one_and_of_text():
    expected = REFERENCE["pack_single"]
    out = pack([example(4, 2, rows=3)])
    for key in ("input_tokens", "token_pooling", "subsegment_ids", "position_ids"):
        assert out[key].tolist() == expected[key]["values"]
    text = pack([example(2), example(3)])
    assert "image_parts" not in text and "token_pooling" not in text
    assert text["num_images"].tolist() == [] and text["visual_end"] == 0
    assert text["subsegment_ids"].tolist() == [0, 0, 100000, 100000, 100000]
    with pytest.raises(ValueError, match="at least one"):
        pack([])


def test_pruned_counts_add_up():
    out = pack([example(10, 2, n_pruned=3, rows=1), example(4), example(9, 1, n_pruned=2, rows=1)])
    assert out["n_pruned"] == 5
    assert out["visual_end"] == 16


def test_trace_reference():
    trace = REFERENCE["packer_trace_seq16384_img128_buffer8"]
    _, emitted = run(
        trace["text_max"],
        trace["stream"],
        buffer_size=trace["buffer_size"],
        image_weight=float(trace["image_weight"]),
        text_weight=trace["text_weight"],
        max_images=trace["image_max"],
    )
    assert [
        {
            "step": step,
            "packed_ids": p.example_ids,
            "n_tokens": len(p.example["input_tokens"]),
            "n_images": sum(map(len, p.example.get("image_parts", []))),
            "buffer_after": buffer,
        }
        for step, p, buffer in emitted
    ] == trace["emitted"]


def test_small_knapsack_reference():
    k = REFERENCE["knapsack_small"]
    t, i, value = np.array(k["t"]), np.array(k["i"]), np.array(k["obj"])
    room = (k["max_t"], k["max_i"])
    assert knapsack(np.stack([t, i], 1), value, room) == k["selected"]


def test_knapsack_is_optimal():
    rng = np.random.default_rng(0)
    for _ in range(40):
        t, m = rng.integers(1, 9, 7), rng.integers(0, 4, 7)
        value = t + 3 * m
        chosen = knapsack(np.stack([t, m], 1), value, (15, 5))
        assert chosen == sorted(chosen, reverse=True)
        assert t[chosen].sum() <= 15 and m[chosen].sum() <= 5
        subsets = itertools.chain.from_iterable(
            itertools.combinations(range(7), r) for r in range(8)
        )
        best = max(
            value[list(s)].sum()
            for s in subsets
            if t[list(s)].sum() <= 15 and m[list(s)].sum() <= 5
        )
        assert value[chosen].sum() == best


@pytest.mark.parametrize("seq_len", [9686, 5000, 1025, 700, 300, 16384])
def test_a_pack_never_exceeds_its_row(seq_len):
    rng = np.random.default_rng(1)
    stream = [
        (int(n), int(m))
        for n, m in zip(rng.integers(1, seq_len + 1, 300), rng.integers(0, 20, 300), strict=True)
    ]
    packer, emitted = run(seq_len, stream, buffer_size=8, max_images=32)
    seen = []
    for _, p, _ in emitted:
        assert len(p.example["input_tokens"]) <= seq_len
        assert sum(map(len, p.example.get("image_parts", []))) <= 32
        seen += p.example_ids
    assert sorted(seen + packer.buffered_ids) == list(range(300))  # none lost, none twice


def test_two_rows_that_only_fit_after_rounding_up_stay_apart():
    _, emitted = run(9686, [(4842, 0), (4860, 0), (10, 0)], buffer_size=2)
    assert [p.example_ids for _, p, _ in emitted] == [[1]]


def test_pruned_length_counts():
    packer = PackingConfig(buffer_size=2).build(100)
    packer.add(0, example(120, 2, n_pruned=70, rows=1))
    packer.add(1, example(110, 2, n_pruned=60, rows=1))
    out = packer.add(2, example(5))
    assert out.example_ids == [1, 0]
    assert len(out.example["input_tokens"]) == 230 and out.example["n_pruned"] == 130


def test_what_can_never_fit_is_refused():
    packer = PackingConfig(buffer_size=2, max_images=8).build(100)
    with pytest.raises(ValueError, match="101 tokens after pruning, but a row holds 100"):
        packer.add(7, example(101))
    with pytest.raises(ValueError, match=r"9 frames, but packing\.max_images is 8"):
        packer.check(example(5, 9, rows=1))
    assert packer.buffered_ids == []
    assert packer.add(9, example(101, 1, n_pruned=1, rows=1)).example_ids == [9]


def test_examples_that_fill_a_row_go_alone():
    _, emitted = run(100, [(50, 0), (100, 0), (3, 4)], max_images=4, buffer_size=4)
    assert [p.example_ids for _, p, _ in emitted] == [[1]]
    packer, emitted = run(
        100, [(50, 0), (3, 4)], max_images=4, buffer_size=4, shortcut_max_len_images=True
    )
    assert [p.example_ids for _, p, _ in emitted] == [[1]]
    assert packer.buffered_ids == [0]


def test_no_image_bound():
    _, emitted = run(100, [(10, 500), (10, 500), (1, 0)], buffer_size=2)
    assert emitted[0][1].example_ids == [1, 0]


def test_worthless_examples_still_leave():
    packer = PackingConfig(buffer_size=2, text_weight=0.0).build(100)
    out = [packer.add(i, example(5)) for i in range(4)]
    assert [p.example_ids for p in out if p] == [[0], [1]]


@pytest.mark.parametrize("id_step", [1, 4])
def test_nothing_waits_for_ever(id_step):
    """The first example never pays: it is as long as half a row, the others fill rows exactly."""
    config = PackingConfig(buffer_size=4, max_wait=20)
    packer, left = config.build(100, id_step), {}
    for i in range(60):
        out = packer.add(i * id_step, example(51 if i == 0 else 50))
        for n in out.example_ids if out else []:
            left[n // id_step] = i
        assert out is None or len(out.example["input_tokens"]) <= 100
    assert left[0] == 22
    assert max(left[n] - n for n in left) <= 21 + 4


def test_resume_continues_exactly():
    rng = np.random.default_rng(2)
    stream = [(int(n), int(m)) for n, m in rng.integers(1, 60, (120, 2))]
    config = {"buffer_size": 8, "max_images": 100}
    _, whole = run(256, stream, **config)
    half, _ = run(256, stream[:60], **config)
    ids = half.buffered_ids
    resumed = PackingConfig(**config).build(256)
    resumed.restore([(i, example(*stream[i], rows=1)) for i in ids])
    assert resumed.buffered_ids == ids
    rest = [(i, resumed.add(i, example(*stream[i], rows=1))) for i in range(60, 120)]
    assert [(i, p.example_ids) for i, p in rest if p] == [
        (i, p.example_ids) for i, p, _ in whole if i >= 60
    ]
    with pytest.raises(ValueError, match="cannot restore 9"):
        PackingConfig(**config).build(256).restore([(i, example(1)) for i in range(9)])


def test_config():
    assert PackingConfig() == PackingConfig(48, 30.0, 1.0, None, False)
    with pytest.raises(ValueError, match="buffer_size"):
        PackingConfig(buffer_size=0)
    with pytest.raises(ValueError, match="seq_len"):
        PackingConfig().build(0)
