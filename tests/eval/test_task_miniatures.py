"""Every kind of task from its files to its metrics, with scripted answers: data layout, prompt,
answer, score. The expected figures are worked out by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from olmo.data.registry import get_dataset
from olmo.data.synthetic_video import encode_mp4
from olmo.eval.evaluator import EvalSettings, evaluate_task, example_order
from olmo.eval.tasks import TASKS, resolve_tasks
from olmo.models.loading import load_model_config, select_checkpoint
from tests.data.datasets_miniature import Miniature
from tests.data.test_datasets_reference import CASES, GOLDEN
from tests.eval.test_lmms_eval_adapter import CHECKPOINT

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config():
    return load_model_config(select_checkpoint(CHECKPOINT))


@pytest.fixture(scope="module")
def clip():
    """Five seconds of video."""
    frames = np.random.RandomState(0).randint(0, 255, (20, 32, 32, 3), dtype=np.uint8)
    return encode_mp4(frames)


class Scripted(nn.Module):
    """Gives ``answers`` one after the other and keeps the prompts."""

    def __init__(self, tokenizer, answers):
        super().__init__()
        self.tokenizer, self.answers, self.prompts = tokenizer, list(answers), []

    def generate(self, batch, max_new_tokens, stop_ids):
        ids = batch["input_ids"][0].tolist()
        self.prompts.append(self.tokenizer.decode(ids, truncate_at_eos=False))
        answer = [*self.tokenizer.encode(self.answers[len(self.prompts) - 1]), stop_ids[0]]
        return SimpleNamespace(
            token_ids=torch.tensor([answer]),
            n_prompt_tokens=torch.tensor([len(ids)]),
            timings={"prefill": 0.0, "decode": 0.0},
        )


class Repeated:
    """The first example of a data set, several times."""

    def __init__(self, dataset, n):
        self.dataset, self.n = dataset, n

    def __len__(self):
        return self.n

    def get(self, idx, rng):
        example = self.dataset.get(0, rng)
        return {**example, "metadata": {**example["metadata"], "example_id": f"e{idx}"}}


def ask(config, task, dataset, answers):
    """Evaluate with ``answers[i]`` to example ``i``; the result and the first prompt."""
    order = example_order(len(dataset), EvalSettings().seed)
    model = Scripted(config.build_tokenizer(), [answers[i] for i in order])
    result = evaluate_task(model, config, task, EvalSettings(), CPU, dataset)
    return result, model.prompts[0]


def layout(recorded, tmp_path, monkeypatch, clip):
    """Write the recorded annotations and a clip for each video; open the data set."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    name, split, files = CASES[recorded]
    entry = GOLDEN[recorded]
    media = [e["video"].removeprefix("<VIDEO_DATA_HOME>/") for e in entry["examples"]]
    home = Miniature(name, files(entry["raw"]), media, split=split).write(tmp_path)
    for path in media:
        (home / path).write_bytes(clip)
    return get_dataset(name, split)


LETTER_SUFFIX = "Answer with the option's letter from the given choices directly."
ONLY_LETTER = "Please respond with only the letter of the correct answer."

# task, recorded layout, end of the prompt, labels, right, wrong, unparsed answers
CHOICE = [
    *(
        (name, recorded, suffix, labels, right, ["A", "a)"], ["", "(B)", "I cannot see it."])
        for name, recorded, suffix, labels, right in (
            ("mvbench", "mvbench validation", ONLY_LETTER, ["Action Sequence"], ["B", "b) it"]),
            ("lvbench", "lvbench test", ONLY_LETTER, ["reasoning"], ["B.", "Because"]),
            ("mlvu_mc", "mlvu_mc validation", LETTER_SUFFIX, ["plotQA"], ["B", "b"]),
            *(
                ("video_eval_pro_mc", "video_eval_pro_mc test", ONLY_LETTER, labels, ["B"])
                for labels in (["qa_type/t", "qa_subtype/st"],)
            ),
        )
    ),
    (
        *("motionbench", "motionbench validation", "B. y", ["Motion"]),
        *(["A", "a."], ["B", "b"], ["", "(A)", "No idea"]),
    ),
    (
        *("tomato", "tomato test", "A. 1\nB. 2", ["count"]),
        *(["B", "b", "B. 2"], ["A. 1"], ["", "The answer is (B)", "zzz"]),
    ),
    (
        *("perception_test", "perception_test validation", LETTER_SUFFIX),
        ["area/physics", "reasoning/descriptive"],
        *(["B", "(B)", "The answer is B"], ["A or B", "C"], ["", "b", "no idea"]),
    ),
    (
        *("ego_schema", "ego_schema validation", LETTER_SUFFIX, []),
        *(["C", "(C)", "The answer is (C)."], ["A C", "B."], ["", "c", "I cannot tell you that"]),
    ),
    (
        *("nextqa_mc", "nextqa_mc test", LETTER_SUFFIX, ["CW"]),
        *(["D", "(D) d", "A D"], ["D A", "B."], ["", "d", "Sorry."]),
    ),
    *(
        (
            *(name, recorded, "The best answer is:"),
            ["duration/short", "sub_category/Law", "task_type/OCR Problems"],
            *(["C", "The best answer is: (C)", "Clearly it is so"], ["B or C"], ["", "c", "E"]),
        )
        for name, recorded in (
            ("video_mme", "VideoMME(with_subtitle=False)"),
            ("video_mme_w_subtitle", "video_mme_w_subtitle validation"),
        )
    ),
    *(
        (
            *(name, recorded, LETTER_SUFFIX),
            ["duration_group/15", "question_category/S2E"],
            *(["C", "Answer: C"], ["E", "B or C"], ["", "c", "none"]),
        )
        for name, recorded in (
            ("long_video_bench_no_subtitle", "LongVideoBench(with_subtitle=False)"),
            ("long_video_bench_w_subtitle", "long_video_bench_w_subtitle validation"),
        )
    ),
]


