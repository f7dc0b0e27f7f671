"""``Molmo2LiteConfig``: the Hugging Face config of a Molmo2 model that prunes video tokens.

The dense fields are those of transformers' ``Molmo2Config``; the fields of STTS stand beside them
in ``config.json``. With ``prune=False`` or ``topk=0`` it is the dense model.
"""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import Molmo2Config as HfMolmo2Config
from transformers.models.molmo2 import Molmo2TextConfig

from olmo.config import expand
from olmo.models.hf_layout.config import read_config, to_hf, value_at
from olmo.models.hf_layout.fields import FIELDS, PRUNING_KEYS, VISION
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig

OUTSIDE = ("quantization_config",)
"""Keys that transformers adds for its own ends."""

KEPT = ("dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id")
"""Keys of a published config that say nothing about the model's shape."""

DEFAULTS = TemporalVideoOlmoConfig()


class Molmo2LiteConfig(HfMolmo2Config):
    """Dense Molmo2 fields plus those of ``TemporalVitConfig``, which explains them.

    ``ConfigError`` (a ``ValueError``) for an unknown key and for values that the native config
    refuses.
    """

    model_type = "molmo2_lite"

    bi_directional_attn: str | None = "image_tokens"

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None and self.adapter_config is None:
            text = Molmo2TextConfig()  # transformers' own defaults do not fit each other
            self.adapter_config: Any = {
                "intermediate_size": text.intermediate_size,
                "text_hidden_size": text.hidden_size,
            }
        for key, path in PRUNING_KEYS.items():
            setattr(self, key, kwargs.pop(key, value_at(DEFAULTS, path)))
        super().__post_init__(**kwargs)
        self.to_native()  # says what does not fit together

    @classmethod
    def from_pretrained(cls, path: Any, **kwargs: Any) -> Any:
        """As in transformers; errors name the file."""
        path = hub_or_folder(path)
        return super().from_pretrained(path, **{"name_or_path": str(path), **kwargs})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Config of a ``config.json``, in this form or in that of the published repositories."""
        where = Path(kwargs.get("name_or_path") or "") / "config.json"
        if VISION["remote"] in config_dict:
            config_dict = _of_published(config_dict, where)
        return super().from_dict(config_dict, **kwargs)

    def to_native(self) -> TemporalVideoOlmoConfig:
        """Config of the native model; its preprocessing part fits, but holds defaults."""
        where = Path(self.name_or_path or "") / "config.json"
        data = {k: v for k, v in self.to_dict().items() if k not in OUTSIDE}
        pooling = {"pooling_h": self.video_pooling, "pooling_w": self.video_pooling}
        more = {
            "llm": {"weight_tying": self.tie_word_embeddings},
            "mm_preprocessor": {"video": pooling},
        }
        return copy.deepcopy(_native(json.dumps(data), where, json.dumps(more)))

    @classmethod
    def from_native(cls, native: TemporalVideoOlmoConfig) -> Molmo2LiteConfig:
        """The config of the same model. ``ValueError`` if transformers' fields cannot say it."""
        _check_sayable(native)
        data = to_hf(native, "transformers")
        for part in (data, data["text_config"]):
            part["tie_word_embeddings"] = native.llm.weight_tying
        data |= {key: value_at(native, path) for key, path in PRUNING_KEYS.items()}
        data |= {
            "bi_directional_attn": native.bi_directional_attn,
            "architectures": ["Molmo2LiteForConditionalGeneration"],
            "model_type": cls.model_type,
        }
        return cls(**data)


@lru_cache(maxsize=2)
def _native(data: str, where: Path, more: str) -> TemporalVideoOlmoConfig:
    """Of JSON texts. transformers asks for the same config again and again."""
    _, native = read_config(json.loads(data), where, json.loads(more))
    assert isinstance(native, TemporalVideoOlmoConfig)
    return native


def source_path(path: Any) -> str:
    """``path`` as text, ``~`` being the home folder. ``ValueError`` for anything else."""
    if not isinstance(path, (str, Path)) or not str(path).strip():
        raise ValueError(f"path: expected a folder, got {path!r}")
    return expand(path)


def hub_or_folder(path: Any) -> str:
    """``source_path``, which may name a repository of the hub. ``FileNotFoundError`` for a folder
    that is not there."""
    name = source_path(path)
    if name.startswith((".", "/")) and not Path(name).exists():
        raise FileNotFoundError(f"{name}: no such folder")
    return name


def _of_published(data: dict[str, Any], where: Path) -> dict[str, Any]:
    """A ``config.json`` in the form of the published repositories, in ours."""
    # published repositories hold the head as well
    more = {"model_name": TemporalVideoOlmoConfig.model_name, "llm": {"weight_tying": False}}
    _, native = read_config(data, where, more)
    assert isinstance(native, TemporalVideoOlmoConfig)
    kept = {key: data[key] for key in data.keys() & KEPT}
    return Molmo2LiteConfig.from_native(native).to_dict() | kept


def _check_sayable(native: TemporalVideoOlmoConfig) -> None:
    """``ValueError`` for a setting that matters and has no place in transformers' form."""
    for field in FIELDS:
        value = value_at(native, field.native)
        training_only = field.native.endswith("dropout")
        if field.transformers is None and not training_only and value != field.default:
            raise ValueError(
                f"{field.native}={value!r} has no place in the Hugging Face form, which means "
                f"{field.default!r}"
            )
