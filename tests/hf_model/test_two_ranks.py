"""A Hugging Face folder read into a model that two processes share."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers.models.molmo2")

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from olmo.hf_model.export import ExportOptions, export_checkpoint
from olmo.models.loading import load_model_config, load_weights
from olmo.models.parallel import shard
from tests.hf_model.conftest import native_model, save_native


def read_sharded(rank: int, folder: Path) -> None:
    """Body of a process: every parameter is sharded, filled and gathered again."""
    store = f"file://{folder.parent / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        model = load_model_config(folder).build("meta")
        shard(model, init_device_mesh("cpu", (2,)), "float", None)
        model.to_empty(device="cpu")
        load_weights(model, folder)
        state = model.state_dict()
        assert all(isinstance(v, DTensor) for v in state.values())
        whole = {k: v.full_tensor() for k, v in state.items()}
        torch.save(whole, folder.parent / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_sharded_model_is_filled(tmp_path: Path) -> None:
    model = native_model()
    native = save_native(model, tmp_path / "native")
    folder = export_checkpoint(native, tmp_path / "hf", ExportOptions(max_file_bytes=9000))
    torch.multiprocessing.spawn(read_sharded, (folder,), nprocs=2)
    want = model.state_dict()
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found.keys() == want.keys()
        assert all(torch.equal(found[k], want[k]) for k in want)
