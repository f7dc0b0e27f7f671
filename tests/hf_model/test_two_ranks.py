"""A Hugging Face folder read into a model that two processes share."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers.models.molmo2")

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from olmo.hf_model.export import ExportOptions, export_checkpoint
from olmo.models.loading import SHARDED, CheckpointError, load_model_config, load_weights
from olmo.models.molmo2.molmo2 import Molmo2
from olmo.models.parallel import shard
from tests.hf_model.conftest import native_model, save_native
from tests.ranks import start_ranks


def read_sharded(rank: int, folder: Path) -> None:
    """Body of a process: every parameter is sharded, filled and gathered again; an error is kept in
    place of the weights."""
    store = f"file://{folder.parent / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        model = load_model_config(folder).build("meta")
        shard(model, init_device_mesh("cpu", (2,)), "float", None)
        model.to_empty(device="cpu")
        try:
            load_weights(model, folder)
        except CheckpointError as e:
            torch.save(str(e), folder.parent / f"rank{rank}.pt")
            return
        state = model.state_dict()
        assert all(isinstance(v, DTensor) for v in state.values())
        whole = {k: v.full_tensor() for k, v in state.items()}
        torch.save(whole, folder.parent / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def stored(model: Molmo2, form: str, folder: Path) -> Path:
    native = save_native(model, folder / "native")
    if form == "hf":
        return export_checkpoint(native, folder / "hf", ExportOptions(max_file_bytes=9000))
    if form == "dcp":
        (native / "model.safetensors").unlink()
        dcp.save({"model": model.state_dict()}, checkpoint_id=native / SHARDED, no_dist=True)
    return native


@pytest.mark.slow
@pytest.mark.parametrize("form", ["hf", "dcp", "one file"])
def test_sharded_model_is_filled(tmp_path: Path, form: str) -> None:
    model = native_model()
    start_ranks(read_sharded, 2, stored(model, form, tmp_path))
    want = model.state_dict()
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found.keys() == want.keys()
        assert all(torch.equal(found[k], want[k]) for k in want)


@pytest.mark.slow
def test_damage_that_one_rank_reads_is_an_error_on_both(tmp_path: Path) -> None:
    """Only the second rank reads the last row."""
    model = native_model()
    with torch.no_grad():
        model.transformer.ln_f.weight[-1] = float("nan")
    start_ranks(read_sharded, 2, stored(model, "one file", tmp_path))
    for rank in range(2):
        error = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert "'transformer.ln_f.weight' holds NaN or infinite values" in error
