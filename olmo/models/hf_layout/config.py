"""``config.json`` of a Hugging Face folder <-> the model section of a native config.

A file is read in two steps: known keys give a native config, and that config, written back, must
say everything that the file says. So a key that nothing reads, or a value that this project would
compute differently, is an error and never passes unseen.
"""

from __future__ import annotations

import copy
import math
from functools import reduce
from operator import attrgetter
from pathlib import Path
from typing import Any

from olmo.config import ConfigError, merge, nested
from olmo.models.hf_layout.fields import (
    DERIVED,
    FIELDS,
    FIXED,
    MODEL_TYPES,
    NOT_COMPARED,
    PRUNING_KEYS,
    ROPE_KEYS,
    TOKEN_IDS,
    VISION,
)
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.models.registry import model_config_from_dict
from olmo.outside import foreign
from olmo.text import nearest


def to_hf(config: Molmo2Config, layout: str) -> dict[str, Any]:
    """``config.json`` of the dense model in ``layout`` (``transformers`` or ``remote``)."""
    names = ((getattr(field, layout), field.native) for field in FIELDS)
    flat = {name: value_at(config, native) for name, native in names if name is not None}
    flat |= {name: value_at(config, path) for name, path in DERIVED[layout].items()}
    flat |= FIXED[layout]
    for part in ("text_config", "adapter_config"):
        flat[f"{part}.intermediate_size"] = config.llm.mlp_hidden_size // 2
    if layout == "transformers":
        layers = list(config.vision_backbone.read_layers())
        flat["adapter_config.vision_feature_layer"] = layers
        flat["vision.num_hidden_layers"] = max(layers) + 1
    ids = config.llm.special_ids()
    flat |= {name: ids[token] for name, token in TOKEN_IDS[layout].items()}
    out = reduce(merge, (nested(name, value) for name, value in flat.items()))
    out["text_config"] |= _rope(config, layout)
    out[VISION[layout]] = out.pop("vision")
    return out


def value_at(config: Molmo2Config, path: str) -> Any:
    """The value at ``a.b.c`` of a config, as JSON has it."""
    value = attrgetter(path)(config)
    return list(value) if isinstance(value, tuple) else value


def _rope(config: Molmo2Config, layout: str) -> dict[str, Any]:
    llm = config.llm
    values = {theirs: getattr(llm, ours) for ours, theirs in ROPE_KEYS.items()}
    values = {key: value for key, value in values.items() if value is not None}
    scaled = [i for i in range(llm.n_layers) if llm.yarn_of_layer(i) is not None]
    if llm.rope_type == "default" or not scaled:
        values, scaled = {"rope_type": "default"}, list(range(llm.n_layers))
    layers = None if layout == "remote" and len(scaled) == llm.n_layers else scaled
    if layout == "transformers":
        rope = {"rope_theta": llm.rope_theta, **values}
        return {"rope_parameters": rope, "rope_scaling_layers": layers}
    scaling = None if values["rope_type"] == "default" else values
    return {
        "rope_theta": llm.rope_theta,
        "rope_scaling": scaling,
        "rope_scaling_layers": layers,
    }


def read_config(
    data: dict[str, Any], where: Path, more: dict[str, Any] | None = None
) -> tuple[dict[str, Any], Molmo2Config]:
    """The native model section of a ``config.json`` (``llm``, ``vision_backbone`` and, for a file
    with pruning keys, the fields of STTS) with ``more`` laid over it, and its config. ``where`` is
    named in errors.

    Raises ``ConfigError`` for another kind of model, an unknown key, or a value that this
    project does not compute.
    """
    kind = data.get("model_type")
    if kind not in MODEL_TYPES:
        hint = "; see scripts/prepare_pretrained_model.py for plain language models and ViTs"
        raise ConfigError(f"{where}: model_type {kind!r} is not one of {MODEL_TYPES}{hint}")
    layout = "remote" if VISION["remote"] in data else "transformers"
    with foreign(lambda reason: ConfigError(f"{where}: a value is of the wrong kind: {reason}")):
        data = _with_pruning_on_top(data, VISION[layout])
        own = {*PRUNING_KEYS, "bi_directional_attn"}
        dense = {key: value for key, value in data.items() if key not in own}
        dense = _trimmed(dense, layout, where)
        section = _dense_section(dense, layout, where)
        for key in data.keys() & own:
            path = PRUNING_KEYS.get(key, key)
            section = merge(section, nested(path, data[key]))
            if key in PRUNING_KEYS:
                section["model_name"] = "temporal_video_olmo"
        section = merge(section, more or {})
        try:
            config = model_config_from_dict(section)
        except ConfigError as e:
            raise ConfigError(f"{where}: {e}") from e
        _compare(dense, _all_keys(config, layout), where, "")
    return section, config


