"""``synthetic_video_qa``: small H.264 clips and questions about them, made on the spot.

Needs no download. Clip ``i`` of a split depends on (seed, level, split, i) alone, and the splits
draw from disjoint random streams. Clips are rendered once, into a cache folder that several
processes may fill at the same time; a clip counts as done when its annotation file exists.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from olmo.data.datasets.synthetic.draw import draw_frames
from olmo.data.datasets.synthetic.questions import (
    Question,
    describe,
    evaluation_questions,
    scene_questions,
)
from olmo.data.datasets.synthetic.scene import FPS, LEVELS, Scene, sample_scene
from olmo.data.registry import data_root, register_dataset
from olmo.files import write_bytes

NAME = "synthetic_video_qa"
VERSION = "v4"
SPLITS = ("train", "validation", "test")
X264 = {"preset": "ultrafast", "bf": "3", "coder": "1", "crf": "20", "g": "16", "threads": "1"}
"""x264 without lookahead: with it, clips this small do not come out the same on every run."""
QUESTIONS_PER_CLIP = 8
"""Most questions of a training example, besides the caption; drawn anew in every epoch."""
FIXED = {"fixed_prompt": True}
"""Training examples have the prompts of evaluation: a tiny model has no capacity for wordings."""
MIN_CLIPS_FOR_POOL = 64
"""With fewer clips to render, starting processes takes longer than rendering."""


def clip_seed(seed: int, level: str, split: str, index: int, stream: int) -> np.random.SeedSequence:
    """Seed of one clip. Streams: 0 the scene, 1 the pixels, 2 the evaluation questions,
    3 the scene of a text."""
    key = (list(LEVELS).index(level), SPLITS.index(split), index, stream)
    return np.random.SeedSequence(seed, spawn_key=key)


# --- rendering ---------------------------------------------------------------------------------


def encode_mp4(frames: np.ndarray) -> bytes:
    """An H.264 mp4 file of ``frames`` at ``FPS``."""
    import av  # imported late: the data sets of text do without

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=X264)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


# --- cache -------------------------------------------------------------------------------------


def clip_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.mp4"


def annotation_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.json"


def make_clip(job: tuple[Path, int, str, str, int]) -> None:
    """Render clip (folder, seed, level, split, index), unless it is there by now."""
    folder, seed, level, split, index = job
    if annotation_path(folder, index).exists():
        return
    draws = [np.random.default_rng(clip_seed(seed, level, split, index, s)) for s in range(2)]
    scene = sample_scene(level, draws[0])
    write_bytes(clip_path(folder, index), encode_mp4(draw_frames(scene, draws[1])))
    write_bytes(annotation_path(folder, index), json.dumps(scene.to_dict()).encode())


def load_annotations(folder: Path, n_clips: int) -> list[Scene]:
    """Scenes of the first ``n_clips`` clips of a rendered folder."""
    files = (annotation_path(folder, i) for i in range(n_clips))
    return [Scene.from_dict(json.loads(f.read_text())) for f in files]


def cache_folder(level: str, split: str, seed: int = 0, root: str | Path | None = None) -> Path:
    """Where the clips of a split are rendered to, under ``root`` or the data folder."""
    base = data_root() if root is None else Path(root)
    return base / NAME / VERSION / f"{level}-seed{seed}" / split


def not_rendered(folder: Path, n_clips: int) -> list[int]:
    """Which of the first ``n_clips`` clips are not in ``folder``, which is listed once."""
    done = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    return [i for i in range(n_clips) if annotation_path(folder, i).name not in done]


def rendered(name: str, split: str) -> tuple[Path, int, int]:
    """Folder of a split of a set of ``TABLE``, and how many of how many clips are in it."""
    level, n_clips = TABLE[name]
    folder, n = cache_folder(level, split), n_clips[split]
    return folder, n - len(not_rendered(folder, n)), n


# --- data set ----------------------------------------------------------------------------------


class SyntheticVideoQA:
    """Clips with questions. A training example is a clip with a few of the questions that
    apply to it and a caption; an evaluation example is a single question."""

    def __init__(
        self,
        split: str,
        n_clips: int,
        level: str = "full",
        seed: int = 0,
        root: str | Path | None = None,
        category: str | None = None,
    ) -> None:
        """``category``: training asks these questions alone, about the clips that answer them."""
        for value, known in ((split, SPLITS), (level, LEVELS)):
            if value not in known:
                raise ValueError(f"{NAME}: {value!r} is not one of {', '.join(known)}")
        self.split, self.n_clips, self.level, self.seed = split, n_clips, level, seed
        self.category = category
        self.folder = cache_folder(level, split, seed, root)
        self.prepare()
        self.scenes = load_annotations(self.folder, n_clips)
        self._clips = [i for i, scene in enumerate(self.scenes) if self._asked(scene)]
        self._examples = [] if split == "train" else self._evaluation_examples()

    def prepare(self) -> None:
        """Render the clips that the cache lacks. Safe to call from several processes at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = not_rendered(self.folder, self.n_clips)
        if not missing:
            return
        # processes that start together go through the clips in different orders, and so share them
        order = np.random.default_rng(os.getpid()).permutation(missing)
        jobs = [(self.folder, self.seed, self.level, self.split, int(i)) for i in order]
        workers = min(os.cpu_count() or 1, len(jobs))
        pooled = len(jobs) >= MIN_CLIPS_FOR_POOL and workers > 1
        title = f"rendering {NAME} {self.level} {self.split}"
        with tqdm(desc=title, total=len(jobs), unit="clip") as bar:
            if pooled and not multiprocessing.current_process().daemon:
                context = multiprocessing.get_context("spawn")
                # processes cannot start from a script without a __main__ guard, or from standard
                # input: this one makes the clips alone then
                with (
                    contextlib.suppress(BrokenProcessPool),
                    ProcessPoolExecutor(workers, mp_context=context) as pool,
                ):
                    for _ in pool.map(make_clip, jobs, chunksize=8):
                        bar.update()
            for job in jobs[bar.n :]:  # those that are there by now are not made again
                make_clip(job)
                bar.update()

    def __len__(self) -> int:
        return len(self._clips if self.split == "train" else self._examples)

    def get(self, idx: int, rng: np.random.RandomState | None) -> dict[str, Any]:
        """A new example dict; only the training split needs ``rng``."""
        if self.split != "train":
            example = self._examples[idx]
            return {**example, "metadata": dict(example["metadata"])}
        assert rng is not None
        clip = self._clips[idx]
        scene = self.scenes[clip]
        questions = self._asked(scene)
        drawn = rng.permutation(len(questions))[:QUESTIONS_PER_CLIP]
        messages = [questions[i].message() for i in sorted(drawn)]
        if self.category is None:
            messages.append(describe(scene))
        return {
            "video": str(clip_path(self.folder, clip)),
            "message_list": [message | FIXED for message in messages],
            "metadata": {"example_id": self._id(clip), "clip": clip, "level": self.level},
        }

    def _asked(self, scene: Scene) -> list[Question]:
        return [q for q in scene_questions(scene) if self.category in (None, q.category)]

    def _id(self, clip: int) -> str:
        return f"{self.level}-seed{self.seed}-{self.split}-{clip:05d}"

    def questions(self, clip: int) -> list[Question]:
        """The evaluation questions about a clip."""
        seed = clip_seed(self.seed, self.level, self.split, clip, 2)
        rng = np.random.RandomState(np.random.MT19937(seed))
        return evaluation_questions(self.scenes[clip], rng)

    def whole(self, clip: int) -> dict[str, Any]:
        """A clip with all its evaluation questions as branches of one example."""
        messages = [question.message() | FIXED for question in self.questions(clip)]
        return {"video": str(clip_path(self.folder, clip)), "message_list": messages}

    def _evaluation_examples(self) -> list[dict[str, Any]]:
        examples = []
        for clip in range(self.n_clips):
            for question in self.questions(clip):
                metadata = {
                    "example_id": f"{self._id(clip)}-{question.category}",
                    "category": question.category,
                    "clip": clip,
                    "level": self.level,
                    "answer": question.answer,
                }
                video = str(clip_path(self.folder, clip))
                examples.append({"video": video, **question.message(), "metadata": metadata})
        return examples


