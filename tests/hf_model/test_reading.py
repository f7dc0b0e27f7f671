"""Hugging Face folders: every name, bad input, and memory while reading."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers.models.molmo2")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Molmo2ForConditionalGeneration

from olmo.config import merge
from olmo.hf_model.export import ExportOptions, dense_params, export_checkpoint
from olmo.hf_model.shards import plan_writing
from olmo.model_configs import LLMS, preset_model_config
from olmo.models.hf_layout.config import read_config, to_hf
from olmo.models.hf_layout.fields import VISION
from olmo.models.loading import load_model, load_model_config, load_weights, merged_model_config
from olmo.models.weight_files import SafetensorsSource
from olmo.models.weights import Piece, cut_rows
from olmo.nn.temporal_image_vit import TemporalVitConfig
from tests.hf_model.conftest import native_model, same_weights, save_native
from tests.models.conftest import PRUNING

ROOT = Path(__file__).parents[2]


def folder_of(tmp_path: Path, layout: str = "transformers", files: int = 1) -> Path:
    """An exported folder, in one file or in several."""
    native = save_native(native_model(), tmp_path / "native")
    options = ExportOptions(layout, max_file_bytes=10**9 if files == 1 else 9000)
    return export_checkpoint(native, tmp_path / "hf", options)


@pytest.mark.parametrize("name", LLMS)
def test_every_name_and_shape_of_transformers(name: str) -> None:
    """Written names and shapes are those of transformers' class, for every preset at full size."""
    config = merged_model_config(preset_model_config(name), {})
    written = plan_writing(dense_params(config), config.llm, "transformers")
    data = to_hf(config, "transformers")
    theirs_config = AutoConfig.for_model(data.pop("model_type"), **data)
    with torch.device("meta"):
        theirs = Molmo2ForConditionalGeneration(theirs_config).state_dict()
    assert {t.name: t.shape for t in written} == {k: tuple(v.shape) for k, v in theirs.items()}
    assert sum(t.numel for t in written) == sum(v.numel() for v in theirs.values())


@pytest.mark.parametrize("layout", ["transformers", "remote"])
@pytest.mark.parametrize("name", LLMS)
def test_config_round_trip(name: str, layout: str) -> None:
    config = merged_model_config(preset_model_config(name), {})
    data = json.loads(json.dumps(to_hf(config, layout)))
    found = merged_model_config(read_config(data, Path("config.json"))[0], {})
    old, new = config.llm, found.llm
    assert [old.yarn_of_layer(i) for i in range(old.n_layers)] == [
        new.yarn_of_layer(i) for i in range(new.n_layers)
    ]
    assert old.special_ids() == new.special_ids() and old.rope_theta == new.rope_theta
    assert to_hf(found, layout) == to_hf(config, layout)
    assert found.vision_backbone.read_layers() == config.vision_backbone.read_layers()


def test_published_config_of_27_layers() -> None:
    """The remote form lists 27 ViT layers and leaves defaults out; 25 are built."""
    config = merged_model_config(preset_model_config("qwen3_4b_instruct"), {})
    data = to_hf(config, "remote") | {"auto_map": {"AutoConfig": "x.y"}, "torch_dtype": "float32"}
    assert data["vit_config"]["num_hidden_layers"] == 27
    del data["vit_config"]["hidden_size"], data["text_config"]["num_hidden_layers"]
    data |= {"use_frame_special_tokens": False, "image_high_res_id": 151938}
    found = merged_model_config(read_config(data, Path("config.json"))[0], {})
    assert found.build("meta").vision_backbone.image_vit.n_layers == 25
    assert found.llm.n_layers == 36


@pytest.mark.parametrize("layout", ["transformers", "remote"])
@pytest.mark.parametrize("nested", [False, True])
def test_pruning_keys_give_a_pruning_model(layout: str, nested: bool) -> None:
    """They stand at the top of the Lite form's ``config.json``, or in the ViT's section."""
    data = to_hf(merged_model_config(preset_model_config("tiny"), {}), layout)
    keys = {"topk": 0.25, "prune_at": 2, "prune_method": "scorer"}
    if nested:
        data[VISION[layout]] |= keys
    else:
        data |= keys | {"model_type": "molmo2_lite"}
    config = merged_model_config(read_config(data, Path("config.json"))[0], {})
    vit = config.vision_backbone.vit
    assert isinstance(vit, TemporalVitConfig)
    assert (vit.topk, vit.prune_at, config.budget.topk) == (0.25, 2, 0.25)


