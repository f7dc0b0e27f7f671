"""A video or images of an example: patches, pooling windows and token blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from olmo.config import Config, ConfigError, section
from olmo.limits import Limits
from olmo.patch_grid import join_pooling, n_cells
from olmo.preprocessing.images import ImageSource, load_image, patchify, resize_frames
from olmo.preprocessing.multicrop import (
    ImagePreprocessorConfig,
    image_crops,
    image_layout,
    image_token_ids,
)
from olmo.preprocessing.video import (
    Subtitle,
    VideoPreprocessorConfig,
    subtitle_token_ids,
    video_token_ids,
    video_token_pooling,
)
from olmo.token_budget import Budget
from olmo.tokenizer import MolmoTokenizer
from olmo.types import MultimodalType, VideoFrames


@dataclass
class MediaConfig(Config):
    """How media are read, cut and written.

    The fields of ``video``, and those of ``image`` whose names the two do not share, may also be
    given flat, as old configs and command lines do.
    """

    video: VideoPreprocessorConfig = field(default_factory=VideoPreprocessorConfig)
    image: ImagePreprocessorConfig | None = field(default_factory=ImagePreprocessorConfig)
    """None: examples with images are refused."""
    limits: Limits = field(default_factory=Limits)
    """The most that one media file may cost; what asks for more is skipped."""

    @classmethod
    def upgrade(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Move flat keys into ``video`` and ``image``.

        A flat video key that contradicts the nested one is an error. A flat image key gives way:
        in old configs it tells how the frames of a video were cut.
        """
        video = VideoPreprocessorConfig.known_keys()
        flat = {k: data.pop(k) for k in video if k in data}
        if flat:
            nested, name = section(data, "video"), "mm_preprocessor.video"
            above, below = (VideoPreprocessorConfig.from_dict(d, name) for d in (flat, nested))
            for key in flat.keys() & nested.keys():
                if getattr(above, key, None) != getattr(below, key, None):
                    both = f"{key}={flat[key]!r} contradicts {name}.{key}={nested[key]!r}"
                    raise ConfigError(f"{both}: give one of them")
            data["video"] = nested | flat
        image = ImagePreprocessorConfig.known_keys() - video
        flat = {k: data.pop(k) for k in image if k in data}
        if flat and ("image" not in data or data["image"] is not None):
            data["image"] = flat | section(data, "image")
        return data


@dataclass(frozen=True)
class VisualInput:
    """A video, an image, or a list of images.

    Attributes:
        kind: its ``multimodal_type``.
        blocks: token ids, one block per video or image.
        patches: uint8 ``[n, N, 3 * p * p]``, the patches of all frames or crops.
        pooling: int64 ``[P, window]``, patches of each ``<im_patch>`` token, -1 for none.
        sizes: width and height of the video or of each image.
        n_pruned: ``<im_patch>`` tokens that the model will remove.
        n_left_out: images of the list that are not shown.
    """

    kind: MultimodalType
    blocks: list[list[int]]
    patches: np.ndarray
    pooling: np.ndarray
    sizes: list[tuple[int, int]]
    n_pruned: int = 0
    n_left_out: int = 0

    @property
    def metadata(self) -> dict[str, Any]:
        """What an evaluation may want to know about it."""
        if self.kind != MultimodalType.MULTI_IMAGE:
            return {"image_size": self.sizes[0]}
        left_out = {"n_images_left_out": self.n_left_out} if self.n_left_out else {}
        return {"image_group_size": self.sizes, **left_out}


def joined(shown: Sequence[VisualInput]) -> tuple[np.ndarray, np.ndarray]:
    """Patches and pooling of several inputs behind each other."""
    patches = [one.patches for one in shown]
    pooling = join_pooling(
        [one.pooling for one in shown], [p.shape[0] * p.shape[1] for p in patches]
    )
    return patches[0] if len(shown) == 1 else np.concatenate(patches), pooling


def visual_arrays(shown: Sequence[VisualInput]) -> dict[str, np.ndarray]:
    """The model's inputs for what one row shows, as ``ExamplePreprocessor`` describes them."""
    out = {
        "num_images": np.array([len(one.patches) for one in shown], dtype=np.int64),
        "multimodal_type": np.array([one.kind for one in shown], dtype=np.int64),
    }
    if shown:
        out["images"], out["token_pooling"] = joined(shown)
    return out


