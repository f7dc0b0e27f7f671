"""Pointing and tracking in videos on miniatures, and masks, examples written out by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from olmo.data.datasets.tracking import START_END, TRACK
from olmo.data.registry import get_dataset
from tests.data.datasets_miniature import Miniature, plain

VIDEO = "youtube-cc/youtube-cc-kw/ab/ab.mp4"
MASK = np.zeros((6, 5), dtype=bool)
MASK[1:4, 1:3] = True
MASK[5, 4] = True
COUNTS = "7330:N"
"""What pycocotools 2.0 writes for ``MASK``."""
RUNS = [7, 3, 3, 3, 13, 1]
POINT = [2.0, 2.0]
"""The pixel of ``MASK`` nearest to its centre (13/7, 17/7)."""
RLE = {"size": [6, 5], "counts": COUNTS}


def palette(numbers: np.ndarray) -> bytes:
    """A palette picture, as the annotations of the VOS sets are."""
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# 13 frames at 6 per second: frames 0, 6 and 12 are looked at, the object is hidden at 6
MEVIS = {
    "MeViS/{split}/meta_expressions.json": {
        "videos": {
            "v1": {
                "expressions": {"0": {"exp": "the dog", "obj_id": [0], "anno_id": [7]}},
                "frames": [f"{i:05d}" for i in range(13)],
            }
        }
    },
    "MeViS/{split}/mask_dict.json": {"7": [RLE if i != 6 else None for i in range(13)]},
}
VOS = {
    "meta_expressions/{split}/meta_expressions.json": {
        "videos": {
            "v1": {
                "expressions": {"3": {"exp": "the dog", "obj_id": "2"}},
                "frames": ["00000", "00005"],
            }
        }
    },
    "{split}/Annotations/v1/00000.png": palette(MASK * 2 + ~MASK * 1),
}


def files(table: dict[str, Any], split: str, folder: str = "") -> dict[str, Any]:
    return {folder + path.format(split=split): content for path, content in table.items()}


REASON = {
    "ReasonVOS/meta_expressions.json": VOS["meta_expressions/{split}/meta_expressions.json"],
    "ReasonVOS/Annotations/v1/00000.png": VOS["{split}/Annotations/v1/00000.png"],
}


def tracked(
    video: str, example_id: str, frames: list[int], fps: float = 6, o: str = "7", **more: Any
) -> dict[str, Any]:
    metadata = {
        "example_id": example_id,
        "points": {f: {o: POINT} for f in frames},
        "masks": {f: {o: MASK.tolist()} for f in frames},
        "video_fps": fps,
    }
    example = {"video": video, "label": "the dog", "style": TRACK, "sampling_fps": 1}
    return example | {"metadata": metadata | more}


def taught(
    video: str, times: list[float], style: str = TRACK, fps: int = 6, o: str = "7"
) -> dict[str, Any]:
    message = {
        "label": "the dog",
        "points": [{o: POINT} for _ in times],
        "timestamps": times,
        "point_scale": [5, 6],
        "style": style,
        "sampling_fps": 1,
    }
    return {"video": video, "message_list": [message], "metadata": {"frame_rate": fps}}


KINDS = {
    "track": TRACK,
    "ground": START_END,
    "single_point_track": "video_single_point_track_per_frame",
}
MEVIS_CLIP = "MeViS/{split}/JPEGImages/v1"
MEVIS_PICTURE = MEVIS_CLIP.format(split="valid_u") + "/1.jpg"
MEVIS_EXAMPLE = tracked(MEVIS_CLIP.format(split="valid_u"), "v1_0", [0, 12], frame_rate=6)
FRAME_OBJECTS = [{"frame": 0, "objects": [{"id": 7, **RLE}]}]
MOLMO_TRACK = {
    "id": "q1",
    "video_id": "ab",
    "label": "the dog",
    "fps": 24.0,
    "frames": FRAME_OBJECTS,
}

CASES = [
    *(
        Miniature(
            name,
            files(MEVIS, "valid_u"),
            [MEVIS_PICTURE],
            [MEVIS_EXAMPLE],
            "test",
        )
        for name in ("mevis_track_eval_1fps", "mevis_point_track_per_frame_fps_6_sample_fps_1")
    ),
    *(
        Miniature(
            f"mevis_{kind}",
            files(MEVIS, "train"),
            [MEVIS_CLIP.format(split="train") + "/1.jpg"],
            [taught(MEVIS_CLIP.format(split="train"), [0.0, 2.0], style)],
        )
        for kind, style in KINDS.items()
    ),
    *(
        Miniature(
            f"{name}_track_eval_1fps",
            files(VOS, "valid", folder),
            [f"{folder}valid/JPEGImages/v1/00000.jpg"],
            [tracked(f"{folder}valid/JPEGImages/v1", "v1_3", [0], fps, "2", frame_rate=fps)],
            "test",
        )
        for name, folder, fps in (
            ("ref_yt_vos", "Ref-YT-VOS/", 6),
            ("ref_davis17", "Ref-DAVIS17/", 24),
        )
    ),
    *(
        Miniature(
            f"{name}_{kind}",
            files(VOS, "train", folder),
            [f"{folder}train/JPEGImages/v1/00000.jpg"],
            [taught(f"{folder}train/JPEGImages/v1", [0.0], style, fps, "2")],
        )
        for name, folder, fps in (
            ("ref_yt_vos", "Ref-YT-VOS/", 6),
            ("ref_davis17", "Ref-DAVIS17/", 24),
        )
        for kind, style in KINDS.items()
    ),
    Miniature(
        "reasonvos_track_eval_1fps",
        REASON,
        ["ReasonVOS/JPEGImages/v1/00000.jpg"],
        [tracked("ReasonVOS/JPEGImages/v1", "v1_3", [0], 6, "2", frame_rate=6)],
        "test",
    ),
    Miniature(
        "molmo2_video_track_eval_1fps",
        {"Molmo2-VideoTrackEval": {"test": [MOLMO_TRACK | {"category": "animal"}]}},
        [VIDEO],
        [tracked(VIDEO, "q1", [0], 24.0, category="animal")],
        "test",
    ),
    Miniature(
        "molmo2_video_track",
        {
            "Molmo2-VideoTrack": {
                "train": [
                    {
                        "video_id": "ab",
                        "label": "the dog",
                        "duration": 5.0,
                        "frames": [{"time": 1.0, "objects": [{"id": 4, "x": 10.0, "y": 20.0}]}],
                    }
                ]
            }
        },
        [VIDEO],
        [
            {
                "video": VIDEO,
                "label": "the dog",
                "points": [{"4": [10.0, 20.0]}],
                "timestamps": [1.0],
                "point_scale": 100,
                "style": TRACK,
                "sampling_fps": 1,
            }
        ],
    ),
]

BOXES = "".join(f"{10 * i},20,4,6\n" for i in range(31))  # 30 per second: frames 0 and 30
JPEG = io.BytesIO()
Image.new("RGB", (400, 200)).save(JPEG, "JPEG")


def boxed(video: str, points: list[list[float]], times: list[float], fps: int) -> dict[str, Any]:
    example = {"video": video, "label": "a red cup", "point_scale": [400, 200]}
    example |= {"metadata": {"frame_rate": fps}}
    example |= {"style": "video_single_point_track_per_frame", "sampling_fps": 1}
    return example | {"points": [{"1": p} for p in points], "timestamps": times}


CASES += [
    Miniature(
        "lasot_sot",
        {
            "LaSOT/training_set.txt": "cup-2\n",
            "LaSOT/cup/cup-2/groundtruth.txt": BOXES,
            "LaSOT/cup/cup-2/full_occlusion.txt": ",".join(["0"] * 31),
            "LaSOT/cup/cup-2/out_of_view.txt": ",".join(["1"] + ["0"] * 30),
            "LaSOT/cup/cup-2/nlp.txt": "a red cup\n",
            "LaSOT/cup/cup-2/img/00000001.jpg": JPEG.getvalue(),
        },
        [],
        [boxed("LaSOT/cup/cup-2/img", [[302.0, 23.0]], [1.0], 30)],
    ),
    Miniature(
        "got10k_sot",
        {
            "GOT-10k/train/list.txt": "S1\n",
            "GOT-10k/train/S1/groundtruth.txt": BOXES,
            "GOT-10k/train/S1/absence.label": "0\n" * 30 + "1\n",
            "GOT-10k/train/S1/meta_info.ini": "[METAINFO]\nobject_class: a red cup\n",
            "GOT-10k/train/S1/00000001.jpg": JPEG.getvalue(),
        },
        [],
        [
            boxed(
                "GOT-10k/train/S1",
                [[2.0, 23.0], [102.0, 23.0], [202.0, 23.0]],
                [0.0, 1.0, 2.0],
                10,
            )
        ],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_example(case: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    home = case.write(tmp_path)
    expected = [{**e, "video": str(home / e["video"])} for e in case.expected]
    assert [plain(e) for e in case.read()] == expected


def test_masks_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    case = next(c for c in CASES if c.name == "ref_davis17_track")
    home = case.write(tmp_path)
    mask = home / "Ref-DAVIS17/train/Annotations/v1/00000.png"
    mask.unlink()
    with pytest.raises(OSError, match=r"Annotations/v1/00000.png"):
        get_dataset(case.name, "train").get(0, np.random.RandomState(0))
