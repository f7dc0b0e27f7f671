"""``config.json`` of a Hugging Face folder <-> the model section of a native config.

A file is read in two steps: known keys give a native config, and that config, written back, must
say everything that the file says. So a key that nothing reads, or a value that this project would
compute differently, is an error and never passes unseen.
"""

from __future__ import annotations

import copy
import difflib
import math
from pathlib import Path
from typing import Any

from olmo.config import ConfigError, merge
from olmo.models.hf_layout.fields import (
    FIELDS,
    MODEL_TYPES,
    NOT_COMPARED,
    PRUNING_KEYS,
    REMOTE_TOKEN_IDS,
    ROPE_KEYS,
    TOKEN_IDS,
    VISION,
)
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.models.registry import model_config_from_dict
from olmo.outside import foreign


def to_hf(config: Molmo2Config, layout: str) -> dict[str, Any]:
    """``config.json`` of the dense model in ``layout`` (``transformers`` or ``remote``)."""
    vision = VISION[layout]
    out: dict[str, Any] = {"text_config": {}, vision: {}, "adapter_config": {}}
    native = config.to_dict()
    for field in FIELDS:
        name = getattr(field, layout)
        if name is not None:
            section, key = name.split(".")
            value = _get(native, field.native.split("."))
            out[vision if section == "vision" else section][key] = value
    llm, vit, backbone = config.llm, config.vision_backbone.vit, config.vision_backbone
    text, adapter = out["text_config"], out["adapter_config"]
    text |= {
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_size,
        "vocab_size": llm.n_embeddings,
        "intermediate_size": llm.mlp_hidden_size // 2,
        "hidden_act": "silu",
        "use_cache": True,
        "model_type": "molmo2_text",
    }
    text |= _rope(config, layout)
    out[vision] |= {"hidden_act": "gelu_pytorch_tanh"}
    adapter |= {
        "hidden_size": vit.image_emb_dim,
        "num_attention_heads": vit.image_num_heads,
        "num_key_value_heads": vit.image_num_heads,
        "head_dim": vit.image_head_dim,
        "attention_dropout": vit.attention_dropout,
        "hidden_act": "silu",
        "intermediate_size": llm.mlp_hidden_size // 2,
        "text_hidden_size": llm.d_model,
        "initializer_range": llm.initializer_range,
    }
    if layout == "transformers":
        text |= {"attention_bias": False, "tie_word_embeddings": False}
        layers = list(backbone.read_layers())
        adapter |= {"vision_feature_layer": layers, "attention_bias": True, "mlp_bias": False}
        adapter["model_type"] = "molmo2_adapter"
        built = {"num_hidden_layers": max(layers) + 1, "model_type": "molmo2_vision"}
        out[vision] |= built | {"num_channels": 3, "attention_bias": True}
    else:
        text |= {"qkv_bias": False, "use_qk_norm": True}
        for part in (adapter, out[vision]):
            part["model_type"] = "molmo2"
        adapter["residual_dropout"] = vit.residual_dropout
        adapter["float32_attention"] = vit.float32_attention
    ids = llm.special_ids()
    names = TOKEN_IDS | (REMOTE_TOKEN_IDS if layout == "remote" else {})
    out |= {key: ids[token] for key, token in names.items()}
    return out | {
        "model_type": "molmo2",
        "architectures": ["Molmo2ForConditionalGeneration"],
        "initializer_range": llm.initializer_range,
        "tie_word_embeddings": False,
    }


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


def model_section(data: dict[str, Any], where: Path) -> dict[str, Any]:
    """The native model section of a ``config.json``: ``llm``, ``vision_backbone`` and, for a
    file with pruning keys, the fields of STTS. ``where`` is named in errors.

    Raises ``ConfigError`` for another kind of model, an unknown key, or a value that this
    project does not compute.
    """
    with foreign(lambda reason: ConfigError(f"{where}: a value is of the wrong kind: {reason}")):
        return _model_section(data, where)


def _model_section(data: dict[str, Any], where: Path) -> dict[str, Any]:
    kind = data.get("model_type")
    if kind not in MODEL_TYPES:
        hint = "; see scripts/prepare_pretrained_model.py for plain language models and ViTs"
        raise ConfigError(f"{where}: model_type {kind!r} is not one of {MODEL_TYPES}{hint}")
    layout = "remote" if VISION["remote"] in data else "transformers"
    data = _with_pruning_on_top(data, VISION[layout])
    own = {*PRUNING_KEYS, "bi_directional_attn"}
    dense = {key: value for key, value in data.items() if key not in own}
    dense = _trimmed(dense, layout, where)
    section = _dense_section(dense, layout, where)
    for key, path in PRUNING_KEYS.items():
        if key in data:
            section["model_name"] = "temporal_video_olmo"
            _set(section, path, data[key])
    if "bi_directional_attn" in data:
        section["bi_directional_attn"] = data["bi_directional_attn"]
    try:
        config = model_config_from_dict(section)
    except ConfigError as e:
        raise ConfigError(f"{where}: {e}") from e
    _compare(dense, _all_keys(config, layout), where, "")
    return section


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
        name = getattr(field, layout) or field.remote
        part, key = name.split(".")
        value = data[vision if part == "vision" else part].get(key, field.default)
        _set(section, tuple(field.native.split(".")), value)
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
            near = difflib.get_close_matches(key, known, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}: unknown key {name!r}{hint}")
        if isinstance(value, dict) and isinstance(known[key], dict):
            _compare(value, known[key], where, f"{name}.")
        elif value != known[key]:
            raise ConfigError(
                f"{where}: {name} is {value!r}, this model can only have {known[key]!r}"
            )


def _get(data: dict[str, Any], path: list[str]) -> Any:
    for key in path:
        data = data[key]
    return data


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        data = data.setdefault(key, {})
    data[path[-1]] = value
