import json
from pathlib import Path

import numpy as np
import pytest
import torch

from olmo.preprocessing.collator import Collator
from olmo.preprocessing.packing import pack

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
REFERENCE = json.loads((FIXTURES / "collation.json").read_text())["cases"]


def example(n_tokens, n_images=0, n_pruned=0, visual_end=0, **extra):
    tokens = np.arange(n_tokens, dtype=np.int64)
    out = {
        "input_tokens": tokens,
        "target_tokens": tokens + 1,
        "loss_masks": np.ones(n_tokens, np.float32),
        "position_ids": tokens.copy(),
        "num_images": np.array([n_images] if n_images else [], np.int64),
        "multimodal_type": np.array([2] if n_images else [], np.int64),
        "n_pruned": n_pruned,
        "visual_end": visual_end,
        "metadata": {"example_id": "x"},
    }
    if n_images:
        out["images"] = np.ones((n_images, 4, 6), np.uint8)
        pooling = (np.arange(27) % 8).reshape(3, 9)
        pooling[-1, -1] = -1
        out["token_pooling"] = pooling
    return out | extra


def collator(seq_len=12, pad="to_max", frames=3, removed=0):
    return Collator(seq_len, pad, 4, 6, frames, removed)


def check(batch, name, keys=("input_ids", "labels", "position_ids", "subsegment_ids")):
    expected = REFERENCE[name]
    for key in keys:
        assert (key in batch) == (key in expected)
        if key in expected:
            assert batch[key].tolist() == expected[key]["values"], key
            assert str(batch[key].dtype) == expected[key]["dtype"]
    masks = torch.tensor(expected["loss_masks"]["values"]).clamp(min=0)  # we pad with 0, not -1
    assert batch["loss_masks"].tolist() == masks.tolist()
    assert batch["token_pooling"].tolist() == expected["token_pooling"]["values"]


def test_video_and_text():
    batch = collator()([example(4, 2), example(3)])
    check(batch, "two_examples_one_text")
    assert batch["images"].shape == (2, 3, 4, 6) and batch["images"].dtype == torch.uint8
    assert batch["images"][0, :2].all() and not batch["images"][0, 2:].any()
    assert batch["num_images"].tolist() == [[2], [-1]]
    assert batch["multimodal_type"].tolist() == [[2], [-1]]
    assert batch["metadata"] == [{"example_id": "x"}] * 2


def test_all_text():
    batch = collator()([example(4), example(3)])
    check(batch, "all_text")
    assert batch["images"].shape == (2, 1, 4, 6) and not batch["images"].any()
    assert batch["token_pooling"].tolist() == [[[-1]], [[-1]]]
    assert batch["num_images"].tolist() == [[-1], [-1]]
    assert batch["multimodal_type"].tolist() == [[-1], [-1]]


def test_subsegments_in_one_row():
    tree = example(4, 2, subsegment_ids=np.array([10000, 10000, 0, 0]))
    check(collator()([tree, example(3)]), "subsegments_in_one")


def test_packed_rows():
    tree = example(5, 1, subsegment_ids=np.array([10000, 10000, 0, 0, 0]))
    tree["token_pooling"] = np.array([[0, 1, 2, 3], [0, 1, 2, -1]])
    batch = collator()([pack([example(4, 2), example(3)]), pack([tree])])
    check(batch, "packed")
    assert batch["num_images"].tolist() == [[2], [1]]
    assert [len(m) for m in batch["metadata"]] == [2, 1]


def test_longest():
    batch = collator(pad="longest", frames=None)([example(4, 2), example(3)])
    check(batch, "pad_none_inference")
    assert batch["images"].shape == (2, 2, 4, 6)
    unbounded = collator(None, "longest", None)([example(40, 2), example(3)])
    assert unbounded["input_ids"].shape == (2, 40)


def test_text_tail_is_cut():
    check(collator()([example(20)]), "text_too_long_truncated")


def test_nothing_important_is_cut():
    late = example(20, loss_masks=np.repeat([0.0, 1.0], [12, 8]))
    with pytest.raises(ValueError, match=r"example x: 20 tokens, at most 12 .* token with a loss"):
        collator()([late])
    with pytest.raises(ValueError, match=r"example x: 20 tokens, at most 12 .* visual tokens"):
        collator()([example(20, 1, visual_end=13)])
    assert collator()([example(20, 1, visual_end=12)])["input_ids"].shape == (1, 12)
    silent = example(20, loss_masks=np.zeros(20, np.float32))
    assert collator()([silent])["input_ids"].shape == (1, 12)


def test_seq_len_is_the_length_after_pruning():
    batch = collator(removed=6)([example(17, 2, n_pruned=5, visual_end=9), example(3)])
    assert batch["input_ids"].shape == (2, 18)
    assert batch["input_ids"][0].tolist() == [*range(17), -1]
    batch = collator(removed=6)([example(30, 2, n_pruned=5, visual_end=9)])
    assert (batch["input_ids"][0] >= 0).sum() == 17
    longest = collator(pad="longest")([example(17, 2, n_pruned=5, visual_end=9)])
    assert longest["input_ids"].shape == (1, 17)
    with pytest.raises(ValueError, match=r"17 tokens before .* 12 \+ max_removed 4"):
        collator(removed=4)([example(17, 2, n_pruned=5, visual_end=9)])


def test_check_of_one_example():
    collator().check(example(12, 2))
    with pytest.raises(ValueError, match="visual tokens"):
        collator().check(example(20, 1, visual_end=13))
    with pytest.raises(ValueError, match=r"17 tokens before .* 12 \+ max_removed 4"):
        collator(removed=4).check(example(17, 2, n_pruned=5, visual_end=9))


def test_shapes_do_not_depend_on_the_data():
    shapes = set()
    for n, m in [(1, 1), (12, 3), (5, 2)]:
        batch = collator()([example(n, m), example(1)])
        shapes.add((batch["input_ids"].shape, batch["images"].shape))
    assert len(shapes) == 1


def test_bad_images():
    with pytest.raises(ValueError, match="4 frames, at most 3"):
        collator()([example(4, 4)])
    with pytest.raises(ValueError, match="uint8"):
        collator()([example(4, 2) | {"images": np.ones((2, 4, 6), np.float32)}])
    with pytest.raises(ValueError, match=r"\(2, 9, 6\).* 4 patches of 6"):
        collator()([example(4, 2) | {"images": np.ones((2, 9, 6), np.uint8)}])


def test_bad_settings():
    with pytest.raises(ValueError, match="seq_len"):
        collator(None, "to_max")