def test_scorer_is_read_from_either_layout(tmp_path: Path) -> None:
    model = native_model(PRUNING)
    params = model.state_dict()
    for layout in ("transformers", "remote"):
        folder = tmp_path / layout
        folder.mkdir()
        tensors = {}
        for tensor in plan_writing(params, model.config.llm, layout):
            parts = [params[p.key][p.start : p.stop] for p in tensor.pieces]
            tensors[tensor.name] = torch.cat(parts)
        save_file(tensors, folder / "model.safetensors")
        other = native_model(PRUNING)
        with torch.no_grad():
            for param in other.parameters():
                param.zero_()
        assert load_weights(other, folder) == []
        assert same_weights(other, model)


@pytest.mark.parametrize("layout", ["transformers", "remote"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_config": {"hidden_sise": 1}}, r"unknown key 'text_config\.hidden_sise': did you"),
        ({"depth": 3}, "unknown key 'depth'"),
        ({"text_config": {"hidden_act": "gelu"}}, r"text_config\.hidden_act is 'gelu', .* 'silu'"),
        ({"adapter_config": {"text_hidden_size": 9}}, r"text_hidden_size is 9, .* only have 24"),
        ({"image_patch_id": 7}, "image_patch_id is 7, this model can only have 522"),
        ({"text_config": {"num_key_value_heads": 3}}, "n_heads 4 is not divisible by n_kv_heads 3"),
        ({"text_config": {"qk_norm_type": "none"}}, "attention_layer_norm_type: 'none' is not one"),
        ({"model_type": "qwen3"}, r"model_type 'qwen3' is not one of .*prepare_pretrained_model"),
        ({"adapter_config": 3}, "no section 'adapter_config'"),
        ({"text_config": {"intermediate_size": None}}, "a value is of the wrong kind"),
        ({"text_config": {"num_hidden_layers": "2"}}, "expected int, got '2'"),
        ({"text_config": {"hidden_size": "24"}}, r"model\.llm\.d_model: expected int, got '24'"),
    ],
)
def test_bad_config(layout: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = to_hf(native_model().config, layout)
    (tmp_path / "config.json").write_text(json.dumps(merge(data, change)))
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\udcff"])
def test_config_that_is_no_json_object(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"config\.json: (not a readable|expected a) JSON"):
        load_model(tmp_path)


def test_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="neither a checkpoint"):
        load_model(tmp_path)
    (tmp_path / "config.json").unlink()
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"neither a config\.yaml nor a config\.json"):
        load_model(tmp_path)


def test_missing_shard(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, files=5)
    shard = sorted(folder.glob("*.safetensors"))[2]
    shard.unlink()
    message = rf"model\.safetensors\.index\.json: shard {shard.name} is missing"
    with pytest.raises(ValueError, match=message):
        load_model(folder)


def test_cut_shard(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, files=5)
    shard = sorted(folder.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(ValueError, match=rf"{shard.name}: not a readable weight file"):
        load_model(folder)


def test_shard_without_a_listed_key(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, files=5)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    key = "model.language_model.norm.weight"
    shard = folder / index["weight_map"][key]
    state = load_file(shard)
    del state[key]
    save_file(state, shard)
    with pytest.raises(ValueError, match=rf"{shard.name}: lacks '{key}', which model.*json lists"):
        load_model(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../native/model.safetensors"}}, "'a' is in '../native"),
        ({"weight_map": {"a": "/etc/passwd"}}, "'a' is in '/etc/passwd', not a file beside it"),
        ({"weight_map": {"a": "x" * 300}}, "'a' is in 'x{300}', not a file beside it"),
        ({"weight_map": ["a"]}, "not a readable index"),
        ({}, "not a readable index: no weight_map"),
        ([], "not a readable JSON file: .*expected a JSON object"),
    ],
)
def test_bad_index(index: Any, message: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, files=5)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"index\.json: .*{message}"):
        load_model(folder)