class SyntheticTextQA:
    """The events of a scene in words, with one question: no video.

    Teaches a language model to read and to look things up before it has to see.
    """

    def __init__(self, split: str, n_scenes: int, seed: int = 0) -> None:
        if split not in SPLITS:
            raise ValueError(f"{NAME}_text: {split!r} is not one of {', '.join(SPLITS)}")
        self.split, self.n_scenes, self.seed = split, n_scenes, seed

    def __len__(self) -> int:
        return self.n_scenes

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        """One question about scene ``idx``, drawn from ``rng``."""
        seed = clip_seed(self.seed, "full", self.split, idx, 3)
        scene = sample_scene("full", np.random.default_rng(seed))
        questions = list(scene_questions(scene))
        question = questions[int(rng.choice(len(questions)))]
        message = question.message()
        message["question"] = f"{describe(scene)['answer']}. {question.text}"
        example_id = f"text-seed{self.seed}-{self.split}-{idx:05d}"
        metadata = {"example_id": example_id, "category": question.category}
        return {**message, **FIXED, "metadata": metadata}


TABLE = {
    NAME: ("full", {"train": 2000, "validation": 200, "test": 200}),
    f"{NAME}_large": ("full", {"train": 6000, "validation": 200, "test": 200}),
    f"{NAME}_short": ("short", {"train": 8000, "validation": 100, "test": 100}),
    f"{NAME}_middle": ("middle", {"train": 6000, "validation": 100, "test": 100}),
    f"{NAME}_varied": ("varied", {"train": 2000, "validation": 200, "test": 200}),
    f"{NAME}_fast": ("fast", {"train": 2000, "validation": 200, "test": 200}),
    f"{NAME}_debug": ("short", {"train": 24, "validation": 8, "test": 8}),
}
"""Level and number of clips per split of every registered set."""


def _register(name: str, level: str, n_clips: dict[str, int]) -> None:
    @register_dataset(name, tuple(n_clips))
    def build(split: str) -> SyntheticVideoQA:
        return SyntheticVideoQA(split, n_clips[split], level)


@register_dataset(f"{NAME}_direction", ("train",))
def _build_direction(split: str) -> SyntheticVideoQA:
    level, n_clips = TABLE[f"{NAME}_short"]
    return SyntheticVideoQA(split, n_clips[split], level, category="direction")


@register_dataset(f"{NAME}_text", SPLITS)
def _build_text(split: str) -> SyntheticTextQA:
    return SyntheticTextQA(split, 60_000 if split == "train" else 600)


for _name, (_level, _n_clips) in TABLE.items():
    _register(_name, _level, _n_clips)
