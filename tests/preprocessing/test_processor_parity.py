"""Token ids, pooling and pixels against transformers' own Molmo2 processor.

Token ids and pooling are equal. Pixels are, but for one grey level at a few of them: torch's
kernel for three colours at once, which transformers uses, adds the four neighbours in another
order than the one for a single plane, and a sum close to one half between two levels may then
be rounded the other way.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.video_utils import VideoMetadata

from olmo.data.frame_sampling import FrameSampling, sample_times
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.images import load_image, resize_frames
from olmo.preprocessing.multicrop import ImagePreprocessorConfig, select_tiling
from olmo.preprocessing.multimodal import ExamplePreprocessor, Molmo2PreprocessorConfig
from olmo.preprocessing.video import VideoPreprocessorConfig
from olmo.tokenizer import BIDIRECTIONAL_TOKENS, MolmoTokenizer, TokenizerConfig
from olmo.types import VideoFrames
from tests.preprocessing.transformers_processor import (
    replace_torchvision,
    to_float,
    transformers_processor,
)

PROMPT = "<|im_start|>user\nWhat is 12.5?<|im_end|>\n<|im_start|>assistant\n"
QUESTION = {"question": "What is 12.5?", "style": "user_qa"}
ONE_LEVEL = 2 / 255 + 1e-6
MOST_DIFFERENT = 2e-4
"""Share of pixel values that may be a level apart; 1.2e-4 is the largest measured (noise of 756 x
378 pixels, enlarged)."""
SIZES = [
    *[(480, 641), (641, 480), (37, 53), (113, 113), (112, 112), (377, 379), (378, 378)],
    *[(1081, 1919), (300, 1000), (1, 1), (919, 127), (113, 700)],
]
"""Height and width."""


@pytest.fixture(autouse=True)
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_torchvision(monkeypatch)


@pytest.fixture(scope="module")
def tokenizer() -> MolmoTokenizer:
    return TokenizerConfig().build(512)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def build(tokenizer: MolmoTokenizer, **video: Any) -> ExamplePreprocessor:
    image = video.pop("image", {})
    config = Molmo2PreprocessorConfig(
        video=VideoPreprocessorConfig(**video), image=ImagePreprocessorConfig(**image)
    )
    return ExamplePreprocessor(config, DataFormatterConfig(), tokenizer, (378, 378), 14)


def check(ours: dict[str, Any], theirs: dict[str, Tensor], kind: str) -> None:
    pixels = {"image": "pixel_values", "video": "pixel_values_videos"}[kind]
    assert ours["input_tokens"].tolist() == theirs["input_ids"][0].tolist()
    assert ours["token_pooling"].tolist() == theirs[f"{kind}_token_pooling"].tolist()
    assert tuple(ours["images"].shape) == tuple(theirs[pixels].shape)
    difference = (to_float(ours["images"]) - theirs[pixels]).abs()
    assert difference.max() <= ONE_LEVEL
    assert (difference > 1e-6).double().mean() <= MOST_DIFFERENT


def visible_to_each_other(tokenizer: MolmoTokenizer, ids: np.ndarray) -> list[int]:
    wanted = [tokenizer.ids[t] for t in BIDIRECTIONAL_TOKENS]
    return np.isin(ids, wanted).astype(int).tolist()


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_one_image(tokenizer: MolmoTokenizer, size: tuple[int, int]) -> None:
    image = noise(*size)
    theirs = transformers_processor(tokenizer)(
        images=[Image.fromarray(image)], text="<|image|>" + PROMPT, return_tensors="pt"
    )
    ours = build(tokenizer)({"image": image, **QUESTION}, for_inference=True)
    check(ours, theirs, "image")
    assert theirs["image_num_crops"].tolist() == ours["num_images"].tolist()
    marks = visible_to_each_other(tokenizer, ours["input_tokens"])
    assert theirs["mm_token_type_ids"][0].tolist() == marks


@pytest.mark.parametrize(
    ("image", "options"),
    [
        ({"max_crops": 24}, {"image": {"max_crops": 24}}),
        ({"overlap_margins": (2, 3)}, {"image": {"overlap_margins": [2, 3]}}),
        ({"pooling_h": 4, "pooling_w": 3}, {"image": {"pooling_size": [4, 3]}}),
        ({"use_single_crop_col_tokens": None}, {"use_single_crop_col_tokens": None}),
        ({"use_single_crop_start_token": False}, {"use_single_crop_start_token": False}),
        ({"use_col_tokens": False}, {"image_use_col_tokens": False}),
    ],
    ids=lambda x: next(iter(x)),
)
def test_settings_of_an_image(
    tokenizer: MolmoTokenizer, image: dict[str, Any], options: dict[str, Any]
) -> None:
    processor = transformers_processor(tokenizer, **options)
    picture = noise(700, 901)
    theirs = processor(images=[picture], text="<|image|>" + PROMPT, return_tensors="pt")
    example = {"image": picture, **QUESTION}
    check(build(tokenizer, image=image)(example, for_inference=True), theirs, "image")


def test_several_images(tokenizer: MolmoTokenizer) -> None:
    """The image numbers come from the chat template there."""
    images = [noise(160, 500, seed=1), noise(300, 201, seed=2), noise(500, 499, seed=3)]
    names = "".join(f"Image {i + 1}<|image|>" for i in range(3))
    theirs = transformers_processor(tokenizer)(
        images=images, text=names + PROMPT, return_tensors="pt"
    )
    ours = build(tokenizer)({"image": images, **QUESTION}, for_inference=True)
    check(ours, theirs, "image")
    assert theirs["image_num_crops"].sum() == ours["num_images"].sum()


def frames_of(n: int, size: tuple[int, int], every: int, fps: float) -> tuple[VideoFrames, dict]:
    """A video of which every ``every``-th frame is shown, and its metadata for transformers."""
    indices = list(range(0, n * every, every))
    times = np.array(indices) / fps
    metadata = {"fps": fps, "total_num_frames": n * every, "duration": n * every / fps}
    return VideoFrames(noise(n, *size), times, n * every / fps), metadata | {
        "frames_indices": indices
    }


def both_videos(
    tokenizer: MolmoTokenizer, video: VideoFrames, metadata: dict, **options: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    theirs = transformers_processor(tokenizer, **options.pop("theirs", {}))(
        videos=[video.frames],
        text="<|video|>" + PROMPT,
        return_tensors="pt",
        videos_kwargs={"do_sample_frames": False, "video_metadata": [metadata]},
    )
    ours = build(tokenizer, **options)({"video": "v", **QUESTION}, video, for_inference=True)
    return ours, theirs


@pytest.mark.parametrize(
    ("n", "size", "every", "fps"),
    [
        *[(1, (120, 161), 1, 2.0), (2, (53, 37), 30, 30.0), (3, (378, 378), 12, 23.976)],
        *[(5, (361, 641), 1, 0.5), (8, (90, 160), 25, 12.5), (16, (64, 64), 15, 29.97)],
        (24, (20, 30), 599, 59.94),
    ],
)
def test_video(
    tokenizer: MolmoTokenizer, n: int, size: tuple[int, int], every: int, fps: float
) -> None:
    video, metadata = frames_of(n, size, every, fps)
    ours, theirs = both_videos(tokenizer, video, metadata)
    check(ours, theirs, "video")
    marks = visible_to_each_other(tokenizer, ours["input_tokens"])
    assert theirs["mm_token_type_ids"][0].tolist() == marks


@pytest.mark.parametrize(
    ("total", "fps"), [(3, 1.0), (10, 5.0), (50, 25.0), (45, 29.97), (90, 24.0), (77, 60.0)]
)
def test_video_that_transformers_samples(tokenizer: MolmoTokenizer, total: int, fps: float) -> None:
    """Whole video in there; here the frames that it chose, at the times it writes."""
    frames = noise(total, 24, 32)
    metadata = {"fps": fps, "total_num_frames": total, "duration": total / fps}
    processor = transformers_processor(tokenizer)
    indices = processor.video_processor.sample_frames(VideoMetadata(**metadata))
    theirs = processor(
        videos=[frames],
        text="<|video|>" + PROMPT,
        return_tensors="pt",
        videos_kwargs={"video_metadata": [metadata]},
    )
    assert theirs["video_grids"][0, 0] == len(indices) > (total > fps)
    video = VideoFrames(frames[indices.numpy()], (indices / fps).numpy(), total / fps)
    ours = build(tokenizer)({"video": "v", **QUESTION}, video, for_inference=True)
    check(ours, theirs, "video")


@pytest.mark.parametrize(
    ("video", "theirs"),
    [
        ({"pooling_h": 2, "pooling_w": 2}, {"video": {"pooling_size": [2, 2]}}),
        ({"pooling_h": 4, "pooling_w": 4}, {"video": {"pooling_size": [4, 4]}}),
        ({"use_frame_special_tokens": False}, {"use_frame_special_tokens": False}),
    ],
    ids=["2x2", "4x4", "im_start"],
)
def test_settings_of_a_video(
    tokenizer: MolmoTokenizer, video: dict[str, Any], theirs: dict[str, Any]
) -> None:
    frames, metadata = frames_of(3, (50, 70), 1, 2.0)
    check(*both_videos(tokenizer, frames, metadata, theirs=theirs, **video), "video")


@pytest.mark.parametrize("size", [(756, 378), (120, 161), (112, 112), (1080, 1919)])
def test_pixels_are_right_to_rounding(size: tuple[int, int]) -> None:
    """Against interpolation in float64: off by half a level and by the float32 error of the
    places that are read (larger in a larger image)."""
    image = noise(*size)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    exact = F.interpolate(planes, size=(378, 910), mode="bilinear", align_corners=False)
    ours = torch.from_numpy(resize_frames(image[None], (378, 910))).permute(0, 3, 1, 2)
    assert (ours - exact).abs().max() <= 0.5 + 0.1


# What differs, as docs/data.md says.


def test_long_narrow_images_differ(tokenizer: MolmoTokenizer) -> None:
    """One side within the margins: transformers divides by a negative length and takes one tile,
    here (and in the reference) the other side decides."""
    image_processor = transformers_processor(tokenizer).image_processor
    grid, n_crops = image_processor.get_image_grid_and_crops(100, 10000)
    assert n_crops == 2 and grid == [14, 14, 14, 14]
    assert select_tiling(
        (100 - 112, 10000 - 112), (266, 266), ImagePreprocessorConfig().tilings(8)
    ) == (1, 8)


def test_transparency_differs(tokenizer: MolmoTokenizer) -> None:
    """transformers puts a white ground behind it, here the colours are taken as they are."""
    clear = Image.new("RGBA", (30, 30), (10, 20, 30, 0))
    theirs = transformers_processor(tokenizer).image_processor([clear], return_tensors="pt")
    assert (theirs["pixel_values"] == 1).all()
    assert load_image(clear)[0, 0].tolist() == [10, 20, 30]


def test_orientation_of_an_opened_image_differs(tokenizer: MolmoTokenizer) -> None:
    """transformers turns an image upright that it reads itself, here an opened one is as well."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(noise(200, 700)).save(file, "PNG", exif=exif)
    opened = Image.open(file)
    theirs = transformers_processor(tokenizer).image_processor([opened], return_tensors="pt")
    assert theirs["image_grids"][0, 2] < theirs["image_grids"][0, 3]
    assert load_image(opened).shape == (700, 200, 3)


def test_rounding_of_sampled_times_differs(tokenizer: MolmoTokenizer) -> None:
    """Frames that transformers chose itself have float32 times: 3 / 20 s is written 0.2 there."""
    video, metadata = frames_of(2, (20, 20), 3, 20.0)
    ours, theirs = both_videos(tokenizer, video, metadata)
    check(ours, theirs, "video")
    metadata["frames_indices"] = torch.tensor(metadata["frames_indices"])
    _, sampled = both_videos(tokenizer, video, metadata)
    text = [
        tokenizer.decode(i.tolist(), False)
        for i in (theirs["input_ids"][0], sampled["input_ids"][0])
    ]
    assert "0.1" in text[0] and "0.2" in text[1]


def test_chosen_frames_differ(tokenizer: MolmoTokenizer) -> None:
    """transformers leaves out the end of the video, which training shows."""
    processor = transformers_processor(tokenizer).video_processor
    metadata = VideoMetadata(total_num_frames=90, fps=30.0, duration=3.0)
    assert (processor.sample_frames(metadata) / 30).tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    times = sample_times(FrameSampling(64, max_fps=(2.0,)), 3.0)
    assert times.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
