"""Every miniature with real media, decoded and preprocessed: the rows that a model gets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from olmo.data.datasets.synthetic.video import encode_mp4
from olmo.data.examples import ExampleSource, prepare
from olmo.data.mixture import MixtureConfig
from olmo.data.registry import get_dataset
from olmo.models.loading import load_model_config, select_checkpoint
from olmo.preprocessing.multimodal import ExamplePreprocessor
from olmo.types import MultimodalType
from tests.data import test_datasets_reference
from tests.data.datasets_miniature import Miniature
from tests.data.test_datasets_all import CASES

CHECKPOINT = Path(__file__).parents[2] / "checkpoints/tiny-dense"
VIDEO_SECONDS = 16
"""Longer than all clips that the miniatures ask for."""


@pytest.fixture(scope="module")
def preprocessor() -> ExamplePreprocessor:
    config = load_model_config(select_checkpoint(CHECKPOINT))
    return config.build_preprocessor(config.build_tokenizer())


@pytest.fixture(scope="module")
def media() -> dict[str, bytes]:
    frames = np.zeros((4 * VIDEO_SECONDS, 16, 16, 3), dtype=np.uint8)
    picture = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 0, 0)).save(picture, "PNG")
    return {"video": encode_mp4(frames), "image": picture.getvalue()}


def fill(example: dict[str, Any], media: dict[str, bytes]) -> None:
    """Real content for the files that an example names."""
    for kind, content in media.items():
        paths = example.get(kind, [])
        for path in paths if isinstance(paths, list) else [paths]:
            if isinstance(path, str) and Path(path).is_dir():
                for picture in Path(path).glob("*.jpg"):
                    picture.write_bytes(media["image"])
            elif isinstance(path, str):
                Path(path).write_bytes(content)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows(
    case: Miniature,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preprocessor: ExamplePreprocessor,
    media: dict[str, bytes],
) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    case.write(tmp_path)
    data, training = get_dataset(case.name, case.split), case.split == "train"
    for i in range(len(data)):
        example = data.get(i, np.random.RandomState(i))
        fill(example, media)
        rng = np.random.RandomState(i)
        row = prepare(data.get(i, rng), preprocessor, rng if training else None)
        assert (row["loss_masks"].sum() > 0) == training
        kinds = [int(k) for k in row["multimodal_type"]]
        if "video" in example:
            assert kinds == [MultimodalType.VIDEO]
        elif "image" in example:
            several = isinstance(example["image"], list)
            assert kinds == [MultimodalType.MULTI_IMAGE if several else MultimodalType.IMAGE]
        else:
            assert kinds == []


def write_recorded(root: Path) -> None:
    """The layouts of recorded training examples, with empty media."""
    for recorded, (name, split, layout) in test_datasets_reference.CASES.items():
        if split == "train":
            entry = test_datasets_reference.GOLDEN[recorded]
            media = [e["video"].removeprefix("<VIDEO_DATA_HOME>/") for e in entry["examples"]]
            Miniature(name, layout(entry["raw"]), media).write(root)


def test_the_whole_mixture(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preprocessor: ExamplePreprocessor,
    media: dict[str, bytes],
) -> None:
    """All data sets of ``molmo2`` at once, drawn as in training and packed."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    for case in CASES:
        if case.split == "train":
            case.write(tmp_path)
    write_recorded(tmp_path)
    config = MixtureConfig.load("molmo2")
    mixture = config.open("train")
    assert len(mixture.names) == 94
    group_of = {d.name: group.name for group in config.groups for d in group.datasets}
    source, drawn = ExampleSource(mixture, preprocessor, seed=1), set()
    for i in range(80):
        ref = source.stream[i]
        drawn.add(group_of[ref.dataset])
        example, _ = source.raw(i)
        fill(example, media)
        pointing = group_of[ref.dataset] in ("tracking", "video_pointing", "image_pointing")
        assert (example.get("weight", {}).get("weight") == 0.2) == pointing
        loss = source.load(i)["loss_masks"]
        assert loss.max() == pytest.approx(0.2) if pointing else loss.max() > 0
    assert drawn == set(group_of.values())
