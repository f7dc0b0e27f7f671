"""One mp4 and one image file, from the file to greedy tokens: our decoder, preprocessing and native
model; our export in transformers' own processor and model, with transformers' PyAV reader; and
the export read back in this package's Hugging Face form.

transformers takes equal steps of a video and leaves its end out, so the checkpoint is told to
do that too (``frame_sample_mode: uniform``).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers.models.molmo2")

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    BatchFeature,
    Molmo2ForConditionalGeneration,
    Molmo2Processor,
)

from olmo.config import read_settings, to_yaml
from olmo.data.datasets.synthetic.draw import draw_frames
from olmo.data.datasets.synthetic.scene import FPS
from olmo.data.datasets.synthetic.video import SyntheticVideoQA, encode_mp4, load_annotations
from olmo.data.frame_sampling import FrameSampling
from olmo.data.video_loading import load_video
from olmo.hf_model.export import export_checkpoint
from olmo.hf_model.lite_loading import load_model as load_lite
from olmo.models.loading import load_model, select_checkpoint
from olmo.models.molmo2.molmo2 import Molmo2
from tests.preprocessing.transformers_processor import processor_of_folder, replace_torchvision
from tests.scored import DENSE

SECONDS, NEW = 4, 12
QUESTION = "video_short_answer: Which letter or digit is on the sign?\nReply with a short answer."


@pytest.fixture(autouse=True)
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_torchvision(monkeypatch)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clip of the first seconds of a synthetic scene, and one of its frames, in odd sizes."""
    folder = tmp_path_factory.mktemp("files")
    data = SyntheticVideoQA("test", 1, root=folder)
    scene = load_annotations(data.folder, 1)[0]
    frames = draw_frames(scene, np.random.default_rng(0))[: SECONDS * FPS, :70]
    (folder / "clip.mp4").write_bytes(encode_mp4(frames))
    Image.fromarray(frames[5, :51]).save(folder / "picture.png")
    return {"video": folder / "clip.mp4", "image": folder / "picture.png"}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint, trained on such clips, with transformers' choice of frames."""
    folder = tmp_path_factory.mktemp("native") / "dense"
    shutil.copytree(select_checkpoint(DENSE), folder)
    config = read_settings(folder / "config.yaml")
    video = {"frame_sample_mode": "uniform", "max_fps": None}
    config["model"]["mm_preprocessor"]["video"] |= video
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


@pytest.fixture(scope="module")
def exported(native: Path) -> Path:
    return export_checkpoint(native, native.with_name("export"))


@pytest.fixture(scope="module")
def stock(exported: Path) -> Molmo2ForConditionalGeneration:
    model = AutoModelForImageTextToText.from_pretrained(exported)
    assert type(model) is Molmo2ForConditionalGeneration and model.dtype is torch.float32
    return model.eval()


def our_batch(model: Molmo2, kind: str, file: Path) -> dict[str, Tensor]:
    """The file through our decoder and preprocessing, as in evaluation."""
    example: dict[str, Any] = {"messages": [QUESTION], kind: str(file)}
    video = None
    if kind == "video":
        sampling = FrameSampling.from_config(model.config.mm_preprocessor.video)
        video = load_video(file, sampling)
    preprocess = model.config.build_preprocessor(model.config.build_tokenizer())
    batch = model.config.build_collator()([preprocess(example, video, for_inference=True)])
    return {k: v for k, v in batch.items() if k not in ("metadata", "labels", "loss_masks")}


def conversation(kind: str, file: Path) -> list[dict[str, Any]]:
    content = [{"type": kind, "path": str(file)}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]


def stock_batch(processor: Molmo2Processor, kind: str, file: Path) -> BatchFeature:
    """The file through transformers' processor, which opens videos; an image file it would open
    with torchvision, so Pillow does."""
    chat = conversation(kind, file)
    if kind == "image":
        chat[0]["content"][0] = {"type": "image", "image": Image.open(file)}
    batch = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    batch.pop("image_num_crops", None)  # for the processor's own bookkeeping
    return batch


@pytest.mark.parametrize("kind", ["video", "image"])
def test_greedy_tokens(
    kind: str,
    files: dict[str, Path],
    native: Path,
    exported: Path,
    stock: Molmo2ForConditionalGeneration,
) -> None:
    model, _ = load_model(native)
    eos = model.config.build_tokenizer().eos_id
    batch = our_batch(model, kind, files[kind])
    ours = model.generate(batch, NEW, [eos]).token_ids[0].tolist()

    theirs = stock_batch(processor_of_folder(exported), kind, files[kind])
    assert theirs["input_ids"].tolist() == batch["input_ids"].tolist()
    out = stock.generate(**theirs, max_new_tokens=NEW, do_sample=False)
    tokens = out[0, theirs["input_ids"].shape[1] :].tolist()
    assert tokens == ours[: len(tokens)] and set(ours[len(tokens) :]) <= {-1, eos}
    with torch.no_grad():
        logits, want = model(**batch).logits, stock(**theirs).logits
    # measured 1.1e-5, of logits up to 22
    torch.testing.assert_close(logits, want, atol=1e-4, rtol=0)

    lite, lite_processor = load_lite(exported)
    chat = conversation(kind, files[kind])
    if kind == "video":  # the folder does not say how frames are chosen
        sampling = FrameSampling.from_config(model.config.mm_preprocessor.video)
        chat[0]["content"][0] = {"type": kind, kind: load_video(files[kind], sampling)}
    given = lite_processor.apply_chat_template(chat, tokenize=True, return_dict=True)
    again = lite.generate(**given, max_new_tokens=NEW)
    assert again[0, given["input_ids"].shape[1] :].tolist() == tokens
