"""Broken media end in a skip with a reason that names the file, in training and in evaluation;
odd but legal ones load right."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.config import read_settings
from olmo.data.examples import ExampleSource, prepare
from olmo.data.frame_sampling import FrameSampling
from olmo.data.loader import DataConfig, NoUsableExample, RowShare, build_train_loader
from olmo.data.mixture import Mixture
from olmo.data.stream import example_rng
from olmo.data.video_loading import Clip, load_video
from olmo.eval.answer import ExampleLoader, Pass, Questions
from olmo.eval.prediction import Skipped
from olmo.models.registry import model_config_from_dict
from olmo.preprocessing.images import load_image
from olmo.preprocessing.packing import PackingConfig
from tests.data.broken_media import BROKEN, LEGAL
from tests.train.conftest import REPOSITORY

GOOD = {"question": "What?", "answer": "this", "style": "video_short_answer"}


@dataclass
class Media:
    """Examples with the given media."""

    examples: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.examples)

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        example = self.examples[idx]
        metadata = {"example_id": str(idx), **example.get("metadata", {})}
        return {**GOOD, **example, "metadata": metadata}


@contextmanager
def no_hang(seconds: int = 20) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def model() -> Any:
    return model_config_from_dict(read_settings(REPOSITORY / "configs" / "tiny.yaml")["model"])


@pytest.fixture(scope="module")
def preprocessor(model: Any) -> Any:
    return model.build_preprocessor(model.build_tokenizer(), 2000)


def train_loader(model: Any, preprocessor: Any, dataset: Media, **config: Any) -> Any:
    found = DataConfig(shuffle=False, **config)
    mixture = Mixture({"media": dataset}, {"media": 1.0})
    source = ExampleSource(mixture, preprocessor, found.seed, shuffle=False)
    return build_train_loader(found, source, model.build_collator(2000), RowShare(1, 1))


@pytest.mark.parametrize("kind", BROKEN)
def test_training_skips_it(kind: str, tmp_path: Path, model: Any, preprocessor: Any) -> None:
    bad = BROKEN[kind](tmp_path / kind)
    dataset = Media([bad, {}])
    with no_hang():
        batch = next(iter(train_loader(model, preprocessor, dataset)))
    assert batch.example_ids == ["1"] and len(batch.skipped) == 1
    file = bad.get("video") or bad["image"]
    names = [Path(f).name for f in ([file] if isinstance(file, str) else file)]
    assert any(name in batch.skipped[0].text for name in names)
    assert batch.skipped[0].text.startswith("media 0: cannot read ")


def test_evaluation_skips_all_of_them(tmp_path: Path, model: Any, preprocessor: Any) -> None:
    assert len(BROKEN) >= 20
    dataset = Media([make(tmp_path / kind) for kind, make in BROKEN.items()] + [{}])
    questions = Questions("media", dataset, range(len(dataset)), 4, batch_size=len(dataset))
    loader = ExampleLoader(
        *(questions, preprocessor, model.build_collator(), model.build_tokenizer())
    )
    with no_hang(60):
        loaded = loader[0]
    skipped = [one for one in loaded if isinstance(one, Skipped)]
    assert [one.index for one in skipped] == list(range(len(BROKEN)))
    assert all("cannot read" in one.error for one in skipped)
    passes = [one for one in loaded if isinstance(one, Pass)]
    assert [one.asked[0].index for one in passes] == [len(BROKEN)]


def test_too_many_of_them_end_the_run(tmp_path: Path, model: Any, preprocessor: Any) -> None:
    dataset = Media([{"video": str(tmp_path / "gone.mp4")}])
    loader = train_loader(
        model, preprocessor, dataset, max_skipped=3, packing=PackingConfig(buffer_size=2)
    )
    with pytest.raises(NoUsableExample, match=r"data\.max_skipped=3.*gone\.mp4: no such file"):
        next(iter(loader))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take its own rights away")
def test_no_permission(tmp_path: Path, model: Any, preprocessor: Any) -> None:
    bad = LEGAL["wrong_extension"](tmp_path / "shut")
    (tmp_path / "shut.avi").chmod(0)
    dataset = Media([bad, {"image": str(tmp_path / "shut.avi")}, {}])
    loader = train_loader(model, preprocessor, dataset)
    os.seteuid(65534)
    try:
        batch = next(iter(loader))
    finally:
        os.seteuid(0)
    assert len(batch.skipped) == 2 and all("ermission denied" in s.text for s in batch.skipped)


@pytest.mark.parametrize("kind", LEGAL)
def test_odd_but_legal(kind: str, tmp_path: Path, preprocessor: Any) -> None:
    example = LEGAL[kind](tmp_path / kind)
    with no_hang():
        rng = example_rng(0, 0, 0)
        arrays = prepare(Media([example]).get(0, rng), preprocessor, rng)
    assert len(arrays["images"]) == arrays["num_images"][0] >= 1


def brightness(path: str, clip: Clip | None = None, n: int = 5) -> list[int]:
    """Frame numbers, as their right half tells."""
    frames = load_video(path, FrameSampling(n), clip=clip).frames
    half = frames.shape[2] // 2
    return [round(float(f[:, half + 4 :].mean()) / 20) for f in frames]


def test_variable_frame_rate(tmp_path: Path) -> None:
    path = LEGAL["variable_frame_rate"](tmp_path / "a")["video"]
    assert brightness(path, Clip(0.0, 4.0)) == [0, 2, 3, 3, 4]  # at 0, 1, 2, 3 and 4 s
    assert brightness(path, Clip(0.05, 0.25), 3) == [0, 1, 2]


def test_turned(tmp_path: Path) -> None:
    """A quarter turn clockwise: what was left (dark) is on top."""
    path = LEGAL["turned_by_90_degrees"](tmp_path / "a")["video"]
    video = load_video(path, FrameSampling(1, "uniform"), clip=Clip(1.0))
    assert video.frames.shape == (1, 64, 48, 3) and video.size == (48, 64)
    assert video.frames[0, :28].mean() < 20 < 150 < video.frames[0, 36:].mean()


def test_other_odd_ones(tmp_path: Path) -> None:
    assert load_video(LEGAL["odd_size"](tmp_path / "a")["video"], FrameSampling(2)).size == (53, 31)
    one = load_video(LEGAL["one_frame"](tmp_path / "b")["video"], FrameSampling(8))
    assert (one.frames == one.frames[0]).all() and one.duration == pytest.approx(0.1)
    gif = load_image(LEGAL["animated_gif_as_image"](tmp_path / "c")["image"])
    assert gif.shape == (10, 20, 3) and not gif.any()  # the first picture


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["pyav"])
def test_2000_clips_hold_memory_flat(tmp_path: Path, preprocessor: Any, decoder: str) -> None:
    """Good and broken ones in turn, within 5% after a warm-up of 200."""
    kinds = [k for k in BROKEN if "video" in BROKEN[k](tmp_path / k)]
    dataset = Media(
        [BROKEN[k](tmp_path / f"again_{k}") for k in kinds]
        + [LEGAL[k](tmp_path / f"good_{k}") for k in LEGAL]
    )
    sizes = []
    for i in range(2200):
        rng = example_rng(0, i, 0)
        with suppress(ValueError):
            prepare(dataset.get(i % len(dataset), rng), preprocessor, rng)
        if i % 100 == 99:
            gc.collect()
            sizes.append(resident_bytes())
    assert max(sizes[2:]) < 1.05 * sizes[1]
