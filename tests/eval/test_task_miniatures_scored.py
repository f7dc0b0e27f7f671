"""The other tasks from files to metrics, with scripted answers: images, counting, pointing,
tracking, and splits without public answers. The expected figures are worked out by hand."""

import json
from statistics import fmean

import numpy as np
import pytest

from olmo.eval.tasks import SYNTHETIC, TASKS
from olmo.models.loading import load_model_config, select_checkpoint
from tests.eval import test_task_miniatures
from tests.eval.miniatures import Repeated, ask, opened, the_task
from tests.eval.scripts import DENSE

NO, REFUSAL = "", "Sorry, I cannot help with that."


@pytest.fixture(scope="module")
def config():
    return load_model_config(select_checkpoint(DENSE))


def points(*places, tag="points", time="1"):
    triples = " ".join(f"{i} {x:03d} {y:03d}" for i, (x, y) in enumerate(places, 1))
    return f'Here: <{tag} coords="{time} {triples}">it</{tag}>'


def track(*times, place=(400, 333)):
    """One object at ``place``; pixel (2, 2) of the 5 x 6 masks unless said."""
    groups = ";".join(f"{t} 1 {place[0]:03d} {place[1]:03d}" for t in times)
    return f'<tracks coords="{groups}">the dog</tracks>'


FOUR = [(100, 100), (200, 200), (300, 300), (400, 400)]
SINGLE_FRAME = {  # gold in frame 0 alone; a predicted frame without gold scores 0
    track("0.0"): 1,
    track("0.0", "1.0"): 0.5,
    track("0.0", place=(900, 100)): 0,
    REFUSAL: None,
}

BOTH = ["mc_ai2d_opaque", "mc_ai2d_transparent"]
"""The numbers of AI2D that a question with texts as options counts for."""

