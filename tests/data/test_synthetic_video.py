import hashlib
import io
import itertools
import json
from collections import Counter

import pytest

pytest.importorskip("av")

import av
import numpy as np

from olmo.data.datasets.synthetic import video as synthetic_video
from olmo.data.datasets.synthetic.questions import (
    CATEGORIES,
    CLEAR_X,
    CLEAR_Y,
    COLOURS,
    FPS,
    FRAME_SIZE,
    GLYPHS,
    LEVELS,
    Character,
    Scene,
    describe,
    evaluation_questions,
    sample_scene,
    scene_questions,
)
from olmo.data.datasets.synthetic.video import (
    QUESTIONS_PER_CLIP,
    SyntheticTextQA,
    SyntheticVideoQA,
    clip_path,
    clip_seed,
    draw_frames,
    encode_mp4,
    glyph_mask,
    load_annotations,
)
from olmo.data.registry import MissingDataError, dataset_names, get_dataset, register_dataset
from olmo.data.stream import example_rng
from olmo.preprocessing.chat import DataFormatterConfig


def scenes(level: str, n: int = 150) -> list[Scene]:
    return [sample_scene(level, np.random.default_rng(i)) for i in range(n)]


def still(colour: str, glyph: str, enter: float = 0, leave: float = 10) -> Character:
    return Character(colour, glyph, (20, 20), (20, 20), enter, leave, 0, 10)


MOVER = Character("red", "K", (80, 70), (20, 70), 0, 10, 1, 9)
SCENE = Scene(
    10,
    (still("green", "A"), still("blue", "7", enter=3), still("white", "4", 5, 8.5), MOVER),
)


# --- scenes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_scene_rules(level):
    for scene in scenes(level):
        n = len(scene.characters)
        assert n in {"one": (1,), "two": (2,), "full": (3, 4)}[level]
        assert len({c.colour for c in scene.characters}) == n
        assert len({c.glyph for c in scene.characters}) == n
        assert 8 <= scene.duration <= 16
        movers = [c for c in scene.characters if c.direction]
        assert len(movers) == 1 or level == "one"
        events = [c.enter for c in scene.appearing] + [c.leave for c in scene.leaving]
        assert all(1.2 <= t <= scene.duration - 1.2 for t in events)
        assert all(abs(a - b) >= 1.5 for a, b in itertools.combinations(events, 2))
        assert all(c.leave - c.enter >= 3 for c in scene.characters)
        assert scene == Scene.from_dict(scene.to_dict())


@pytest.mark.parametrize("level", ["two", "full"])
def test_movers_keep_clear_and_move_most_of_the_time(level):
    for scene in scenes(level):
        mover = scene.mover
        travel = np.abs(np.subtract(mover.start, mover.end)).sum()
        assert travel >= FRAME_SIZE / 2
        assert mover.move_to - mover.move_from >= 0.55 * scene.duration
        for t in np.arange(0, scene.duration, 0.5):
            places = [c.centre(t) for c in scene.characters]
            for a, b in itertools.combinations(places, 2):
                assert abs(a[0] - b[0]) >= CLEAR_X or abs(a[1] - b[1]) >= CLEAR_Y


def test_glyphs_fit_and_differ():
    masks = {g: glyph_mask(g)[..., 0] for g in GLYPHS}
    for mask in masks.values():
        assert 22 <= mask.shape[0] <= CLEAR_Y
        assert 12 <= mask.shape[1] <= CLEAR_X
    padded = [np.pad(m, ((0, 30 - m.shape[0]), (0, 30 - m.shape[1]))) for m in masks.values()]
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(padded, 2)) > 50


def test_level_one_has_every_kind_of_scene():
    kinds = Counter(describe(s)["answer"].split(" ", 2)[2] for s in scenes("one", 300))
    moves = {f"moves {d}" for d in ("left", "right", "up", "down")}
    assert set(kinds) == moves | {"stays", "appears", "leaves", "appears and leaves"}


# --- questions ---------------------------------------------------------------------------------


def test_questions_of_a_known_scene():
    found = {q.category: q for q in scene_questions(SCENE, np.random.RandomState(0))}
    answers = {category: q.answer for category, q in found.items()}
    assert answers.pop("count") in ("2", "4")
    assert answers == {
        "appears_first": "blue",
        "appears_last": "white",
        "leaves": "white",
        "moving_colour": "red",
        "moving_character": "K",
        "direction": "left",
    }
    assert set(found["appears_first"].options) == {"blue", "red", "white", "green"}
    assert describe(SCENE)["answer"] == (
        "red K moves left, green A stays, blue 7 appears, white 4 appears and leaves"
    )