@pytest.mark.parametrize("row", CHOICE, ids=lambda row: row[0])
def test_multiple_choice(row, config, clip, tmp_path, monkeypatch):
    name, recorded, suffix, labels, right, wrong, unparsed = row
    (task,) = resolve_tasks(None, name)
    dataset = layout(recorded, tmp_path, monkeypatch, clip)
    answers = right + wrong + unparsed
    result, prompt = ask(config, task, Repeated(dataset, len(answers)), answers)
    rows, metrics = result.predictions, result.metrics
    assert [r["prediction"] for r in rows] == answers
    assert [r["correct"] for r in rows] == [1] * len(right) + [0] * (len(wrong) + len(unparsed))
    assert [r["unparsed"] for r in rows] == [0] * (len(right) + len(wrong)) + [1] * len(unparsed)
    assert metrics["accuracy"] == len(right) / len(answers)
    assert (metrics["n"], metrics["unparsed"]) == (len(answers), len(unparsed))
    assert set(metrics["categories"]) == set(labels)
    assert (
        prompt.rstrip()
        .removesuffix("<|im_start|>assistant")
        .rstrip()
        .endswith(f"{suffix}<|im_end|>")
    )
    assert "video_" not in prompt  # no style tag before a question of several options
    assert ("hello" in prompt or "hi\n" in prompt) == name.endswith("_w_subtitle")


def test_every_video_task_has_a_miniature():
    covered = {row[0] for row in CHOICE} | {"temp_compass_internal"}
    assert covered == {task.name for task in resolve_tasks("video", None)}


def test_temp_compass(config, clip, tmp_path, monkeypatch):
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    base = {"video_id": "v1", "dim": "speed"}
    choice = {**base, "question": "Q?\nA. fast\nB. slow", "answer": "B. slow"}
    rows = {
        "multi-choice": [choice, {**choice, "dim": "order"}],
        "yes_no": [{**base, "question": "Is it?", "answer": "yes"}],
        "caption_matching": [
            {**base, "question": "Q?\nOption 1: x\nOption 2: y", "answer": "Option 2: y"}
        ],
        "captioning": [{**base, "question": "?", "mc_question": "q", "mc_answer": "a"}],
    }
    files = {f"TempCompass/{k}/test-00000-of-00001.parquet": v for k, v in rows.items()}
    video = "TempCompass/videos/v1.mp4"
    home = Miniature("temp_compass_internal", files, [video]).write(tmp_path)
    (home / video).write_bytes(clip)
    (task,) = resolve_tasks(None, "temp_compass_internal")
    dataset = get_dataset(task.dataset, task.split)
    answers = {0: "B", 1: "A. fast", 2: "Yes, it is", 3: "I am not sure"}
    assert len(dataset) == 5
    order = [i for i in example_order(5, EvalSettings().seed) if i in answers]
    model = Scripted(config.build_tokenizer(), [answers[i] for i in order])
    metrics = evaluate_task(model, config, task, EvalSettings(), CPU, dataset).metrics
    assert (metrics["n"], metrics["accuracy"], metrics["unparsed"]) == (4, 0.5, 1)
    found = {name: one["accuracy"] for name, one in metrics["categories"].items()}
    assert found == {
        "task/multi-choice": 0.5,
        "task/yes_no": 1,
        "task/caption_matching": 0,
        "temporal_aspect/speed": pytest.approx(2 / 3),
        "temporal_aspect/order": 0,
        "multi-choice_speed": 1,
        "multi-choice_order": 0,
        "yes_no_speed": 1,
        "caption_matching_speed": 0,
    }
    assert metrics["macro_average"] == pytest.approx(0.5)  # (0.5 + 1 + 0) / 3


