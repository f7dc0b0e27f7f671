"""Damaged and hostile files and values at random, but repeatably: only errors that say what is
wrong with what, and nothing in them ever runs.

Each kind of input has makers of healthy samples, ways to damage them, and one call that reads them.
``FUZZ_SEED=N`` gives other cases, ``FUZZ_SECONDS=S`` more of them (per kind).
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from launch_scripts.train_image_video_sft import build_config, build_parser
from olmo.config import parse_overrides, to_yaml
from olmo.data.custom import CustomDataset
from olmo.data.frame_sampling import FrameSampling
from olmo.data.video_loading import load_video
from olmo.limits import Limits
from olmo.models.loading import load_model
from olmo.outside import OutsideError
from olmo.preprocessing.images import load_image
from olmo.preprocessing.video import VideoPreprocessorConfig
from olmo.train.checkpoint import load_checkpoint
from olmo.train.steps import latest_checkpoint
from tests.data.broken_media import write_video
from tests.fuzzing import TEXTS, Payload, damage_bytes, damage_file, damage_tree, dump, nasty, run
from tests.models.conftest import FIXTURES
from tests.train.rows import make_trainer, train_config, write_start
from tests.train.state import take_step

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "PAYLOAD_RAN"


# --- media -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_videos(suffix: str, tmp_path: Path, marker: Path) -> None:
    whole = write_video(tmp_path / f"whole{suffix}", list(range(40))).read_bytes()
    sampling = FrameSampling.from_config(VideoPreprocessorConfig(max_frames=6))
    file = tmp_path / f"case{suffix}"

    def attempt(rng: random.Random) -> None:
        file.write_bytes(damage_bytes(whole, rng))
        try:
            video = load_video(file, sampling, limits=Limits(max_seconds=5.0))
        except OutsideError as e:
            assert file.name in str(e)
            raise
        assert 1 <= len(video.frames) <= 6 and video.frames.dtype == np.uint8
        assert np.isfinite(video.timestamps).all() and np.isfinite(video.duration)

    run(f"video{suffix}", attempt, marker)


def test_images(tmp_path: Path, marker: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    samples = []
    for suffix in ("jpg", "png", "webp", "gif", "bmp", "tif"):
        whole = tmp_path / f"whole.{suffix}"
        Image.fromarray(noise).save(whole)
        samples.append((whole.read_bytes(), tmp_path / f"case.{suffix}"))

    def attempt(rng: random.Random) -> None:
        whole, file = rng.choice(samples)
        file.write_bytes(damage_bytes(whole, rng))
        try:
            pixels = load_image(file, Limits(max_pixels=1 << 22))
        except OutsideError as e:
            assert file.name in str(e)
            raise
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.size <= 3 << 22

    run("image", attempt, marker)


# --- checkpoints -----------------------------------------------------------------------------


def sharded(folder: Path) -> list[str]:
    shutil.copytree(FIXTURES / "molmo2_tiny_dcp" / "step10", folder)
    shards = [f"model_and_optim/{p.name}" for p in (folder / "model_and_optim").glob("*.distcp")]
    return ["model_and_optim/.metadata"] * 3 + ["config.yaml"] * 2 + shards


def native(folder: Path, name: str) -> list[str]:
    from safetensors.torch import load_file

    folder.mkdir()
    shutil.copyfile(FIXTURES / "molmo2_tiny_dcp" / "step10" / "config.yaml", folder / "config.yaml")
    weights = load_file(FIXTURES / "molmo2_tiny" / "weights.safetensors")
    if name.endswith(".pt"):
        torch.save(weights, folder / name)
    else:
        save_file(weights, folder / name)
    return [name, "config.yaml"]


def hugging_face(folder: Path) -> list[str]:
    from olmo.hf_model.export import export_checkpoint

    export_checkpoint(ROOT / "checkpoints" / "tiny-dense", folder)
    return ["config.json"] * 3 + ["model.safetensors"]


CHECKPOINTS: dict[str, Callable[[Path], list[str]]] = {
    "sharded": sharded,
    "safetensors": lambda folder: native(folder, "model.safetensors"),
    "torch": lambda folder: native(folder, "model.pt"),
    "hugging face": hugging_face,
}
"""Writes a folder; returns the files to damage, the more often the more often they are listed."""


@pytest.mark.parametrize("form", CHECKPOINTS)
def test_checkpoints(form: str, tmp_path: Path, marker: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "case"
    files = CHECKPOINTS[form](whole)
    load_model(whole)

    def attempt(rng: random.Random) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        damage_file(folder / rng.choice(files), marker, rng)
        try:
            model, _ = load_model(folder)
        except OutsideError as e:
            assert str(folder) in str(e), e
            raise
        assert all(p.isfinite().all() for p in model.parameters())

    run(form, attempt, marker)


def test_resuming(tmp_path: Path, marker: Path) -> None:
    """From a run folder whose newest checkpoint is damaged: another one, or a named error."""
    start, run_folder = tmp_path / "start", tmp_path / "run"
    write_start("stts", start)
    trainer = make_trainer(train_config("stts", run_folder), start)
    take_step(trainer, [[[0], [1]]])
    trainer.save()
    trainer.checkpoints.wait()
    whole = next(run_folder.glob("step*"))
    backup = Path(shutil.copytree(whole, tmp_path / "backup"))
    names = ["train/state.json"] * 3 + ["train/rank0.pt"] * 3 + ["model_and_optim/.metadata"]
    names += ["config.yaml", *(str(p.relative_to(whole)) for p in whole.glob("*/*.distcp"))]

    def attempt(rng: random.Random) -> None:
        shutil.rmtree(whole, ignore_errors=True)
        shutil.copytree(backup, whole)
        file = whole / rng.choice(names)
        if file.suffix == ".pt" and rng.random() < 0.3:
            torch.save({"torch": Payload(marker)}, file)
        else:
            damage_file(file, marker, rng)
        latest_checkpoint(run_folder)
        try:
            state = load_checkpoint(whole, trainer.model, trainer.optimizer)
        except OutsideError as e:
            assert str(whole) in str(e), e
            raise
        assert state.step == 1
        assert all(p.isfinite().all() for p in trainer.model.parameters())

    run("resume", attempt, marker)


# --- own data and settings -------------------------------------------------------------------


def test_own_data(tmp_path: Path, marker: Path) -> None:
    for name in ("a.mp4", "b.jpg"):
        (tmp_path / name).write_bytes(b"never opened here")
    lines: list[dict[str, Any]] = [
        {"video": "a.mp4", "question": "What?", "answer": "A door."},
        {
            **{"video": "a.mp4", "question": "Which?", "options": ["a", "b"], "answer": 1},
            **{"start": 1.0, "end": 2.5, "subtitle": [{"start": 0.0, "end": 1.0, "text": "x"}]},
        },
        {"image": ["b.jpg"], "question": "?", "answer": "x", "style": "vqa2"},
    ]
    file = tmp_path / "own.jsonl"

    def attempt(rng: random.Random) -> None:
        text = [json.dumps(line) for line in lines]
        number = rng.randrange(len(lines))
        if rng.random() < 0.7:
            text[number] = dump(damage_tree(lines[number], rng))
        data = "\n".join(text).encode(errors="surrogatepass")
        file.write_bytes(data if rng.random() < 0.7 else damage_bytes(data, rng))
        try:
            dataset = CustomDataset.open(file)
        except OutsideError as e:
            assert str(file) in str(e) and ("line " in str(e) or "empty" in str(e)), e
            raise
        for i in range(len(dataset)):
            dataset.get(i, np.random.RandomState(0))

    run("own data", attempt, marker)


def keys_of(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


def raise_value_error(message: str) -> None:
    raise ValueError(message)


def test_settings(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of the training command, and files given with ``--config``."""
    from olmo.train.config import TrainConfig

    start = tmp_path / "start"
    write_start("stts", start)
    known = [*keys_of(TrainConfig().to_dict()), *keys_of(train_config("stts", start).to_dict())]
    file = tmp_path / "more.yaml"
    tree = {"data": {"seed": 3}, "optimizer": {"llm_learning_rate": 1e-4}, "save_interval": 5}
    monkeypatch.chdir(tmp_path)
    parser = build_parser()
    monkeypatch.setattr(parser, "error", raise_value_error)

    def attempt(rng: random.Random) -> None:
        flags = []
        for _ in range(rng.randint(1, 3)):
            key = rng.choice(known) if rng.random() < 0.9 else str(rng.choice(TEXTS))
            value = nasty(rng)
            value = value if isinstance(value, str) else dump(value)
            flags.append(f"--{key}={value}")
        if rng.random() < 0.3:
            file.write_text(to_yaml(tree))
            damage_file(file, marker, rng)
            flags.append(f"--config={file}")
        args, rest = parser.parse_known_args([str(start), "debug", "--save_folder=x", *flags])
        build_config(args, parse_overrides(rest))

    run("settings", attempt, marker, named=(ValueError, OSError))
