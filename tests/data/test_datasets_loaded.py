"""Every case with real media, decoded and preprocessed: the rows that a model gets."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from olmo.data.datasets.catalogue import dataset_rows
from olmo.data.datasets.synthetic.scene import FPS
from olmo.data.datasets.synthetic.video import encode_mp4
from olmo.data.examples import ExampleSource, prepare
from olmo.data.mixture import MixtureConfig
from olmo.data.registry import get_dataset
from olmo.models.loading import load_model_config, select_checkpoint
from olmo.preprocessing.multimodal import ExamplePreprocessor
from olmo.types import MultimodalType
from tests.data.worlds import CASES, write_case

ONE_OF_EACH_KIND = (
    *("pixmo_cap", "chart_qa", "pixmo_multi_points", "muir_bench", "tulu4", "pixmo_count_train"),
    *("tgif", "charades_sta_all_qa", "tvqa_with_sub", "video_mme_w_subtitle", "mevis_track"),
    *("got10k_single_point_track", "mevis_track_eval_1fps", "vixmo_points_minmax_0_5"),
)
NAMES = sorted(path.name for path in CASES.iterdir())
SETS = [
    pytest.param(name, marks=() if name in ONE_OF_EACH_KIND else pytest.mark.slow) for name in NAMES
]
CHECKPOINT = Path(__file__).parents[2] / "checkpoints/tiny-dense"
VIDEO_SECONDS = 640
"""More than all clips that the cases ask for; in YouCook2 one begins after ten minutes."""


@pytest.fixture(scope="module")
def preprocessor() -> ExamplePreprocessor:
    config = load_model_config(select_checkpoint(CHECKPOINT))
    return config.build_preprocessor(config.build_tokenizer())


@pytest.fixture(scope="module")
def media() -> dict[str, bytes]:
    frames = np.zeros((VIDEO_SECONDS * FPS, 16, 16, 3), dtype=np.uint8)
    picture = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 0, 0)).save(picture, "PNG")
    return {"video": encode_mp4(frames), "image": picture.getvalue()}


def rows_of(
    name: str, split: str, preprocessor: ExamplePreprocessor
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The examples of a split and what is loaded of them."""
    data = get_dataset(name, split)
    for i in range(len(data)):
        rng = np.random.RandomState(i)
        row = prepare(data.get(i, rng), preprocessor, rng if split == "train" else None)
        yield data.get(i, np.random.RandomState(i)), row


@pytest.mark.parametrize("name", SETS)
def test_rows(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preprocessor: ExamplePreprocessor,
    media: dict[str, bytes],
) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    for split in write_case(name, tmp_path / dataset_rows()[name].home, media):
        for example, row in rows_of(name, split, preprocessor):
            assert (row["loss_masks"].sum() > 0) == (split == "train")
            kinds = [int(k) for k in row["multimodal_type"]]
            if "video" in example:
                assert kinds == [MultimodalType.VIDEO]
            elif "image" in example:
                several = isinstance(example["image"], list)
                assert kinds == [MultimodalType.MULTI_IMAGE if several else MultimodalType.IMAGE]
            else:
                assert kinds == []


def test_the_whole_mixture(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preprocessor: ExamplePreprocessor,
    media: dict[str, bytes],
) -> None:
    """All data sets of ``molmo2`` at once, drawn as in training and packed."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    config = MixtureConfig.load("molmo2")
    for name in (d.name for group in config.groups for d in group.datasets):
        write_case(name, tmp_path / dataset_rows()[name].home, media)
    mixture = config.open("train")
    assert len(mixture.names) == 117
    group_of = {d.name: group.name for group in config.groups for d in group.datasets}
    source, drawn = ExampleSource(mixture, preprocessor, seed=1), set()
    for i in range(80):
        ref = source.stream[i]
        drawn.add(group_of[ref.dataset])
        example, _ = source.raw(i)
        pointing = group_of[ref.dataset] in ("tracking", "video_pointing", "image_pointing")
        assert (example.get("weight", {}).get("weight") == 0.2) == pointing
        loss = source.load(i)["loss_masks"]
        assert loss.max() == pytest.approx(0.2) if pointing else loss.max() > 0
    assert drawn == set(group_of.values())