@dataclass
class VisualPreprocessor:
    """Turns pixels into a ``VisualInput``. Frames and crops have ``image_size`` pixels; the
    ``budget`` is that of the model, by default one that removes nothing."""

    config: MediaConfig
    tokenizer: MolmoTokenizer
    image_size: tuple[int, int]
    patch_size: int
    budget: Budget | None = None

    def __post_init__(self) -> None:
        (h, w), p, video = self.image_size, self.patch_size, self.config.video
        if h % p or w % p:
            raise ValueError(f"image size {h}x{w} is not divisible by the patch size {p}")
        self.grid = (h // p, w // p)
        cells = n_cells(*self.grid, video.pooling_h, video.pooling_w)
        self.rule = self.budget or Budget(cells)

    def of_video(self, video: VideoFrames, subtitle: Subtitle | None = None) -> VisualInput:
        """Frames with their time stamps, then the subtitles."""
        n_frames, config = len(video.frames), self.config.video
        if not 0 < n_frames <= config.max_frames or len(video.timestamps) != n_frames:
            raise ValueError(
                f"video of {n_frames} frames and {len(video.timestamps)} times, expected 1 to "
                f"max_frames={config.max_frames} of both"
            )
        ids = video_token_ids(config, self.tokenizer, video.timestamps, self.rule.cells_per_frame)
        ids += subtitle_token_ids(config, self.tokenizer, subtitle, video.timestamps)
        h, w = video.frames.shape[1:3]
        frames = resize_frames(video.frames, self.image_size)
        return VisualInput(
            MultimodalType.VIDEO,
            [ids],
            patchify(frames, self.patch_size),
            video_token_pooling(config, n_frames, *self.grid),
            [video.size or (w, h)],
            self.rule.removed(n_frames),
        )

    def of_image(self, source: ImageSource, high_res: bool = False) -> VisualInput:
        """One image, cut into up to ``max_crops`` tiles, or ``high_res_max_crops``."""
        config = self._image_config()
        max_crops = config.high_res_max_crops if high_res else config.max_crops
        return self._image(source, max_crops, MultimodalType.IMAGE)

    def of_images(self, sources: Sequence[ImageSource]) -> VisualInput:
        """The first ``max_images`` of a list. With two or more, ``Image <number>`` precedes each
        block."""
        config, kind = self._image_config(), MultimodalType.MULTI_IMAGE
        if config.max_images is None:
            raise ValueError("the example has a list of images, but image.max_images is null")
        if not sources:
            raise ValueError("the example has an empty list of images")
        n_left_out = max(len(sources) - config.max_images, 0)
        sources = sources[: config.max_images]
        shown = [self._image(source, config.max_multi_image_crops, kind) for source in sources]
        blocks = [block for one in shown for block in one.blocks]
        if len(shown) > 1:
            names = [self.tokenizer.encode(f"Image {i + 1}") for i in range(len(shown))]
            blocks = [name + block for name, block in zip(names, blocks, strict=True)]
        sizes = [size for one in shown for size in one.sizes]
        return VisualInput(kind, blocks, *joined(shown), sizes, n_left_out=n_left_out)

    def max_frames(self) -> int:
        """The most frames, or crops, that one example can hold."""
        n_frames, image = self.config.video.max_frames, self.config.image
        if image is not None and image.fits(self.grid):
            return max(n_frames, image.most_crops())
        return n_frames

    def _image_config(self) -> ImagePreprocessorConfig:
        if self.config.image is None:
            raise ValueError("the example has an image, but mm_preprocessor.image is null")
        return self.config.image

    def _image(self, source: ImageSource, max_crops: int, kind: MultimodalType) -> VisualInput:
        config, multi = self._image_config(), kind == MultimodalType.MULTI_IMAGE
        pixels = load_image(source, self.config.limits)
        h, w = pixels.shape[:2]
        layout = image_layout(config, (h, w), self.grid, self.patch_size, max_crops, multi)
        crops = image_crops(pixels, layout, self.image_size, self.patch_size)
        ids = image_token_ids(config, self.tokenizer, layout)
        patches = patchify(crops, self.patch_size)
        return VisualInput(kind, [ids], patches, layout.pooling, [(w, h)])