class Listed:
    """Examples in memory."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def get(self, idx, rng):
        example = self.examples[idx]
        return {**example, "metadata": dict(example["metadata"])}


MASK = np.zeros((32, 32), dtype=bool)
MASK[8:16, 8:16] = True
POINT = '<points coords="0.5 1 312 312">x</points>'  # pixel (9.98, 9.98) of 32
OUTSIDE = '<points coords="0.5 1 900 900">x</points>'


def video_examples(tmp_path, clip, *metadata):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip)
    return Listed(
        [
            {"video": str(path), "question": "Point to x.", "style": "video_point", "metadata": m}
            for m in metadata
        ]
    )


def test_video_counting(config, clip, tmp_path):
    (task,) = resolve_tasks(None, "vixmo_points_count_clip_63s")
    dataset = video_examples(
        *(tmp_path, clip, {"count": 3, "subset": "object"}, {"count": 7, "subset": "animal"}),
        {"count": 8, "subset": "animal"},
    )
    answers = ["Counting the <points>x</points> shows a total of 3.", "6", "many"]
    metrics = ask(config, task, dataset, answers)[0].metrics
    assert (metrics["accuracy"], metrics["unparsed"]) == (pytest.approx(1 / 3), 1)
    assert metrics["scores"] == {"close": pytest.approx(2 / 3), "valid": pytest.approx(2 / 3)}
    found = {name: one["accuracy"] for name, one in metrics["categories"].items()}
    assert found == {"object": 1, "animal": 0, "count/0-5": 1, "count/5-10": 0}
    assert metrics["macro_average"] == 0.5


def test_video_pointing(config, clip, tmp_path):
    (task,) = resolve_tasks(None, "vixmo_points_point_eval")
    gold = {"gt_abs_triplets": [(0.5, 10, 10)], "gt_abs_masks": [{0.5: MASK}], "duration": 5.0}
    dataset = video_examples(tmp_path, clip, gold, gold, gold)
    result, _ = ask(config, task, dataset, [POINT, OUTSIDE, "nowhere"])
    metrics = result.metrics
    assert (metrics["accuracy"], metrics["unparsed"]) == (pytest.approx(1 / 3), 1)
    assert metrics["scores"]["recall"] == pytest.approx(1 / 3)
    assert metrics["scores"]["valid"] == pytest.approx(2 / 3)
    json.dumps(result.predictions, allow_nan=False)


@pytest.mark.parametrize("task", [t for t in TASKS if t.metric == "tracking"], ids=lambda t: t.name)
def test_tracking(task, config, clip, tmp_path):
    gold = {
        "points": {0: {"a": (10, 10)}, 5: {"a": (10, 10)}},
        "masks": {0: {"a": MASK}, 5: {"a": MASK}},
        "video_fps": 5,
        "category": "animal",
    }
    dataset = video_examples(tmp_path, clip, gold, gold)
    answers = ['<tracks coords="0.0 1 312 312;1.0 1 312 312">x</tracks>', "no tracks"]
    metrics = ask(config, task, dataset, answers)[0].metrics
    assert (metrics["accuracy"], metrics["unparsed"]) == (0.5, 1)
    assert metrics["scores"]["HOTA"] == 0.5 and metrics["categories"]["animal"]["n"] == 2


@pytest.mark.parametrize(
    "task", [t for t in TASKS if t.metric == "predictions_only"], ids=lambda t: t.name
)
def test_without_public_answers(task, config, clip, tmp_path):
    result, _ = ask(config, task, video_examples(tmp_path, clip, {}, {}), ["B", ""])
    metrics = result.metrics
    assert (metrics["accuracy"], metrics["n"], metrics["empty"]) == (None, 2, 1)
    assert [row["prediction"] for row in result.predictions] == ["B", ""]


IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)
CHOICES = {"options": ["cat", "dog"], "answer_idx": 1}
IMAGE_TASKS = {
    # metric: fields of the message, fields of the metadata, {answer: score}
    "relaxed_correctness": ({"answers": ["100"]}, {}, {"104": 1, "120": 0}),
    "vqa_score": ({"answers": ["cat"] * 2 + ["dog"]}, {}, {"cat": 2 / 3, "": 0}),
    "anls": ({"answers": ["hello"]}, {}, {"hell": 0.8, "cow": 0}),
    "select_mc_option": (CHOICES, {}, {"B. dog": 1, "A": 0}),
    "question_answering": (CHOICES, {}, {"the dog": 1, "A": 0}),
    "image_count": ({}, {"count": 1}, {POINT: 1, "none": 0}),
    "image_points": (
        {"points": [[10, 10]]},
        {"masks": [MASK], "image_size": (32, 32)},
        {POINT: 1, OUTSIDE: 0},
    ),
    "point_bench": ({}, {"mask": MASK, "image_size": (32, 32)}, {POINT: 1, "": 0}),
}


@pytest.mark.parametrize(
    "task",
    [t for t in TASKS if {"single_image", "multi_image"} & set(t.groups)],
    ids=lambda t: t.name,
)
def test_images(task, config, tmp_path):
    fields, metadata, scores = IMAGE_TASKS[task.metric]
    image = [IMAGE, IMAGE] if "multi_image" in task.groups else IMAGE
    example = {"image": image, "question": "Which?", "style": "demo", **fields}
    dataset = Listed([{**example, "metadata": metadata}] * len(scores))
    result, prompt = ask(config, task, dataset, list(scores))
    assert [row["correct"] for row in result.predictions] == [
        pytest.approx(score) for score in scores.values()
    ]
    assert "Which?" in prompt
