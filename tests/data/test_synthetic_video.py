import dataclasses
import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("av")

import av
import numpy as np

from olmo.data.datasets.synthetic import video as synthetic_video
from olmo.data.datasets.synthetic.draw import SIZE, draw_frames, informative_cells, sprite
from olmo.data.datasets.synthetic.questions import (
    CATEGORIES,
    describe,
    evaluation_questions,
    met,
    scene_questions,
)
from olmo.data.datasets.synthetic.scene import (
    CELL,
    COLOURS,
    FPS,
    FRAME_SIZE,
    GLYPHS,
    GRID,
    LEVELS,
    TICK,
    TOUCH,
    Scene,
    Thing,
    sample_scene,
)
from olmo.data.datasets.synthetic.video import (
    QUESTIONS_PER_CLIP,
    SyntheticTextQA,
    SyntheticVideoQA,
    clip_path,
    clip_seed,
    encode_mp4,
    load_annotations,
)
from olmo.data.registry import MissingDataError, dataset_names, get_dataset, register_dataset
from olmo.data.stream import example_rng
from olmo.preprocessing.chat import DataFormatterConfig


def scenes(level: str, n: int = 150) -> list[Scene]:
    return [sample_scene(level, np.random.default_rng(i)) for i in range(n)]


def sampled(scene: Scene, fps: float = 2.0) -> np.ndarray:
    """Seconds of the frames that a model sees."""
    seconds = scene.n_frames / FPS
    return np.arange(0, seconds + 1 / fps, 1 / fps).clip(max=seconds)


SCENE = Scene(
    60,
    (
        Thing("ball", "green", (24, 24)),
        Thing("ball", "red", (88, 40), (-32, 0), (1.0, 2.5)),
        Thing("square", "blue", (24, 104)),
        Thing("square", "red", (64, 104), (-31, 0), (3.0, 4.0)),
        Thing("sign", "", (120, 120)),
        Thing("sign", "K", (120, 120), span=(4.75, 5.25)),
        Thing("lamp", "white", (104, 8)),
        Thing("lamp", "cyan", (104, 8), span=(5.25, 5.75)),
        Thing("star", "yellow", (40, 72), span=(6.25, 6.75)),
        Thing("star", "magenta", (72, 72), span=(0.25, 0.75)),
    ),
)
"""One event of every kind, each at one or two of the moments 0, 0.5, 1.0, ..."""


# --- scenes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_every_scene_of_a_level(level):
    wanted = LEVELS[level]
    for scene in scenes(level):
        kinds = {one.kind for one in scene.things if one.happens}
        assert wanted.events[0] <= len(kinds) <= wanted.events[1]
        assert scene.n_frames == TICK * (wanted.ticks - 1)
        fewest, most = wanted.leaves
        assert fewest <= sum(one.kind == "leaf" for one in scene.things) <= most
        for kind in ("ball", "square", "star"):
            looks = [one.look for one in scene.things if one.kind == kind]
            assert len(set(looks)) == len(looks)
        for one in scene.events("square"):
            x, y = (p + s for p, s in zip(one.place, one.shift, strict=True))
            target = met(scene, one).place
            assert abs(x - target[0]) + abs(y - target[1]) == TOUCH
        for t, one in itertools.product(np.arange(0, scene.n_frames / FPS, 1 / FPS), scene.things):
            margin = SIZE[one.kind] // 2
            assert all(margin <= v < FRAME_SIZE - margin for v in one.centre(t))


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_of_an_event_is_in_the_first_frame(level):
    """The picture of a scene at its start is that of the same things standing still."""
    for seed, scene in enumerate(scenes(level, 40)):
        things = [one for one in scene.things if one.kind != "leaf"]
        kept = [one for one in things if one.span is None or one.moves]
        still = [dataclasses.replace(one, span=None) for one in kept]
        frames = [
            draw_frames(Scene(1, tuple(some)), np.random.default_rng(seed))[0].astype(int)
            for some in (things, still)
        ]
        assert np.abs(frames[0] - frames[1]).max() < 10  # edges that overlap: another order
        assert not any(one.active(0.0) for one in scene.things)