# task, number of the example, part of the prompt, score of each answer (None: unparsed), labels
SCORED = [
    ("chart_qa", 0, "chart_qa: Q0?", {"5.25": 1, "5.3": 0, NO: None}, ["human"]),
    ("chart_qa:test", 1, "How low?", {"1.04": 1, "One": 1, "2": 0, NO: None}, ["augmented"]),
    # one of ten annotators says cup; then one of two
    (
        "coco_2014_vqa_8192",
        2,
        "vqa2: What?",
        {"cup": 0.3, "A cup.": 0.3, "pen": 1, "c": 0, NO: None},
        [],
    ),
    *(
        (name, 0, "What?", {"cup": 1 / 6, "A cup.": 1 / 6, "c": 0, NO: None}, [])
        for name in ("coco_2014_vqa", "okvqa")
    ),
    ("text_vqa", 0, "Brand?", {"x": 0.6, "y": 1, "z": 0, NO: None}, []),
    *(
        (name, 0, asked, {"Hello": 1, "hell": 0.8, "cow": 0, NO: None}, [])
        for name, asked in (("doc_qa", "Date?"), ("info_qa", "Share?"))
    ),
    *(
        (name, 0, "A. cat\nB. dog", {"B. dog": 1, "b": 1, "A": 0, NO: None}, BOTH)
        for name in ("ai2_diagram", "ai2_diagram_v2_mix_transparent")
    ),
    ("ai2_diagram", 1, "Which?", {"A": 1, "B": 0, NO: None}, BOTH[:1]),
    (
        *("ai2_diagram_v2_mix_transparent:test", 4, "\nA\nB\nnone of them"),
        *({"B": 1, "b": 1, "none of them": 0, NO: None}, BOTH[1:]),
    ),
    ("a_okvqa_mc", 1, "A. x\nB. y", {"B": 1, "b. y": 1, "A": 0, NO: None}, []),
    ("science_qa_img", 0, "A. cup\nB. pen", {"A. cup": 1, "B": 0, NO: None}, []),
    ("a_okvqa_da", 0, "a_okvqa_da: Why?", {"y": 1 / 3, "YY": 1 / 3, "x": 0, NO: None}, []),
    ("tally_qa", 0, "tally_qa: How many?", {"3": 1, "3.": 1, "4": 0, NO: None}, []),
    *(
        (name, 0, asked, {"3": 1, "three": 1, "4": 0, NO: None}, [])
        for name, asked in (
            ("real_world_qa", "vqa2: How many?\nPlease"),
            ("real_world_qa_no_instruction", "vqa2: How many?<|im_end|>"),
        )
    ),
    *(
        (name, 1, "only the letter", {"A": 1, "a.": 1, "B": 0, NO: None}, [])
        for name in ("real_world_qa", "real_world_qa_no_instruction")
    ),
    (
        *("math_vista_v2", 0, "vqa2: How long?"),
        *({"4": 1, "5": 0, REFUSAL: None}, ["geometry"]),
    ),
    (
        *("math_vista_v2", 2, "A. no\nB. yes"),
        *({"B": 1, "(B)": 1, "yes": 1, "no": 0, REFUSAL: None}, ["geometry"]),
    ),
    *(
        (name, *row, ["Art_Theory"])
        for name in ("mmmu", "mmmu_test", "mmmu_test_v2")
        for row in (
            (0, "A. a cup\nB. Image 2", {"B": 1, "(B)": 1, "A": 0, "b": None, REFUSAL: None}),
            (2, "vqa2: What is Image 1?", {"7": 1, "8": 0, NO: None}),
            (3, "vqa2: What is Image 1?", {"24/7": 1, "3.43": 1, "3": 0, NO: None}),
        )
    ),
    *(
        (name, 0, asked, {points(*FOUR): 1, points(*FOUR[:3]): 0, "many": None}, ["count/4"])
        for name, asked in (
            ("countbench_qa", "How many?"),
            ("pixmo_count_counting", "How many people are there?"),
        )
    ),
    (
        *("pixmo_count_counting:test", 0, "How many red cars are there?"),
        *({points(*FOUR[:2]): 1, points(*FOUR): 0, "many": None}, ["count/2"]),
    ),
    (  # the mask covers columns 2 to 4 and rows 1 and 2 of 8 x 4 pixels
        *("pointing_eval_v2", 0, "cups"),
        {
            points((250, 500)): 1,
            points((250, 500), (900, 900)): 2 / 3,  # precision 1/2, recall 1
            points((900, 900)): 0,
            REFUSAL: None,
        },
        [],
    ),
    (  # the same mask, but of an image of 32 x 32 pixels
        *("point_bench", 0, "Point to the left cup."),
        {
            points((94, 47)): 1,
            points((94, 47), (900, 900)): 1,  # the first one counts
            points((900, 900), (94, 47)): 0,
            REFUSAL: None,
        },
        ["spatial"],
    ),
    (
        *("point_bench", 1, "Point to two cups."),
        *({points((94, 47), (120, 70)): 1, points((94, 47)): 0, REFUSAL: None}, ["counting"]),
    ),
    (
        *("muir_bench", 0, "Which is like Image 1?"),
        *({"A": 1, "A. Image 2": 1, "B": 0, REFUSAL: None}, ["Counting"]),
    ),
    *(  # the right letter of the second one is beyond its options
        (
            *("mmiu", index, "Which is first?", scores),
            ["task/visual_ordering", "relationship/2D-spatial", "num_images<=10"],
        )
        for index, scores in (
            (0, {"B": 1, "B. the right one": 1, "A": 0, "I don't know": None}),
            (1, {"B": 0, "G": None}),
        )
    ),
    (
        *("blink", 0, "A. the second\nB. the third"),
        *({"B": 1, "B.": 1, "A": 0, NO: None}, ["Jigsaw"]),
    ),
    (
        *("vixmo_points_count_clip_63s", 1, "jumps"),
        {"3": 1, f"{points((1, 1))} shows a total of 3.": 1, "4": 0, "9": 0, "many": None},
        ["action/event", "count/0-5"],
    ),
    (  # the object is at columns 1 and 2, rows 1 to 3 of 5 x 6 pixels at 0.5 and at 1 second
        *("vixmo_points_point_eval", 0, "cup"),
        {
            points((200, 333), time="0.5"): 1,
            points((200, 333), time="1.0"): 1,
            points((200, 333), time="0.7"): 0,  # a time between the annotated ones
            points((200, 333), (900, 100), time="0.5"): 2 / 3,
            REFUSAL: None,
        },
        [],
    ),
    *(
        (  # 6 frames per second, gold in frames 0 and 12
            *(name, 0, "the dog"),
            {
                track("0.0", "2.0"): 1,
                track("0.0"): 0.5,
                track("0.0", "1.0", "2.0"): 2 / 3,
                REFUSAL: None,
            },
            [],
        )
        for name in ("mevis_point_track_per_frame_fps_6_sample_fps_1", "mevis_track_eval_1fps")
    ),
    *(
        (f"{name}_track_eval_1fps", 0, "the dog", SINGLE_FRAME, [])
        for name in ("ref_yt_vos", "ref_davis17", "reasonvos")
    ),
    ("molmo2_video_track_eval_1fps", 0, "the dog", SINGLE_FRAME, ["animal"]),
]


