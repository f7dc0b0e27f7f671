"""Every video data set without a recorded example: a miniature in its layout on disk, and the
example written out by hand. ``First`` takes the first choice of every draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.datasets_miniature import Miniature

MC, SA = "video_multiple_choice", "video_short_answer"
FIVE = ["a", "b", "c", "d", "e"]


def mc(question: str, options: list[str], answer_idx: int, style: str = MC) -> dict[str, Any]:
    return {"question": question, "options": options, "answer_idx": answer_idx, "style": style}


def sa(question: str, answer: str, style: str = SA) -> dict[str, Any]:
    return {"question": question, "answer": answer, "style": style}


def of(video: str, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"video": video, "message_list": list(messages), **more}


def clip(start: float, end: float) -> dict[str, float]:
    return {"clip_start_time": start, "clip_end_time": end}


ACTIVITY = "What activity does the video depict?"
STAR_ROW = {
    "video_id": "ABC",
    "start": 1.0,
    "end": 5.5,
    "question": "Which?",
    "answer": "The book.",
    "choices": [
        {"choice_id": 0, "choice": "The cup."},
        {"choice_id": 1, "choice": "The book."},
    ],
}
PERCEPTION_QUESTION = {"question": "Q?", "options": ["a", "b"], "answer_id": 1}
PERCEPTION = {"v1": {"mc_question": [PERCEPTION_QUESTION] * 6}}
PERCEPTION_STYLE = {"style": "video_eval_multiple_choice"}
SUTD_HEADER = ["record_id", "vid_filename", "q_body", *(f"option{i}" for i in range(4)), "answer"]
COUNTIX = {
    "Countix/countix_train_mapped.csv": "class,count,video_path\njumping,5,train/jumping/x.mp4\n",
    "Countix/class_to_question.json": {"jumping": ["How many jumps?", "Count the jumps."]},
}
CASES = [
    Miniature(
        "paxion",
        {
            "paxion/ssv2/antonyms/train_with_rel_path.json": [
                {"rel_vid_path": "1.webm", "label": "opening a box", "antonym": "closing a box"}
            ],
            "paxion/ego4d/egoclip_subset_action_antonyms_train_val_test_split/train.jsonl": [
                {
                    "video_uid": "u1",
                    "clip_start": 1.25,
                    "clip_end": 3,
                    "clip_text": "picks up a cup",
                    "antonym": "puts down a cup",
                }
            ],
        },
        ["sth-sth-v2/videos/1.webm", "paxion-ego4d-clips/u1_1.250_3.000.mp4"],
        [
            of(
                "sth-sth-v2/videos/1.webm",
                mc(
                    "Which of these describes the action in the video?",
                    ["opening a box", "closing a box", "Not sure"],
                    0,
                ),
            ),
            of(
                "paxion-ego4d-clips/u1_1.250_3.000.mp4",
                mc(
                    "Which of these describes the action in the video?",
                    ["picks up a cup", "puts down a cup", "Not sure"],
                    0,
                ),
            ),
        ],
    ),
    Miniature(
        "perception_test_max5",
        {"perception_test/all_train.json": PERCEPTION},
        ["perception_test/train_videos/v1.mp4"],
        [
            of(
                "perception_test/train_videos/v1.mp4",
                *[mc("Q?", ["a", "b"], 1)] * n,
                **PERCEPTION_STYLE,
            )
            for n in (5, 1)
        ],
    ),
    Miniature(
        "perception_test_flat",
        {"perception_test/all_train.json": PERCEPTION},
        ["perception_test/train_videos/v1.mp4"],
        [of("perception_test/train_videos/v1.mp4", mc("Q?", ["a", "b"], 1), **PERCEPTION_STYLE)]
        * 6,
    ),
    Miniature(
        "news_video_qa_filtered",
        {
            "NewsVideoQA/final_data_feb_16/json_files/raw_files/new_train.json": [
                {"question": "Which channel?", "answer": "BBC", "uni_clipped_id": "n1"},
                {"question": "Dropped?", "answer": "", "uni_clipped_id": "n1"},
            ]
        },
        ["NewsVideoQA/final_data_feb_16/videos/train/n1.mp4"],
        [
            of(
                "NewsVideoQA/final_data_feb_16/videos/train/n1.mp4",
                sa("Which channel?", "BBC"),
                metadata={"decode_method": "av_noseek"},
            )
        ],
    ),
    Miniature(
        "how2qa",
        {"how2QA/how2QA_train_release.csv": 'v1,[0:59],n1,"n2, too",n3,Who?,right\n'},
        ["how2QA/video-clips/v1_0_59.webm"],
        [of("how2QA/video-clips/v1_0_59.webm", mc("Who?", ["right", "n1", "n2, too", "n3"], 0))],
    ),
    Miniature(
        "sutd_trafficqa",
        {
            "SUTD-TrafficQA/R2_train.jsonl": [
                SUTD_HEADER,
                [1, "b_1.mp4", "Hit?", "Yes", "", "No", "", 2],
            ]
        },
        ["SUTD-TrafficQA/compressed_videos/b_1.mp4"],
        [of("SUTD-TrafficQA/compressed_videos/b_1.mp4", mc("Hit?", ["Yes", "No"], 1))],
    ),
    Miniature(
        "social_iq2",
        {
            "social-iq2/qa/qa_train.json": [
                {"q": "How?", "vid_name": "s1", "a0": "a", "a1": "b", "a2": "c", "a3": "d"}
                | {"answer_idx": 3}
            ]
        },
        ["social-iq2/video/s1.mp4"],
        [of("social-iq2/video/s1.mp4", mc("How?", ["a", "b", "c", "d"], 3))],
    ),
    Miniature(
        "sportsqa_oe",
        {"SportsQA/meta-data/train.json": [{"video": "gym/1", "question": "Q?", "answer": "two"}]},
        ["SportsQA/gym/1.webm"],
        [of("SportsQA/gym/1.webm", sa("Q?", "two"))],
    ),
    Miniature(
        "funqa",
        {
            "FunQA/FunQA_train.json": [
                {
                    "visual_input": "H_1.mp4",
                    "task": "H2",
                    "instruction": "Why?",
                    "output": "Funny.",
                },
                {"visual_input": "H_1.mp4", "task": "H1", "instruction": "When?", "output": "[1]"},
            ],
            "FunQA/Funqa_mcqa_v1.json": [
                {"visual_input": "C_2.mp4", "question": "Which?", "options": ["x", "y"], "gt": 2},
                {"visual_input": "M_9.mp4", "question": "Other?", "options": ["x", "y"], "gt": 1},
            ],
        },
        ["FunQA/train/train_humor/H_1.mp4", "FunQA/train/train_creative/C_2.mp4"],
        [
            of("FunQA/train/train_humor/H_1.mp4", sa("Why?", "Funny.")),
            of("FunQA/train/train_creative/C_2.mp4", mc("Which?", ["x", "y"], 1)),
        ],
    ),
    Miniature(
        "star_mc",
        {"STAR/STAR_train_qa.json": [STAR_ROW]},
        ["Charades/Charades_v1/ABC.mp4"],
        [
            of(
                "Charades/Charades_v1/ABC.mp4",
                mc("Which?", ["The cup.", "The book."], 1),
                metadata=clip(1.0, 5.5),
            )
        ],
    ),
    Miniature(
        "intent_qa",
        {"IntentQA/train.csv": "video_id,question,a0,a1,a2,a3,a4,answer\n55,why,a,b,c,d,e,1\n"},
        ["IntentQA/videos/55.mp4"],
        [of("IntentQA/videos/55.mp4", sa("why", "b"), mc("why", FIVE, 1))],
    ),
    Miniature(
        "video_localized_narratives",
        {
            "video-localized-narratives/videoqa/text_output/oops_train/qa_text_output.json": [
                {
                    "video_name": "fall",
                    "qa_pairs": [{"raw_question": "Who falls?", "raw_answer": "the man"}],
                }
            ]
        },
        ["oops/oops_video/fall.mp4"],
        [of("oops/oops_video/fall.mp4", sa("Who falls?", "the man"))],
    ),
    Miniature(
        "road_text_vqa",
        {
            "RoadTextVQA/train.json": {
                "data": [{"question": "Speed?", "answers": ["60", "60 km"], "video": "r/1.mp4"}]
            }
        },
        ["RoadTextVQA/videos/1.mp4"],
        [of("RoadTextVQA/videos/1.mp4", sa("Speed?", "60"))],
    ),
    Miniature(
        "countix_oe",
        COUNTIX,
        ["kinetics/kinetics700/train/jumping/x.mp4"],
        [of("kinetics/kinetics700/train/jumping/x.mp4", sa("How many jumps?", "5"))],
    ),
    Miniature(
        "countix_mc",
        COUNTIX,
        ["kinetics/kinetics700/train/jumping/x.mp4"],
        [
            of(
                "kinetics/kinetics700/train/jumping/x.mp4",
                mc("How many jumps?", ["5", "6", "7", "8"], 0),
            )
        ],
    ),
    Miniature(
        "camerabench_qa",
        {
            "CameraBench/camerabench_qa.parquet": [
                {
                    "video_path": "c.mp4",
                    "mc_qa_list": [
                        {"Question": "How?", "Answer": "pan", "NegativeAnswers": ["tilt", "zoom"]}
                    ],
                }
            ]
        },
        ["CameraBench/train/c.mp4"],
        [of("CameraBench/train/c.mp4", mc("How?", ["pan", "tilt", "zoom"], 0))],
    ),
    Miniature(
        "motionbench_train",
        {
            "MotionBench/MotionBenchCaption-train/train.jsonl": [
                {"video_path": "m.mp4", "motion_caption": "It turns."}
            ]
        },
        ["MotionBench/MotionBenchCaption-train/videos/m.mp4"],
        [
            of(
                "MotionBench/MotionBenchCaption-train/videos/m.mp4",
                {"text": "It turns.", "style": "video_motion_caption"},
            )
        ],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_example(case: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    home = case.write(tmp_path)
    expected = [{**e, "video": str(home / e["video"])} for e in case.expected]
    assert case.read() == expected
