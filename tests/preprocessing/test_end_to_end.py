"""Decoded frames and two questions to packed and to inference batches, against the reference.

The reference's prompts are given word for word; everything else is ours.
"""

import json
import re
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.collator import Collator
from olmo.preprocessing.multimodal import ExamplePreprocessor, Molmo2PreprocessorConfig
from olmo.preprocessing.packing import pack
from olmo.preprocessing.video import VideoPreprocessorConfig
from olmo.tokenizer import TokenizerConfig
from olmo.types import VideoFrames

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
REFERENCE = json.loads((FIXTURES / "end_to_end.json").read_text())
SHORT = {
    "style": "video_short_answer",
    "messages": ["Question: How many scenes?\nShort Answer:", "1"],
}
CHOICE = {
    "style": "video_multiple_choice",
    "messages": [
        "[QUESTION]\nWhat happens?\n\n[OPTIONS]\nA)it darkens\nB)it brightens\n\n[INSTRUCTION]\n"
        "Give me the option letter and its text.",
        "B)it brightens",
    ],
}
ASKED = "What happens?\nA. x\nB. y\nPlease respond with only the letter of the correct answer."


@pytest.fixture(scope="module")
def tokenizer():
    return TokenizerConfig(str(FIXTURES / "byte_tokenizer")).build(151936)


@pytest.fixture
def preprocess(tokenizer):
    config = Molmo2PreprocessorConfig(video=VideoPreprocessorConfig(max_frames=8))
    return ExamplePreprocessor(config, DataFormatterConfig(), tokenizer, (378, 378), 14)


def video(times):
    frames = np.random.default_rng(0).integers(0, 256, (len(times), 48, 64, 3), dtype=np.uint8)
    return VideoFrames(frames, np.array(times), times[-1])


def readable(tokenizer, ids):
    """Text as in the reference: runs of <im_patch> counted; BOS, EOS and their like left out."""
    names = {i: t for t, i in tokenizer.ids.items()}
    out = ""
    for i, run in groupby(ids):
        n = len(list(run))
        if names.get(i) == "<im_patch>":
            out += f"[{n} x <im_patch>]"
        else:
            out += (names.get(i) or tokenizer.decode([i], False)) * n
    return out


def without_ends(text):
    return re.sub(r"<\|im_end\|>", "", text)


def shapes(batch):
    return {k: [list(v.shape), str(v.dtype)] for k, v in batch.items() if k != "metadata"}


def test_training_row_and_packed_batch(tokenizer, preprocess):
    example = {"video": "v", "message_list": [SHORT, CHOICE]}
    out = preprocess(example, video([0.0, 0.5, 1.0, 1.5]))
    for key, (shape, dtype) in REFERENCE["keys"].items():
        # weights of a tree are float64 in the reference until they are collated
        dtype = "float32" if key == "loss_masks" else dtype
        assert [list(out[key].shape), str(out[key].dtype)] == [shape, dtype], key
    ids = out["input_tokens"].tolist()
    assert ids.count(tokenizer.ids["<im_patch>"]) == REFERENCE["n_patch_tokens"]
    assert without_ends(readable(tokenizer, ids)) == without_ends(REFERENCE["decoded_input"])
    runs = [[k, len(list(g))] for k, g in groupby(out["subsegment_ids"].tolist())]
    assert runs == REFERENCE["subsegment_run_length"]
    parts = np.split(out["position_ids"], np.cumsum([n for _, n in runs])[:-1])
    ends = [[int(p[0]), int(p[-1])] for p in parts]
    assert ends == REFERENCE["position_ids_first_last_per_branch"]
    weights = sorted(set(out["loss_masks"].tolist()))
    np.testing.assert_allclose(weights, REFERENCE["loss_mask_unique"], atol=1e-5)

    second = preprocess(example, video([0.0, 0.5, 1.0, 1.5, 2.0]))
    alone = preprocess(example, video([0.5 * k for k in range(8)]))
    batch = Collator(2000, "to_max", 729, 588, 9)([pack([alone]), pack([out, second])])
    found = shapes(batch)
    for key, want in REFERENCE["packed_batch_device_batch_size_2"].items():
        assert found[key] == [want[0], want[1]], key


def test_inference_batch(tokenizer, preprocess):
    example = {"video": "v", "prompt": ASKED, "style": "video_multiple_choice"}
    times = [0.0, 0.64, 1.28, 1.92, 2.57, 3.21, 3.85, 4.5]
    out = preprocess(example, video(times), for_inference=True)
    text = readable(tokenizer, out["input_tokens"].tolist())
    assert without_ends(text) == without_ends(REFERENCE["inference_decoded_row0"])
    found = shapes(Collator(None, "longest", 729, 588)([out, out]))
    for key, want in REFERENCE["inference_batch_size_2"].items():
        assert found[key] == [want[0], want[1]], key