def _with_pruning_on_top(data: dict[str, Any], vision: str) -> dict[str, Any]:
    """``data`` with the pruning keys of its section ``vision`` beside that section."""
    vit = data.get(vision)
    if not isinstance(vit, dict):
        return data
    found = {key: value for key, value in vit.items() if key in PRUNING_KEYS}
    rest = {key: value for key, value in vit.items() if key not in found}
    return {**found, **data, vision: rest}


def _trimmed(data: dict[str, Any], layout: str, where: Path) -> dict[str, Any]:
    """A copy without what has no effect: ViT blocks that nothing reads (transformers' form), and
    the list of layers with scaled RoPE when all have the same."""
    data = copy.deepcopy(data)
    for name in ("text_config", VISION[layout], "adapter_config"):
        if not isinstance(data.get(name), dict):
            raise ConfigError(f"{where}: no section {name!r}")
    text, vision = data["text_config"], data[VISION[layout]]
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    n, layers = text.get("num_hidden_layers", 36), text.get("rope_scaling_layers")
    everywhere = layers is not None and len(layers) == n and layers == list(range(n))
    if everywhere or rope.get("rope_type", "default") == "default":
        text.pop("rope_scaling_layers", None)
    if layout == "transformers":
        n = vision.get("num_hidden_layers", 25)
        read = [i % n for i in data["adapter_config"].get("vision_feature_layer", [24, 18])]
        data["adapter_config"]["vision_feature_layer"] = read
        vision["num_hidden_layers"] = max(read) + 1
    return data


def _dense_section(data: dict[str, Any], layout: str, where: Path) -> dict[str, Any]:
    vision = VISION[layout]
    section: dict[str, Any] = {"model_name": "video_olmo", "bi_directional_attn": "image_tokens"}
    for field in FIELDS:
        part, key = (getattr(field, layout) or field.remote).split(".")
        value = data[vision if part == "vision" else part].get(key, field.default)
        section = merge(section, nested(field.native, value))
    llm, vit, text = section["llm"], section["vision_backbone"]["vit"], data["text_config"]
    if vit["image_num_pos"] is None:
        sides = vit["image_default_input_size"]
        vit["image_num_pos"] = math.prod(side // vit["image_patch_size"] for side in sides)
    llm["mlp_hidden_size"] = 2 * text.get("intermediate_size", 12288)
    llm["vocab_size"] = data.get("image_start_token_id", 151936)
    rope = text.get("rope_parameters") or {
        "rope_theta": text.get("rope_theta"),
        **(text.get("rope_scaling") or {}),
    }
    if rope.get("rope_theta") is None:
        raise ConfigError(f"{where}: no text_config.rope_parameters.rope_theta")
    llm["rope_theta"] = rope["rope_theta"]
    llm |= {ours: rope[theirs] for ours, theirs in ROPE_KEYS.items() if theirs in rope}
    if text.get("rope_scaling_layers") is not None:
        llm["full_attention_layers"] = text["rope_scaling_layers"]
    return section


def _all_keys(config: Molmo2Config, layout: str) -> dict[str, Any]:
    """``to_hf`` with the keys of the other layout added: transformers keeps, in a file that it
    writes, the keys of the file that it read."""
    other = "remote" if layout == "transformers" else "transformers"
    added = to_hf(config, other)
    added[VISION[layout]] = added.pop(VISION[other])
    return merge(added, to_hf(config, layout))


def _compare(given: dict[str, Any], known: dict[str, Any], where: Path, path: str) -> None:
    """Every key of ``given`` must be in ``known``, with an equal value."""
    for key, value in given.items():
        name = f"{path}{key}"
        if key in NOT_COMPARED or value is None:
            continue
        if key not in known:
            raise ConfigError(f"{where}: unknown key {name!r}: {nearest(key, known)}")
        if isinstance(value, dict) and isinstance(known[key], dict):
            _compare(value, known[key], where, f"{name}.")
        elif value != known[key]:
            raise ConfigError(
                f"{where}: {name} is {value!r}, this model can only have {known[key]!r}"
            )
