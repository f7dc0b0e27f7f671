"""Checkpoints that are damaged, or made to do harm: one message that names file and key, nothing
half-loaded, nothing run."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from olmo.config import ConfigError
from olmo.models.loading import CheckpointError, load_model, load_model_config, load_weights
from tests.models.conftest import FIXTURES

SHARDED = FIXTURES / "molmo2_tiny_dcp"


def weights() -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / "molmo2_tiny" / "weights.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder that only lacks its weights."""
    shutil.copyfile(SHARDED / "step10" / "config.yaml", tmp_path / "config.yaml")
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHARDED / "step10", tmp_path / "step10"))


class Attack:
    def __init__(self, function: Any, *args: str):
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return self.call


def named(module: str, name: str, argument: str) -> bytes:
    """Pickle that calls ``module.name(argument)``; the name may have dots."""
    strings = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name))
    return (
        b"\x80\x04"
        + strings
        + b"\x93"
        + b"\x8c"
        + bytes([len(argument)])
        + (argument.encode() + b"\x85R.")
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "mkdir"),
        ("pathlib", "os.mkdir"),
        ("torch.distributed.checkpoint.filesystem", "os.mkdir"),
        ("torch.serialization", "load"),
        ("builtins", "eval"),
    ],
)
def test_metadata_cannot_run_code(sharded: Path, module: str, name: str) -> None:
    made = sharded / "made"
    data = named(module, name, "made" if name == "eval" else str(made))
    (sharded / "model_and_optim" / ".metadata").write_bytes(data)
    with pytest.raises(CheckpointError, match=f"not checkpoint metadata: {module}.{name}"):
        load_model(sharded)
    assert not made.exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", b"\x80\x63", b"\x8c\x02\xff\xff.", pickle.dumps({"a": 1})],
    ids=["empty", "text", "protocol", "encoding", "dict"],
)
def test_damaged_metadata(sharded: Path, data: bytes) -> None:
    (sharded / "model_and_optim" / ".metadata").write_bytes(data)
    with pytest.raises(CheckpointError, match="metadata"):
        load_model(sharded)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_shard(sharded: Path, damage: str) -> None:
    shard = sharded / "model_and_optim" / "__1_0.distcp"
    data = shard.read_bytes()
    shard.unlink()
    message = r"__1_0\.distcp: missing, but \.metadata lists it"
    if damage == "cut":
        shard.write_bytes(data[:1000])
        message = r"__1_0\.distcp: cut off: 1000 bytes, \.metadata lists \d+"
    with pytest.raises(CheckpointError, match=message):
        load_model(sharded)
    model = load_model_config(sharded).build()
    model.reset_parameters()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, sharded)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_shard_of_something_else(sharded: Path) -> None:
    shard = sharded / "model_and_optim" / "__1_0.distcp"
    shard.write_bytes(b"x" * shard.stat().st_size)
    with pytest.raises(CheckpointError, match=r"__1_0\.distcp: 'model\..* not readable"):
        load_model(sharded)


@pytest.mark.parametrize("form", ["model.pt", "model.safetensors"])
def test_single_file_that_is_no_checkpoint(folder: Path, form: str) -> None:
    (folder / form).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=form):
        load_model(folder)


@pytest.mark.parametrize(
    "content", [{"model": {"a": torch.ones(1)}}, [1, 2]], ids=["nested", "list"]
)
def test_pt_file_of_something_else(folder: Path, content: Any) -> None:
    torch.save(content, folder / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        load_model(folder)


def test_pt_file_cannot_run_code(folder: Path) -> None:
    made = folder / "made"
    torch.save({"a": Attack(Path.mkdir, str(made))}, folder / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        load_model(folder)
    assert not made.exists()


def test_missing_key(folder: Path) -> None:
    state = weights()
    del state["transformer.ln_f.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing keys, first 'transformer\.ln_f\.weight'"):
        load_model(folder)


def test_wrong_shape(folder: Path) -> None:
    state = weights() | {"transformer.ln_f.weight": torch.ones(63)}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"ln_f.weight' has shape \(63,\).*expects \(64,\)"):
        load_model(folder)


def test_unknown_key_of_a_file_names_the_file(folder: Path) -> None:
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("  llm:\n", "  llm:\n    d_modle: 3\n", 1))
    message = r"config\.yaml: unknown key 'model\.llm\.d_modle'.*'d_model'"
    for overrides in (None, {"llm": {"n_layers": 1}}):
        with pytest.raises(ConfigError, match=f"^{folder}/{message}"):
            load_model_config(folder, overrides)
    with pytest.raises(ConfigError, match=r"^unknown key 'model\.llm\.laeyrs'"):
        load_model_config(SHARDED / "step10", {"llm": {"laeyrs": 1}})


def test_config_file_without_model(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: no 'model' section"):
        load_model_config(tmp_path)