def test_events_touch_few_cells_and_are_brief():
    shares, brief = [], 0
    for scene in scenes("full"):
        cells = informative_cells(scene, sampled(scene), (GRID, GRID))
        shares.append(cells.mean())
        assert not cells[0].any() and cells.any()
        for star in scene.events("star"):
            brief += 1
            assert sum(star.visible(t) for t in sampled(scene)) == 1
    assert 0.003 < np.mean(shares) < 0.02 and max(shares) < 0.1 and brief > 100


def test_half_of_the_fast_events_fall_between_the_frames():
    seen = Counter()
    for scene in scenes("fast"):
        for star in scene.events("star"):
            for fps in (2, 4):
                seen[fps, sum(star.visible(t) for t in sampled(scene, fps)) == 1] += 1
    assert seen[4, False] == 0
    assert 0.4 < seen[2, True] / (seen[2, True] + seen[2, False]) < 0.6


def test_looks_differ():
    glyphs = {g: sprite("sign", g)[..., 0] for g in GLYPHS}
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(glyphs.values(), 2)) > 1000
    colours = [sprite("ball", c)[6, 6, :3] for c in COLOURS]
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(colours, 2)) > 100


def test_informative_cells_of_a_known_scene():
    found = informative_cells(SCENE, np.arange(16) / 2, (GRID, GRID))
    cells = {tuple(cell) for cell in np.argwhere(found).tolist()}
    rows = {(t, y) for t, y, _ in cells}
    # star, ball (which stays out for another frame), square, sign, lamp, star
    assert rows == {(1, 4), (3, 2), (7, 6), (10, 7), (11, 0), (13, 4)}
    assert (10, 7, 7) in cells and (11, 0, 6) in cells and (7, 6, 1) in cells
    coarse = informative_cells(SCENE, np.arange(16) / 2, (4, 4))
    assert {(t, y // 2) for t, y in rows} == {tuple(c[:2]) for c in np.argwhere(coarse).tolist()}


# --- questions ---------------------------------------------------------------------------------


def test_questions_of_a_known_scene():
    found = {(q.category, q.text): q.answer for q in scene_questions(SCENE)}
    assert found == {
        ("moves", "Which colour is the ball that moves?"): "red",
        ("direction", "Which way does the red ball move?"): "left",
        ("order", "Which colour flashes first?"): "magenta",
        ("order", "Which colour flashes last?"): "yellow",
        ("count", "How many stars flash?"): "2",
        ("reading", "Which letter or digit is on the sign?"): "K",
        ("state", "Which colour does the lamp turn?"): "cyan",
        ("meeting", "Which colour does the red square meet?"): "blue",
    }
    assert describe(SCENE)["answer"] == (
        "magenta flashes, red ball moves left, red square meets blue, K on the sign, cyan lamp, "
        "yellow flashes"
    )


def test_answers_are_spread():
    """No category can be answered by guessing one answer: the share of the most frequent one."""
    answers: dict[str, Counter] = {}
    for scene in scenes("full", 600):
        for question in evaluation_questions(scene, np.random.RandomState(0)):
            answers.setdefault(question.category, Counter())[question.answer] += 1
    assert set(answers) == set(CATEGORIES)
    best = {k: v.most_common(1)[0][1] / v.total() for k, v in answers.items()}
    assert all(share < 0.35 for share in best.values()), best
    assert min(v.total() for v in answers.values()) > 60


# --- clips -------------------------------------------------------------------------------------


def test_frames_show_the_scene():
    frames = draw_frames(SCENE, np.random.default_rng(0)).astype(int)
    assert frames.shape == (60, FRAME_SIZE, FRAME_SIZE, 3)
    changed = np.abs(frames - frames[0]).max(-1) > 60
    cells = changed.reshape(60, GRID, CELL, GRID, CELL).sum((2, 4)) >= 10
    for tick in range(15):
        shown = informative_cells(SCENE, [tick / 2], (GRID, GRID))[0]
        assert not (shown & ~cells[TICK * tick]).any(), tick


def test_encoded_clip_decodes_to_the_frames():
    frames = draw_frames(SCENE, np.random.default_rng(0))
    with av.open(io.BytesIO(encode_mp4(frames))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        decoded = list(container.decode(video=0))
    assert [f.time for f in decoded] == [i / FPS for i in range(len(frames))]
    got = np.stack([f.to_ndarray(format="rgb24") for f in decoded])
    assert np.abs(got.astype(int) - frames).mean() < 6


# --- data set ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


def test_training_examples(root):
    data = SyntheticVideoQA("train", 3, root=root)
    assert len(data) == 3
    for i in range(3):
        example = data.get(i, np.random.RandomState(i))
        assert example == data.get(i, np.random.RandomState(i))
        assert example["video"] == str(clip_path(data.folder, i))
        assert example["metadata"]["clip"] == i
        styles = [m["style"] for m in example["message_list"]]
        assert styles[-1] == "video_short_caption" and 2 < len(styles) <= QUESTIONS_PER_CLIP + 1
        assert set(styles[:-1]) == {"video_short_answer"}


def test_evaluation_examples_are_fixed(root):
    data = SyntheticVideoQA("validation", 3, root=root)
    again = SyntheticVideoQA("validation", 3, root=root)
    examples = [data.get(i, np.random.RandomState(i)) for i in range(len(data))]
    assert examples == [again.get(i, np.random.RandomState(99)) for i in range(len(data))]
    assert len({e["metadata"]["example_id"] for e in examples}) == len(examples) > 9
    assert all(e["answer"] == e["metadata"]["answer"] for e in examples)
    data.get(0, np.random.RandomState(0))["metadata"].clear()
    assert data.get(0, np.random.RandomState(0)) == examples[0]


def test_clips_do_not_depend_on_their_number_and_are_written_once(root, tmp_path):
    few = SyntheticVideoQA("test", 2, root=tmp_path)
    before = [clip_path(few.folder, i).read_bytes() for i in range(2)]
    stamps = [clip_path(few.folder, i).stat().st_mtime_ns for i in range(2)]
    more = SyntheticVideoQA("test", 4, root=tmp_path)
    assert more.scenes[:2] == few.scenes
    assert [clip_path(more.folder, i).stat().st_mtime_ns for i in range(2)] == stamps
    other = SyntheticVideoQA("test", 2, root=root)
    assert [clip_path(other.folder, i).read_bytes() for i in range(2)] == before
    assert {p.suffix for p in more.folder.iterdir()} == {".mp4", ".json"}


def test_only_missing_clips_are_rendered(tmp_path, monkeypatch):
    data = SyntheticVideoQA("train", 3, root=tmp_path)
    synthetic_video.annotation_path(data.folder, 1).unlink()  # as after a kill between the files
    made = []
    real = synthetic_video.make_clip
    monkeypatch.setattr(synthetic_video, "make_clip", lambda job: (made.append(job[-1]), real(job)))
    assert SyntheticVideoQA("train", 3, root=tmp_path).scenes == data.scenes
    assert made == [1]


@pytest.mark.slow
def test_pool_renders_the_same_clips(tmp_path, monkeypatch):
    alone = SyntheticVideoQA("train", 4, level="short", root=tmp_path / "alone")
    monkeypatch.setattr(synthetic_video, "MIN_CLIPS_FOR_POOL", 1)
    monkeypatch.setattr(synthetic_video.os, "cpu_count", lambda: 2)
    pooled = SyntheticVideoQA("train", 4, level="short", root=tmp_path / "pooled")
    for i in range(4):
        same = [clip_path(d.folder, i).read_bytes() for d in (alone, pooled)]
        assert same[0] == same[1]
    assert load_annotations(pooled.folder, 4) == alone.scenes


@pytest.mark.slow
def test_rendering_from_standard_input(tmp_path):
    """A script that other processes cannot import renders by itself."""
    code = (
        "from olmo.data.datasets.synthetic import video\n"
        "video.MIN_CLIPS_FOR_POOL = 1\n"
        "video.os.cpu_count = lambda: 2\n"
        f"print(len(video.SyntheticVideoQA('train', 4, level='short', root={str(tmp_path)!r})))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, timeout=100, env=env
    )
    assert done.stdout.strip() == "4", done.stderr


def test_splits_levels_and_seeds_are_disjoint():
    keys = list(itertools.product((0, 1), LEVELS, synthetic_video.SPLITS, range(20), (0, 1, 2)))
    states = {tuple(clip_seed(*key).generate_state(4)) for key in keys}
    assert len(states) == len(keys)
    drawn = [
        [
            sample_scene("full", np.random.default_rng(clip_seed(0, "full", split, i, 0)))
            for i in range(60)
        ]
        for split in synthetic_video.SPLITS
    ]
    for a, b in itertools.combinations(drawn, 2):
        assert not set(map(repr, a)) & set(map(repr, b))


@pytest.mark.parametrize("bad", [{"split": "dev"}, {"level": "three"}])
def test_bad_split_or_level(tmp_path, bad):
    with pytest.raises(ValueError, match="is not one of"):
        SyntheticVideoQA(**{"split": "train", "n_clips": 1, "root": tmp_path, **bad})


# --- registry ----------------------------------------------------------------------------------


def test_registered_sets(tmp_path, monkeypatch):
    assert {"synthetic_video_qa", "synthetic_video_qa_large"} <= set(dataset_names())
    assert {"synthetic_video_qa_short", "synthetic_video_qa_varied"} <= set(dataset_names())
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(SyntheticVideoQA, "prepare", lambda self: None)
    monkeypatch.setattr(synthetic_video, "load_annotations", lambda folder, n: scenes("middle", n))
    data = get_dataset("synthetic_video_qa_middle", "validation")
    assert data.n_clips == 100 and data.folder.is_relative_to(tmp_path)
    assert len(get_dataset("synthetic_video_qa", "train")) == 2000
    with pytest.raises(ValueError, match="no split 'dev', only train, validation, test"):
        get_dataset("synthetic_video_qa", "dev")


def test_unknown_and_double_names():
    with pytest.raises(ValueError, match="did you mean 'synthetic_video_qa'"):
        get_dataset("synthetic_vidoe_qa", "train")
    with pytest.raises(ValueError, match="registered twice"):
        register_dataset("synthetic_video_qa", ("train",))(lambda split: None)


def test_missing_data_error_lists_files(tmp_path):
    error = MissingDataError(
        "tgif", [f"videos/{i}.mp4" for i in range(12)], tmp_path, "Get it by hand."
    )
    text = str(error)
    assert isinstance(error, FileNotFoundError)
    assert text.startswith("tgif: 12 missing") and str(tmp_path) in text and "videos/0.mp4" in text
    assert "and 2 more" in text and text.endswith("Get it by hand.")


def test_prompts_stay_those_that_the_shipped_model_was_trained_on(root):
    """Training draws no wording for these sets, and formatting takes no random number."""
    formatter = DataFormatterConfig().build()
    digest = hashlib.sha256()
    text = SyntheticTextQA("train", 60_000)
    for i in range(40):
        rng = example_rng(50189, i, 0)
        turns = formatter(text.get(i, rng), rng).turns
        digest.update(json.dumps([turns, float(rng.random())]).encode())
    recorded = "868b8c4c59eb718c13795799b154d8606fc87befbdf6cd7ebb65992213038257"
    assert digest.hexdigest() == recorded
    messages = SyntheticVideoQA("train", 3, root=root).get(0, np.random.RandomState(0))
    for message in messages["message_list"]:
        turns = formatter(message, np.random.RandomState(1)).turns
        assert turns == formatter(message).turns
