"""transformers' Molmo2 processor, built without a network from this package's tokenizer.

Its image and video classes call torchvision, whose wheels need a CUDA build of torch. Where it is
absent, the few functions that they call are put in its place with the torch calls that torchvision
itself makes for float tensors (checked once against torchvision 0.29: bit for bit the same).
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers.models.molmo2")

import torch
import torch.nn.functional as F
import transformers.image_processing_backends as image_backend
import transformers.video_processing_utils as video_backend
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.image_utils import PILImageResampling
from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor
from transformers.models.molmo2.processing_molmo2 import Molmo2Processor
from transformers.models.molmo2.video_processing_molmo2 import Molmo2VideoProcessor
from transformers.utils import is_torchvision_available
from transformers.video_utils import load_video

from olmo.tokenizer import SPECIAL_TOKENS, MolmoTokenizer


class Interpolation(enum.Enum):
    """The members that transformers asks for."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


def _resize(
    image: Tensor, size: tuple[int, int], interpolation: Interpolation, antialias: bool
) -> Tensor:
    assert image.is_floating_point() and interpolation is Interpolation.BILINEAR
    return F.interpolate(
        image, size=size, mode="bilinear", align_corners=False, antialias=antialias
    )


def _normalize(image: Tensor, mean: Tensor, std: Tensor, inplace: bool = False) -> Tensor:
    return image.sub(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


def _grayscale_to_rgb(image: Tensor) -> Tensor:
    assert image.shape[-3] == 3
    return image


def replace_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give transformers what it needs of torchvision, unless that is installed."""
    if is_torchvision_available():
        return
    functions = SimpleNamespace(
        InterpolationMode=Interpolation,
        resize=_resize,
        normalize=_normalize,
        grayscale_to_rgb=_grayscale_to_rgb,
    )
    for module in (image_backend, video_backend):
        monkeypatch.setattr(module, "tvF", functions, raising=False)
    modes = {PILImageResampling.BILINEAR: Interpolation.BILINEAR}
    monkeypatch.setattr(image_backend, "pil_torch_interpolation_mapping", modes)


class Processor(Molmo2Processor):
    """Without the check of the parts' classes, which looks them up in a table that is empty
    without torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        return type(argument)


def transformers_tokenizer(tokenizer: MolmoTokenizer) -> PreTrainedTokenizerFast:
    """The same tokens and ids, special tokens included."""
    raw = Tokenizer.from_str(tokenizer.raw.to_str())
    n_fill = tokenizer.vocab_size - raw.get_vocab_size()
    names = [f"|<EXTRA_TOKENS_{i}>|" for i in range(n_fill)] + list(SPECIAL_TOKENS)
    raw.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def transformers_processor(
    tokenizer: MolmoTokenizer,
    image: dict[str, Any] | None = None,
    video: dict[str, Any] | None = None,
    **options: Any,
) -> Molmo2Processor:
    """Processor with the settings of the released models and these changes to it and its parts."""
    pixels = {"do_resize": True, "do_rescale": True, "do_normalize": True}
    pixels |= {"rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return Processor(
        Molmo2ImageProcessor(**pixels | (image or {})),
        Molmo2VideoProcessor(**pixels | (video or {})),
        transformers_tokenizer(tokenizer),
        **{"use_single_crop_col_tokens": False} | options,
    )


class PyAvVideoProcessor(Molmo2VideoProcessor):
    """Reads files with transformers' PyAV reader; its default, torchcodec, is not installed."""

    def fetch_videos(self, video_url_or_urls: Any, sample_indices_fn: Any = None) -> Any:
        if isinstance(video_url_or_urls, list):
            found = [self.fetch_videos(video, sample_indices_fn) for video in video_url_or_urls]
            return list(zip(*found, strict=True))
        return load_video(video_url_or_urls, backend="pyav", sample_indices_fn=sample_indices_fn)


def processor_of_folder(folder: Path) -> Molmo2Processor:
    """What ``AutoProcessor.from_pretrained(folder)`` makes of the folder's files, which itself
    refuses to work without torchvision."""
    settings = json.loads((folder / "processor_config.json").read_text())
    assert settings.pop("processor_class") == "Molmo2Processor"
    options = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    return Processor(
        Molmo2ImageProcessor.from_pretrained(folder),
        PyAvVideoProcessor.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        chat_template=(folder / "chat_template.jinja").read_text(),
        **options,
    )


def to_float(pixels: Any) -> Tensor:
    """uint8 patches as the model sees them, in [-1, 1]."""
    return torch.as_tensor(pixels).float() / 255 * 2 - 1