@pytest.mark.parametrize("level", LEVELS)
def test_every_question_is_well_formed(level):
    seen = set()
    rng = np.random.RandomState(0)
    for scene in scenes(level):
        present = {c.colour for c in scene.characters}
        for question in scene_questions(scene, rng):
            seen.add(question.category)
            assert len(set(question.options)) == 4
            assert question.options[0] == question.answer
            assert all(len(text.split()) <= 10 for text in question.wordings)
            assert 1 <= len(question.wordings) <= 2
            if question.answer in COLOURS:
                assert present <= set(question.options) <= set(COLOURS)
    ordered = {"appears_first", "appears_last", "leaves_first", "leaves_last"}
    assert seen == set(CATEGORIES) - (set() if level == "full" else ordered)


def test_right_option_is_anywhere():
    rng = np.random.RandomState(0)
    places = Counter()
    for scene in scenes("full"):
        for question in scene_questions(scene, rng):
            message = question.message(True, rng)
            assert message["unlabelled_options"][message["answer_idx"]] == question.options[0]
            places[message["answer_idx"]] += 1
    shares = np.array([places[i] for i in range(4)]) / sum(places.values())
    assert np.abs(shares - 0.25).max() < 0.05


def test_evaluation_questions_are_balanced():
    rng = np.random.RandomState(0)
    asked = [q for s in scenes("full", 300) for q in evaluation_questions(s, rng)]
    counts = Counter(category for category, _, _ in asked)
    assert len(asked) == 900 and set(counts) == set(CATEGORIES)
    assert max(counts.values()) < 2.5 * min(counts.values())
    assert 0.7 < np.mean(["unlabelled_options" in message for _, _, message in asked]) < 0.8


# --- clips -------------------------------------------------------------------------------------


def test_frames_show_the_scene():
    frames = draw_frames(SCENE, np.random.default_rng(0))
    assert frames.shape == (40, FRAME_SIZE, FRAME_SIZE, 3) and frames.dtype == np.uint8

    def count(i: int, channel_high: int, channel_low: int) -> int:
        frame = frames[i].astype(int)
        return int((frame[..., channel_high] - frame[..., channel_low] > 120).sum())

    assert count(0, 0, 2) > 100 and count(0, 2, 0) == 0  # the red one is there, the blue one not
    assert count(11, 2, 0) == 0 and count(12, 2, 0) > 100  # blue enters at 3 s
    red = frames[..., 0].astype(int) - frames[..., 2] > 120
    columns = [np.nonzero(red[i])[1].mean() for i in (0, 4, 20, 36, 39)]
    assert columns[0] == columns[1] > columns[2] > columns[3] == columns[4]


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
        assert example != data.get(i, np.random.RandomState(i + 9))
        assert example["video"] == str(clip_path(data.folder, i))
        assert example["metadata"]["clip"] == i
        styles = [m["style"] for m in example["message_list"]]
        assert styles[-1] == "video_short_caption" and len(styles) == QUESTIONS_PER_CLIP + 1
        assert set(styles[:-1]) <= {"video_multiple_choice", "video_short_answer"}


def test_evaluation_examples_are_fixed(root):
    data = SyntheticVideoQA("validation", 3, root=root)
    again = SyntheticVideoQA("validation", 3, root=root)
    examples = [data.get(i, np.random.RandomState(i)) for i in range(len(data))]
    assert examples == [again.get(i, np.random.RandomState(99)) for i in range(len(data))]
    assert len({e["metadata"]["example_id"] for e in examples}) == len(examples) == 9
    for e in examples:
        options = e.get("unlabelled_options")
        answer = options[e["answer_idx"]] if options else e["answer"]
        assert answer == e["metadata"]["answer"]
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
    alone = SyntheticVideoQA("train", 4, level="one", root=tmp_path / "alone")
    monkeypatch.setattr(synthetic_video, "MIN_CLIPS_FOR_POOL", 1)
    monkeypatch.setattr(synthetic_video.os, "cpu_count", lambda: 2)
    pooled = SyntheticVideoQA("train", 4, level="one", root=tmp_path / "pooled")
    for i in range(4):
        same = [clip_path(d.folder, i).read_bytes() for d in (alone, pooled)]
        assert same[0] == same[1]
    assert load_annotations(pooled.folder, 4) == alone.scenes


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
    assert {"synthetic_video_qa_one", "synthetic_video_qa_two"} <= set(dataset_names())
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(SyntheticVideoQA, "prepare", lambda self: None)
    monkeypatch.setattr(synthetic_video, "load_annotations", lambda folder, n: scenes("two", n))
    data = get_dataset("synthetic_video_qa_two", "validation")
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
    recorded = "c57c73e17d0adf02ff14e2437fb7995dc5a616cad908251cf75946051647813a"
    assert digest.hexdigest() == recorded
    messages = SyntheticVideoQA("train", 3, root=root).get(0, np.random.RandomState(0))
    for message in messages["message_list"]:
        turns = formatter(message, np.random.RandomState(1)).turns
        assert turns == formatter(message).turns
