"""Video data sets of actions and spans, on miniatures, examples written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.datasets_miniature import Miniature
from tests.data.test_datasets_video import ACTIVITY, clip, of, sa

WHICH = ACTIVITY

CASES = [
    Miniature(
        "moments_in_time_qa",
        {
            "moments_in_time/Moments_in_Time_Raw/training_with_missing_renamed.csv": (
                "video,label\n0000007.mp4,playing+music\n0000008.mp4,missing\n"
            )
        },
        [
            "moments_in_time/Moments_in_Time_Raw/training-videos-renamed/playing+music/0000007.mp4",
        ],
        [
            of(
                "moments_in_time/Moments_in_Time_Raw/training-videos-renamed/playing+music/"
                "0000007.mp4",
                sa(WHICH, "playing music", "moments_in_time_label"),
            )
        ],
    ),
    Miniature(
        "kinetics_qa",
        {
            "kinetics/kinetics710/k710_label_map.txt": "abseiling\nacting in play\n",
            "kinetics/kinetics710/k600_train_list_videos.txt": "abseiling/x1.mp4 0\n",
            "kinetics/kinetics710/k700_train_list_videos.txt": "a1.mp4 1\nbad.mp4 1\n",
            "kinetics/kinetics_corrupt.parquet": [{"path": "acting in play/bad.mp4"}],
        },
        [
            "kinetics/kinetics600/train/abseiling/x1.mp4",
            "kinetics/kinetics700/train/acting in play/a1.mp4",
            "kinetics/kinetics700/train/acting in play/bad.mp4",
        ],
        [
            of(
                "kinetics/kinetics600/train/abseiling/x1.mp4",
                sa(WHICH, "abseiling", "kinetics_label"),
            ),
            of(
                "kinetics/kinetics700/train/acting in play/a1.mp4",
                sa(WHICH, "acting in play", "kinetics_label"),
            ),
        ],
    ),
    Miniature(
        "coin_all_qa",
        {
            "coin/COIN.json": {
                "database": {
                    "v1": {
                        "subset": "training",
                        "annotation": [{"id": "1", "segment": [2.0, 9.0], "label": "boil water"}],
                    },
                    "v2": {"subset": "testing", "annotation": []},
                }
            }
        },
        ["coin/videos/v1.webm"],
        [
            of(
                "coin/videos/v1.webm",
                sa(WHICH, "boil water", "coin_label"),
                metadata=clip(2.0, 9.0),
            )
        ],
    ),
    Miniature(
        "youcook2_all_qa",
        {
            "youcook2/youcookii_annotations_trainval.json": {
                "database": {
                    "v1": {
                        "subset": "training",
                        "annotations": [{"segment": [3, 8], "id": 0, "sentence": "cut the onion"}],
                    }
                }
            }
        },
        ["youcook2/videos/v1.mkv"],
        [
            of(
                "youcook2/videos/v1.mkv",
                sa(WHICH, "cut the onion", "youcook2_label"),
                metadata=clip(3, 8),
            ),
            of(
                "youcook2/videos/v1.mkv",
                {
                    "text": "cut the onion",
                    "start_time": 3,
                    "end_time": 8,
                    "style": "video_clip_short_caption_start_end",
                },
            ),
        ],
    ),
    Miniature(
        "epic_kitchens_qa",
        {
            "epic-kitchens/epic-kitchens-100-annotations/EPIC_100_train_with_missing.csv": (
                "participant_id,video_id,start_timestamp,stop_timestamp,narration\n"
                "P01,P01_01,00:01:00.14,00:01:03.37,open door\n"
            )
        },
        ["epic-kitchens-clips/P01/videos/P01_01_60.140_63.370.mp4"],
        [
            of(
                "epic-kitchens-clips/P01/videos/P01_01_60.140_63.370.mp4",
                sa(WHICH, "open door", "epic_kitchens_label"),
            )
        ],
    ),
    Miniature(
        "activitynet_all_qa",
        {
            "ActivityNet/activity_net.v1-3.min.json": {
                "database": {
                    "x1": {
                        "subset": "training",
                        "annotations": [{"segment": [0.5, 7.5], "label": "Surfing"}],
                    },
                    "x2": {"subset": "validation", "annotations": []},
                }
            },
            "ActivityNet/train_q.json": [
                {"video_name": "x1", "question": "is it sunny", "question_id": "q_1"}
            ],
            "ActivityNet/train_a.json": [{"answer": "yes", "type": 3, "question_id": "q_1"}],
        },
        ["ActivityNet/all-videos/v_x1.mp4"],
        [
            of(
                "ActivityNet/all-videos/v_x1.mp4",
                sa(WHICH, "Surfing", "activitynet_label"),
                metadata=clip(0.5, 7.5),
            ),
            of("ActivityNet/all-videos/v_x1.mp4", sa("is it sunny", "yes")),
        ],
    ),
    Miniature(
        "ego4d_all",
        {
            "Ego4d/ego4d_cached_train_metadata.jsonl": [
                {
                    "clip": "c1.mp4",
                    "message_list": [sa("When?", "1.0 - 2.0", "ego4d_nlq_temporal_grounding")],
                }
            ]
        },
        ["Ego4d/ego4d-clips/c1.mp4"],
        [
            of(
                "Ego4d/ego4d-clips/c1.mp4",
                sa("When?", "1.0 - 2.0", "ego4d_nlq_temporal_grounding"),
            )
        ],
    ),
    Miniature(
        "video_localized_narratives_caption",
        {
            "video-localized-narratives/hf_dataset": [
                {
                    "video": "OVIS/o1.mp4",
                    "captions": ["The cat runs.", "The dog sits."],
                    "actor_names": ["cat", "dog"],
                }
            ]
        },
        ["OVIS/o1.mp4"],
        [
            of(
                "OVIS/o1.mp4",
                {"text": "The cat runs.", "object": "cat", "style": "video_object_caption"},
                {"text": "The dog sits.", "object": "dog", "style": "video_object_caption"},
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