NORM = "model.language_model.norm.weight"
Q = "model.language_model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        (NORM, (23,), rf"'{NORM}' has shape \(23,\), the model expects \(24,\)"),
        (NORM, (), rf"'{NORM}' has shape \(\), the model expects \(24,\)"),
        (Q, (32, 23), rf"'{Q}' \+ .* has shape \(32, 23\) \+ .* expects \(64, 24\)"),
        (Q, (31, 24), rf"'{Q}' \+ .* has shape \(31, 24\) \+ .* expects \(64, 24\)"),
        (Q, None, f"1 missing keys, first '{Q}'"),
    ],
)
def test_bad_tensor(key: str, shape: tuple[int, ...] | None, message: str, tmp_path: Path) -> None:
    """Nothing is half-loaded: the model keeps what it had."""
    folder = folder_of(tmp_path)
    state = load_file(folder / "model.safetensors")
    del state[key]
    if shape is not None:
        state[key] = torch.ones(shape)
    save_file(state, folder / "model.safetensors")
    model = native_model()
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(7.0)
    with pytest.raises(ValueError, match=rf"model\.safetensors: .*{message}"):
        load_weights(model, folder)
    assert all((param == 7).all() for param in model.parameters())


def test_tensor_of_integers(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file(state | {NORM: torch.ones(24, dtype=torch.int8)}, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=rf"model\.safetensors: \'{NORM}\' is I8, weights are one of"
    ):
        load_model(folder)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", ["transformers", "remote"])
def test_tied_head_is_found(tied: bool, layout: str, tmp_path: Path) -> None:
    """Both layouts store the head of a tied model as well; one other value makes it untied."""
    folder = folder_of(tmp_path, layout)
    if not tied:
        state = load_file(folder / "model.safetensors")
        state["lm_head.weight"][-1, -1] += 1
        save_file(state, folder / "model.safetensors")
    assert load_model_config(folder).llm.weight_tying is tied


def test_cut_rows() -> None:
    """Three tensors of 4, 2 and 3 rows as tensors of 5 and 4."""
    found = cut_rows([5, 4], {"a": 4, "b": 2, "c": 3})
    assert found == [[Piece("a", 0, 4), Piece("b", 0, 1)], [Piece("b", 1, 2), Piece("c", 0, 3)]]


MEMORY = """
import sys, torch
from olmo.models import weights
from olmo.models.loading import load_model

def anonymous():
    text = open("/proc/self/status").read()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024

before, peak, assign = anonymous(), 0, weights.assign
def watched(param, parts):
    global peak
    assign(param, parts)
    peak = max(peak, anonymous() - before)

weights.assign = watched
model, _ = load_model(sys.argv[1])
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(peak / size)
"""


@pytest.mark.parametrize("layout", ["transformers", "remote"])
def test_tensors_are_read_one_at_a_time(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than the three projections of one layer are held at a time."""
    folder = folder_of(tmp_path, layout, files=5)
    read, alive, most = SafetensorsSource.read, [], 0

    def watched(source: SafetensorsSource, key: str, *rows: int) -> torch.Tensor:
        nonlocal most
        tensor = read(source, key, *rows)
        alive.append(weakref.ref(tensor))
        most = max(most, sum(ref() is not None for ref in alive))
        return tensor

    monkeypatch.setattr(SafetensorsSource, "read", watched)
    load_model(folder)
    assert len(alive) > 100 and most <= 3


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc")
def test_reading_holds_one_copy(tmp_path: Path) -> None:
    """Memory taken while the tensors are copied, in sizes of the model (40 MB)."""
    llm = {"d_model": 256, "n_layers": 12, "mlp_hidden_size": 2048}
    native = save_native(native_model({"llm": llm}), tmp_path / "native")
    folder = export_checkpoint(native, tmp_path / "hf")
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.9 < float(run.stdout) < 1.2  # measured 1.02; 2.03 with all of the file read first
