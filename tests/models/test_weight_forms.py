"""What every form of weights must hold: floats, finite, each with a place in the model, and every
element in the file."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from safetensors.torch import save_file

from olmo.models.dcp_files import CheckpointReader
from olmo.models.loading import CheckpointError, load_model
from tests.models.conftest import build, config_dict

NORM = "transformer.ln_f.weight"
DCP = "model_and_optim"


def write_config(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": config_dict()}))
    return folder


def write(folder: Path, form: str, state: dict[str, torch.Tensor]) -> Path:
    if form == DCP:
        dcp.save({"model": state}, checkpoint_id=folder / DCP, no_dist=True)
    elif form == "model.pt":
        torch.save(state, folder / form)
    else:
        save_file(state, folder / form)
    return folder


FORMS = ("model.pt", "model.safetensors", DCP)
WRONG_TYPES = (torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.int64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", WRONG_TYPES)
def test_one_rule_for_types(tmp_path: Path, form: str, dtype: torch.dtype) -> None:
    state = build().state_dict() | {NORM: torch.ones(24).to(dtype)}
    with pytest.raises(CheckpointError, match=rf"{NORM}' is .*, weights are one of float64"):
        load_model(write(write_config(tmp_path), form, state))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_float_is_read(tmp_path: Path, form: str, dtype: torch.dtype) -> None:
    state = {k: v.to(dtype) for k, v in build().state_dict().items()}
    model, _ = load_model(write(write_config(tmp_path), form, state))
    assert all(torch.equal(v, state[k].float()) for k, v in model.state_dict().items())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(tmp_path: Path, form: str, value: float) -> None:
    state = build().state_dict()
    key = "transformer.blocks.1.ff_proj.weight"
    state[key][3, 5] = value
    with pytest.raises(CheckpointError, match=rf"{key}' holds NaN or infinite values"):
        load_model(write(write_config(tmp_path), form, state))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("stored", "value", "dtype"),
    [(torch.float64, 1e300, None), (torch.float32, -1e6, torch.float16)],
)
def test_values_beyond_the_type_of_the_model(
    tmp_path: Path, form: str, stored: torch.dtype, value: float, dtype: torch.dtype | None
) -> None:
    state = build().state_dict() | {NORM: torch.full((24,), value, dtype=stored)}
    folder = write(write_config(tmp_path), form, state)
    with pytest.raises(CheckpointError, match=rf"{NORM}' holds .*values beyond torch\.float"):
        load_model(folder, dtype=dtype)


def test_a_sum_that_overflows_is_finite(tmp_path: Path) -> None:
    state = {k: v.half() for k, v in build().state_dict().items()}
    state[NORM] = torch.full((24,), 6e4, dtype=torch.float16)
    model, _ = load_model(write(write_config(tmp_path), "model.pt", state))
    assert torch.equal(model.state_dict()[NORM], state[NORM].float())


@pytest.mark.parametrize("form", FORMS)
def test_unread_tensors(tmp_path: Path, form: str) -> None:
    state = build({"llm": {"n_layers": 3}}).state_dict()
    message = r"8 tensors have no place in this model: 'transformer\.blocks\.2\.\S+, .*, \.\.\.$"
    with pytest.raises(CheckpointError, match=message):
        load_model(write(write_config(tmp_path), form, state))


SCORER = "vision_backbone.image_vit.transformer.temporal_token_scorer.mlp.w1.weight"
BLOCK = "vision_backbone.image_vit.transformer.resblocks.{}.attention_norm.weight"


@pytest.mark.parametrize("form", FORMS)
def test_what_may_stay_unread(tmp_path: Path, form: str) -> None:
    """A scorer, ViT blocks behind those that are read, the head of a tied model, and buffers."""
    config = {"vision_backbone": {"vit_layers": [-3, -4]}}
    state = build(config).state_dict()
    more = {
        SCORER: torch.ones(1),
        BLOCK.format(3): torch.ones(1),
        BLOCK.format(4): torch.ones(1),
        "transformer.ff_out.weight": state["transformer.wte.embedding"].clone(),
        "transformer.rotary_emb.inv_freq": torch.ones(1),
        "vision_backbone.image_vit.embeddings.position_ids": torch.arange(3),
    }
    folder = write(write_config(tmp_path), form, state | more)
    model, _ = load_model(folder, config)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_what_may_not_stay_unread(tmp_path: Path) -> None:
    state, folder = build().state_dict(), write_config(tmp_path)
    write(folder, "model.pt", state | {BLOCK.format(5): torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"resblocks\.5\..*5 blocks.*image_num_layers"):
        load_model(folder)
    write(folder, "model.pt", state | {"transformer.ff_out.weight": torch.ones(40, 24)})
    with pytest.raises(CheckpointError, match=r"head is not the embedding table.*weight_tying"):
        load_model(folder)


OVERLAP = torch.arange(10.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(1).expand(10**12), "has 4 of 4000000000000 bytes"),
        (torch.ones(24).as_strided((24,), (0,)), "repeats elements"),
        (torch.ones(24).as_strided((6, 4), (3, 1)), "repeats elements"),
        (torch.ones(24, device="meta"), "not a plain tensor"),
        (torch.ones(24).to_sparse(), "not a plain tensor"),
        ("text", "is a str, not a tensor"),
        ({"a": OVERLAP}, "is a dict, not a tensor"),
    ],
)
def test_pt_entry_without_elements(tmp_path: Path, value: Any, message: str) -> None:
    torch.save(build().state_dict() | {NORM: value}, write_config(tmp_path) / "model.pt")
    with pytest.raises(CheckpointError, match=rf"model\.pt: '{NORM}' .*{message}"):
        load_model(tmp_path)


def test_pt_views_are_read_as_they_are(tmp_path: Path) -> None:
    """Parts of one storage, and rows and columns exchanged."""
    state = build().state_dict()
    first, second = "transformer.blocks.0.q_norm.weight", "transformer.blocks.0.k_norm.weight"
    state[first], state[second] = OVERLAP[:8], OVERLAP[2:]
    embedding = state["transformer.wte.embedding"]
    state["transformer.wte.embedding"] = embedding.t().contiguous().t()
    torch.save(state, write_config(tmp_path) / "model.pt")
    model, _ = load_model(tmp_path)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def old_pickle(folder: Path) -> None:
    state = build().state_dict()
    torch.save(state, folder / "model.pt", _use_new_zipfile_serialization=False)


def deflated(folder: Path) -> None:
    torch.save(build().state_dict(), folder / "a.pt")
    with (
        zipfile.ZipFile(folder / "a.pt") as old,
        zipfile.ZipFile(folder / "model.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))


def other_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.pt", "w") as file:
        file.writestr("a", "b")


def cut(folder: Path) -> None:
    torch.save(build().state_dict(), folder / "model.pt")
    data = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("write_file", [old_pickle, deflated, other_zip, cut])
def test_pt_file_of_another_kind(tmp_path: Path, write_file: Callable[[Path], None]) -> None:
    write_file(write_config(tmp_path))
    with pytest.raises(CheckpointError, match=r"model\.pt: not (a )?readable"):
        load_model(tmp_path)


def test_memory_is_taken_once_the_shapes_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config asks for 4 TB; the file is small."""

    def no_memory(*_: object, **__: object) -> None:
        raise AssertionError("memory was taken")

    write(write_config(tmp_path), "model.safetensors", build().state_dict())
    monkeypatch.setattr(torch.nn.Module, "to_empty", no_memory)
    with pytest.raises(CheckpointError, match=r"has shape \(40, 24\), the model expects"):
        load_model(tmp_path, {"llm": {"d_model": 2**20, "mlp_hidden_size": 2**20}})


def test_parts_of_a_distributed_checkpoint_in_torchs_old_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch reads such a one by the file's number where it has one, from the file's beginning."""
    tensors = {f"t{i}": torch.arange(100.0) + i for i in range(3)}
    old = functools.partial(torch.save, _use_new_zipfile_serialization=False)
    monkeypatch.setattr(torch, "save", old)
    dcp.save(dict(tensors), checkpoint_id=tmp_path)
    reader = CheckpointReader(tmp_path)
    assert all(torch.equal(reader.read(name), value) for name, value in tensors.items())
