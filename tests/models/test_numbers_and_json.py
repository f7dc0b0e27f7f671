"""Numbers and JSON files of a checkpoint: a wrong one is an error that names file and key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers.models.molmo2")

from olmo.config import ConfigError, merge
from olmo.hf_model.lite_loading import generation_config
from olmo.models.json_files import MAX_BYTES, read_json
from olmo.models.loading import CheckpointError, load_model, load_model_config, merged_model_config
from olmo.tokenizer import ASSETS, TokenizerConfig
from tests.models.conftest import PRUNING, build, config_dict
from tests.models.test_weight_forms import write, write_config

NAN, INF = float("nan"), float("inf")
HUGE = 10**9

COUNTS = {
    "llm": (
        *("d_model", "n_heads", "n_kv_heads", "head_dim", "n_layers", "mlp_hidden_size"),
        *("vocab_size", "embedding_size", "additional_vocab_size"),
    ),
    "vision_backbone.vit": (
        *("image_emb_dim", "image_num_heads", "image_num_key_value_heads", "image_head_dim"),
        *("image_num_layers", "image_mlp_dim", "image_num_pos", "image_patch_size"),
    ),
    "vision_backbone": ("video_pooling",),
}
POSITIVE = {
    "llm": ("rope_theta", "layer_norm_eps", "initializer_range", "new_embedding_init_range"),
    "vision_backbone.vit": ("image_norm_eps", "initializer_range"),
}
DROPOUT = {
    "llm": ("attention_dropout", "residual_dropout", "embedding_dropout"),
    "vision_backbone.vit": ("attention_dropout", "residual_dropout"),
    "vision_backbone": ("image_feature_dropout",),
}
CASES = [
    *((s, k, v) for s, keys in COUNTS.items() for k in keys for v in (0, -1, HUGE)),
    *((s, k, v) for s, keys in POSITIVE.items() for k in keys for v in (0.0, -1.0, NAN, INF)),
    *((s, k, v) for s, keys in DROPOUT.items() for k in keys for v in (-0.1, 1.0, NAN)),
    *(("llm", "max_sequence_length", v) for v in (0, -1)),
    *(("llm", "full_attention_layers", v) for v in ([2], [-1])),
    *(("vision_backbone", "vit_layers", v) for v in ([], [5], [-6])),
    *(("vision_backbone.vit", "image_default_input_size", v) for v in ([0, 18], [HUGE, HUGE])),
    *(("vision_backbone.vit", "sim_reg_loss_coefficient", v) for v in (-1.0, NAN)),
    *(("vision_backbone.vit", k, -1) for k in ("prune_at", "prune_from_frame")),
    *(("vision_backbone.vit", "topk", v) for v in (-0.1, 1.0, NAN)),
    *(("mm_preprocessor.video", "pooling_h", v) for v in (0, HUGE)),
    *(("mm_preprocessor.video", "max_fps", v) for v in ([], [0.0], [2.0, -1.0], [NAN])),
    *(("mm_preprocessor.video", "topk", v) for v in (-0.1, 1.0, NAN)),
    ("mm_preprocessor.video", "max_subtitle_tokens", -1),
    *(("mm_preprocessor", k, v) for k in ("max_answer_len", "max_text_tokens") for v in (0, -1)),
]


def nested(section: str, key: str, value: Any) -> dict[str, Any]:
    data = {key: value}
    for name in reversed(section.split(".")):
        data = {name: data}
    return data


@pytest.mark.parametrize(("section", "key", "value"), CASES)
def test_numbers_out_of_range(section: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"\b{key}\b"):
        merged_model_config(config_dict(PRUNING, nested(section, key, value)), {})


@pytest.mark.parametrize(
    ("llm", "message"),
    [
        ({"n_heads": 5, "n_kv_heads": 5, "head_dim": None}, "24 is not divisible by n_heads"),
        ({"n_kv_heads": 3}, "n_heads 4 is not divisible by n_kv_heads 3"),
        ({"head_dim": 7}, "head's size 7 .* must be even"),
        ({"mlp_hidden_size": 47}, "mlp_hidden_size 47 must be even"),
        ({"additional_vocab_size": 13}, "no room for the visual tokens, whose last id is 53"),
        ({"rope_type": "yarn", "rope_factor": NAN}, r"rope_factor: expected a finite number"),
    ],
)
def test_numbers_that_do_not_fit_each_other(llm: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        merged_model_config(config_dict({"llm": llm}), {})


def test_more_layers_than_the_file_has(tmp_path: Path) -> None:
    write(write_config(tmp_path), "model.safetensors", build().state_dict())
    with pytest.raises(CheckpointError, match="missing keys"):
        load_model(tmp_path, {"llm": {"n_layers": 1000}})


BAD_JSON = {
    "empty": (b"", "JSONDecodeError"),
    "text": (b"hello", "JSONDecodeError"),
    "cut": (b'{"a": {"b": ', "JSONDecodeError"),
    "list": (b"[1]", "expected a JSON object"),
    "not UTF-8": (b'{"a": "\xff\xfe"}', "UnicodeDecodeError"),
    "nested": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "RecursionError"),
    "key twice": (b'{"a": {"b": 1, "c": 2, "b": 1}}', "key 'b' is there twice"),
    "nan": (b'{"a": NaN}', "NaN is no finite number"),
    "infinity": (b'{"a": -Infinity}', "-Infinity is no finite number"),
    "large float": (b'{"a": 1e999}', "1e999 is no finite number"),
    "large integer": (b'{"a": ' + b"9" * 5000 + b"}", "ValueError"),
}
FILES = (
    *("config.json", "model.safetensors.index.json", "processor_config.json"),
    *("preprocessor_config.json", "video_preprocessor_config.json"),
)


BAD_FILES = [
    pytest.param(name, case, marks=[] if name == FILES[0] or i == 0 else pytest.mark.slow)
    for name in FILES
    for i, case in enumerate(BAD_JSON)
]
"""All damages of one file and one of each other; the rest is slow."""


@pytest.mark.parametrize(("name", "case"), BAD_FILES)
def test_bad_json(name: str, case: str, tmp_path: Path) -> None:
    """One reader for all of them."""
    from tests.hf_model.test_reading import folder_of

    folder = folder_of(tmp_path, files=5)
    if name.startswith(("preprocessor", "video")):
        (folder / "processor_config.json").write_text("{}")
    data, message = BAD_JSON[case]
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}: not a readable JSON file: .*{message}"):
        load_model(folder)


def test_json_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ConfigError, match=r"a\.json: .*bytes are more than"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("text_config", "num_hidden_layers", HUGE),
        ("text_config", "num_hidden_layers", 10**400),
        ("text_config", "intermediate_size", "a"),
        ("text_config", "rope_scaling_layers", 3),
        ("text_config", "layer_norm_eps", 10**400),
        ("vision_config", "image_size", [0, 0]),
        ("vision_config", "patch_size", 0),
        ("vision_config", "num_hidden_layers", 0),
        ("adapter_config", "vision_feature_layer", []),
        ("adapter_config", "vision_feature_layer", [[]]),
        ("adapter_config", "vision_feature_layer", "ab"),
    ],
)
def test_bad_values_of_config_json(section: str, key: str, value: Any, tmp_path: Path) -> None:
    from tests.hf_model.test_reading import folder_of

    file = folder_of(tmp_path) / "config.json"
    file.write_text(json.dumps(merge(json.loads(file.read_text()), {section: {key: value}})))
    with pytest.raises(ConfigError, match=r"config\.json: "):
        load_model_config(file.parent)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not a readable JSON file"),
        (b'{"eos_token_id": "a"}', "eos_token_id is 'a', not the id of a token"),
        (b'{"eos_token_id": [1, -1]}', "eos_token_id is"),
        (b'{"pad_token_id": true}', "pad_token_id is True"),
        (b'{"max_new_tokens": -1}', "not readable"),
    ],
)
def test_bad_generation_config(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"generation_config\.json: .*{message}"):
        generation_config(tmp_path, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"model": 3}', b"\xff\xfe", b"[" * 100_000])
def test_bad_tokenizer(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a readable tokenizer: "):
        TokenizerConfig(str(tmp_path)).build(512)


def test_token_beyond_the_vocabulary(tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "tiny_tokenizer", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tokenizer.json"
    data = json.loads(file.read_text())
    vocab = data["model"]["vocab"]
    vocab[next(iter(vocab))] = 10**6
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="tokenizer has the id 1000000, llm"):
        TokenizerConfig(str(tmp_path)).build(4096)
