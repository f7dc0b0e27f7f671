"""The JSON files of a Hugging Face folder <-> a native model section.

``config.json`` is read strictly (see ``config``); of the processor's files only the settings that
this project has are taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olmo.config import ConfigError
from olmo.models.hf_layout.config import read_config
from olmo.models.json_files import read_json
from olmo.outside import foreign

HF_CONFIG = "config.json"
PROCESSOR_FILE = "processor_config.json"
PARTS = {
    "image_processor": "preprocessor_config.json",
    "video_processor": "video_preprocessor_config.json",
}
"""Sections of ``processor_config.json``, and the files that older folders have for them."""

PROCESSOR_KEYS = {
    "image_use_col_tokens": ("image", "use_col_tokens"),
    "use_single_crop_col_tokens": ("image", "use_single_crop_col_tokens"),
    "use_single_crop_start_token": ("image", "use_single_crop_start_token"),
    "use_frame_special_tokens": ("video", "use_frame_special_tokens"),
}
"""Keys of the processor itself, and where they are in ``mm_preprocessor``."""


def read_hf_folder(folder: Path) -> dict[str, Any]:
    """The native model section of a folder with a ``config.json``.

    Its tokenizer is the folder's own. Whether the head is tied is not in these files.
    """
    section, _ = read_config(read_json(folder / HF_CONFIG), folder / HF_CONFIG)
    section["llm"]["tokenizer"] = {"identifier": str(folder.resolve())}
    section["mm_preprocessor"] = read_processor(folder) | section.get("mm_preprocessor", {})
    return section | _native_settings(folder)


def _native_settings(folder: Path) -> dict[str, Any]:
    """``mm_preprocessor`` and ``data_formatter`` of a ``Molmo2LiteProcessor``, which keeps them in
    their native form; empty for any other processor."""
    file = folder / PROCESSOR_FILE
    own = read_json(file).get("preprocessing", {}) if file.is_file() else {}
    if not isinstance(own, dict):
        raise ConfigError(f"{file}: preprocessing is {own!r}, expected a JSON object")
    return {key: own[key] for key in ("mm_preprocessor", "data_formatter") if key in own}


def read_processor(folder: Path) -> dict[str, Any]:
    """The ``mm_preprocessor`` section that the processor files of ``folder`` amount to; what
    they leave out keeps this project's default."""
    named = f"{folder}: a processor file has a value of the wrong kind"
    with foreign(lambda reason: ConfigError(f"{named}: {reason}")):
        return _read_processor(folder)


def _read_processor(folder: Path) -> dict[str, Any]:
    file = folder / PROCESSOR_FILE
    processor = read_json(file) if file.is_file() else {}
    parts = {}
    for name, old_file in PARTS.items():
        old = folder / old_file
        parts[name] = processor.get(name) or (read_json(old) if old.is_file() else {})
        if not isinstance(parts[name], dict):
            raise ConfigError(f"{file}: {name} is {parts[name]!r}, expected a JSON object")
    image, video = parts["image_processor"], parts["video_processor"]
    out: dict[str, dict[str, Any]] = {"image": {}, "video": {}}
    for key, (part, name) in PROCESSOR_KEYS.items():
        if key in processor:
            out[part][name] = processor[key]
    if image:
        out["image"]["crop_mode"] = "overlap-and-resize-c2"
    for name in ("max_crops", "overlap_margins"):
        if name in image:
            out["image"][name] = image[name]
    if "max_crops" in image:
        out["image"]["max_multi_image_crops"] = image["max_crops"]
    for prefix in ("", "multi_image_") if "pooling_size" in image else ():
        out["image"][f"{prefix}pooling_h"], out["image"][f"{prefix}pooling_w"] = image[
            "pooling_size"
        ]
    if "pooling_size" in video:
        out["video"]["pooling_h"], out["video"]["pooling_w"] = video["pooling_size"]
    if "num_frames" in video:
        out["video"]["max_frames"] = video["num_frames"]
    if "max_fps" in video:
        rate = video["max_fps"]
        out["video"]["max_fps"] = None if rate is None else [float(rate)]
    return {part: values for part, values in out.items() if values}