@pytest.mark.parametrize("row", SCORED, ids=lambda row: f"{row[0]}-{row[1]}")
def test_task(row, config, tmp_path, monkeypatch):
    name, index, asked, scores, labels = row
    task = the_task(name)
    dataset = opened(task, tmp_path, monkeypatch)
    result, prompt = ask(config, task, Repeated(dataset, len(scores), index), list(scores))
    rows, metrics = [one.row() for one in result.predictions], result.metrics
    expected = [0 if score is None else score for score in scores.values()]
    assert [r["correct"] for r in rows] == [pytest.approx(score) for score in expected]
    assert [r["unparsed"] for r in rows] == [int(s is None) for s in scores.values()]
    assert metrics["accuracy"] == pytest.approx(fmean(expected))
    assert metrics["unparsed"] == list(scores.values()).count(None) > 0 and set(
        metrics["categories"]
    ) == set(labels)
    assert asked in prompt
    json.dumps(rows, allow_nan=False)


HELD_BACK = [task.name for task in TASKS if task.metric == "predictions_only"]


@pytest.mark.parametrize("name", HELD_BACK)
def test_without_public_answers(name, config, tmp_path, monkeypatch):
    dataset = opened(the_task(name), tmp_path, monkeypatch)
    result, prompt = ask(config, the_task(name), Repeated(dataset, 2), ["B", ""])
    metrics = result.metrics
    assert (metrics["accuracy"], metrics["n"], metrics["empty"]) == (None, 2, 1)
    assert [one.prediction for one in result.predictions] == ["B", ""]
    assert dataset.get(0, np.random.RandomState(0))["question"] in prompt


def test_every_task_has_a_miniature():
    """``synthetic_video_qa`` makes its own data; ``test_exact_generation`` asks real questions."""
    covered = {row[0] for row in test_task_miniatures.CHOICE} | {"temp_compass_internal"}
    covered |= {row[0] for row in SCORED} | set(HELD_BACK)
    assert covered == {task.name for task in TASKS if task.dataset != SYNTHETIC}


def test_scores_of_counting_pointing_and_tracking(config, tmp_path, monkeypatch):
    """What these benchmarks report beside the headline figure."""

    def scores(name, *answers, index=0):
        task = the_task(name)
        dataset = opened(task, tmp_path, monkeypatch)
        result, _ = ask(config, task, Repeated(dataset, len(answers), index), list(answers))
        return result.metrics["scores"]

    counted = scores("vixmo_points_count_clip_63s", "3", "4", "9", "many", index=1)
    assert (counted["close"], counted["valid"]) == (0.5, 0.75)
    near, far = points((200, 333), time="0.5"), points((900, 100), time="0.5")
    pointed = scores("vixmo_points_point_eval", near, far, REFUSAL, NO)
    assert pointed == {"precision": 0.25, "recall": 0.25, "f1": 0.25, "valid": 0.5}
    tracked = scores("mevis_track_eval_1fps", track("0.0", "2.0"), track("0.0"), REFUSAL)
    assert tracked["recall"] == 0.5 and tracked["valid"] == pytest.approx(2 / 3)
    assert tracked["HOTA"] == 0.5  # 1, then DetA = AssA = 1/2, then 0
