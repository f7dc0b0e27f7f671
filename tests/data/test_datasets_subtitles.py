"""Video data sets with subtitles or questions of several kinds, on miniatures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.datasets_miniature import Miniature
from tests.data.test_datasets_video import FIVE, mc, of, sa

TVQA_ROW = {
    "qid": 7,
    "q": "Who?",
    **{f"a{i}": text for i, text in enumerate(FIVE)},
    "answer_idx": 2,
    "ts": "10.5-12.5",
    "vid_name": "castle_s01e01_seg02_clip_00",
    "show_name": "Castle",
}
TVQA_CLIP = (
    "TVQA/video-frames/frames_hq/castle_frames/castle_s01e01_seg02_clip_00/video_00032_00037.mp4"
)
TVQA_BBT = "TVQA/video-frames/frames_hq/bbt_frames/s05e02_seg02_clip_03/video_00001_00006.mp4"
TVQA_FILES = {
    "TVQA/tvqa_train.jsonl": [
        TVQA_ROW,
        TVQA_ROW | {"vid_name": "s05e02_seg02_clip_03", "ts": "0-2"},
        TVQA_ROW | {"vid_name": "friends_s01e01_seg02_clip_00"},
    ],
    "TVQA/missing_clips.txt": "friends_s01e01_seg02_clip_00\n",
    "TVQA/tvqa_preprocessed_subtitles.jsonl": [
        {
            "vid_name": "castle_s01e01_seg02_clip_00",
            "sub": [
                {"text": "before", "start": 8.0, "end": 10.0},
                {"text": "overlaps", "start": 10.0, "end": 11.0},
                {"text": "inside", "start": 11.5, "end": 13.0},
            ],
        }
    ],
}
CINEPILE_ROW = {
    "id": "xyz",
    "subtitles": "<subtitle> Hello there.",
    "examples": [{"question": "Who?", "choices": ["x", "y"], "answer_key_position": 1}],
}
WEB_ROW = {
    "video_id": "vid1",
    "Question": "What?",
    "Answer": "right",
    "NegativeAnswers": ["w1", "w2"],
    "Category": "objects",
}
COMPASS = "TempCompass/{}/test-00000-of-00001.parquet"
COMPASS_ROW = {"video_id": "1", "question": "Which?\nA. x\nB. y", "answer": "A. x", "dim": "speed"}

CASES = [
    Miniature(
        "tvqa_with_sub",
        TVQA_FILES,
        [TVQA_CLIP, TVQA_BBT],
        [
            of(
                TVQA_CLIP,
                mc("Who?", FIVE, 2, "video_multiple_choice_w_subtitle"),
                subtitle={(0.0, 0.5): "overlaps", (1.0, 2.0): "inside"},
            ),
            of(TVQA_BBT, mc("Who?", FIVE, 2)),
        ],
    ),
    Miniature(
        "tvqa",
        TVQA_FILES,
        [TVQA_CLIP, TVQA_BBT],
        [of(TVQA_CLIP, mc("Who?", FIVE, 2)), of(TVQA_BBT, mc("Who?", FIVE, 2))],
    ),
    Miniature(
        "cinepile_with_sub",
        {"cinepile/hf_dataset": [CINEPILE_ROW]},
        ["cinepile/videos/xyz/xyz.mp4"],
        [
            of(
                "cinepile/videos/xyz/xyz.mp4",
                mc("Who?", ["x", "y"], 1, "video_multiple_choice_w_subtitle"),
                subtitle="Hello there.",
            )
        ],
    ),
    Miniature(
        "cinepile",
        {"cinepile/hf_dataset": {"train": [CINEPILE_ROW]}},
        ["cinepile/videos/xyz/xyz.mp4"],
        [of("cinepile/videos/xyz/xyz.mp4", mc("Who?", ["x", "y"], 1))],
    ),
    Miniature(
        "llava_video_oe_academic",
        {
            f"LLaVA-Video-178K/{length}_{name}/{length}_{name}_oe_qa.json": [
                {
                    "id": 3,
                    "data_source": "1_2_m_nextqa",
                    "video": "NextQA/b.mp4",
                    "conversations": [
                        {"from": "human", "value": "<image>\nWhy?"},
                        {"from": "gpt", "value": "Because."},
                        {"from": "human", "value": "Where?"},
                        {"from": "gpt", "value": "Here."},
                    ],
                }
            ]
            if (length, name) == ("1_2_m", "nextqa")
            else []
            for length in ("0_30_s", "30_60_s", "1_2_m", "2_3_m")
            for name in ("activitynetqa", "nextqa")
        },
        ["LLaVA-Video-178K/1_2_m_nextqa/NextQA/b.mp4"],
        [
            of(
                "LLaVA-Video-178K/1_2_m_nextqa/NextQA/b.mp4",
                sa("Why?", "Because."),
                sa("Where?", "Here."),
                metadata={
                    "example_id": "3_1_2_m_nextqa_NextQA/b.mp4_open_ended",
                    "prefix": "1_2_m_nextqa/*oe*.json",
                },
            )
        ],
    ),
    Miniature(
        "molmo2_syn_captions_qa",
        {"Molmo2-VideoCapQA": {"CapQA": [WEB_ROW, WEB_ROW | {"Question": "Who?"}]}},
        ["youtube-cc/youtube-cc-kw/vid1/video.webm"],
        [
            of(
                "youtube-cc/youtube-cc-kw/vid1/video.webm",
                mc("What?", ["right", "w1", "w2"], 0),
                mc("Who?", ["right", "w1", "w2"], 0),
            )
        ],
    ),
    Miniature(
        "molmo2_syn_captions_subtitle_qa",
        {
            "Molmo2-VideoSubtitleQA": {
                "SubtitleQA": [WEB_ROW | {"subtitle": [{"start": 0.5, "end": 2.0, "text": "hi"}]}]
            }
        },
        ["youtube-cc/youtube-cc-exist/vid1/vid1.mp4"],
        [
            of(
                "youtube-cc/youtube-cc-exist/vid1/vid1.mp4",
                mc("What?", ["right", "w1", "w2"], 0),
                subtitle={(0.5, 2.0): "hi"},
            )
        ],
    ),
    Miniature(
        "temp_compass_internal",
        {
            COMPASS.format("multi-choice"): [COMPASS_ROW],
            COMPASS.format("yes_no"): [COMPASS_ROW | {"question": "Fast?", "answer": "yes"}],
            COMPASS.format("caption_matching"): [],
            COMPASS.format("captioning"): [
                {"video_id": "1", "question": "Describe.", "dim": "speed"}
                | {"mc_question": "Which?", "mc_answer": "A. x"}
            ],
        },
        ["TempCompass/videos/1.mp4"],
        [
            {
                "video": "TempCompass/videos/1.mp4",
                "style": "video_eval_multiple_choice",
                "question": "Which?\nA. x\nB. y\nPlease directly give the best option:",
                "answer": "A. x",
                "metadata": {
                    "example_id": "multi-choice_1_0",
                    "video_id": "1",
                    "task": "multi-choice",
                    "temporal_aspect": "speed",
                    "question": "Which?\nA. x\nB. y",
                    "answer": "A. x",
                },
            },
            {
                "video": "TempCompass/videos/1.mp4",
                "style": "video_eval_multiple_choice",
                "question": "Fast?\nPlease answer yes or no:",
                "answer": "yes",
                "metadata": {
                    "example_id": "yes_no_1_0",
                    "video_id": "1",
                    "task": "yes_no",
                    "temporal_aspect": "speed",
                    "question": "Fast?",
                    "answer": "yes",
                },
            },
            {
                "video": "TempCompass/videos/1.mp4",
                "style": "video_eval_multiple_choice",
                "question": "Describe.",
                "metadata": {
                    "example_id": "captioning_1_0",
                    "video_id": "1",
                    "task": "captioning",
                    "temporal_aspect": "speed",
                    "question": "Describe.",
                    "mc_question": "Which?",
                    "mc_answer": "A. x",
                },
            },
        ],
        split="validation",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_example(case: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    home = case.write(tmp_path)
    expected = [{**e, "video": str(home / e["video"])} for e in case.expected]
    assert case.read() == expected
