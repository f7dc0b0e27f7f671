"""A training checkpoint that was changed: a resume refuses it, and nothing of it runs."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from olmo.models.loading import CheckpointError
from olmo.train.checkpoint import Checkpointer, TrainerState, load_checkpoint, save_unsharded
from olmo.train.trainer import Trainer
from tests.models.test_untrusted_checkpoints import Payload, saved
from tests.train.rows import make_trainer, train_config, write_start


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_start("dense", folder)
    return folder


def trained(folder: Path, start: Path) -> Trainer:
    trainer = make_trainer(train_config("dense", folder), start)
    torch.manual_seed(0)
    for param in trainer.model.parameters():
        param.grad = torch.randn_like(param)
    trainer.optimizer.step()
    return trainer


@pytest.fixture(scope="module")
def whole(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    trainer = trained(folder, start)
    writer = Checkpointer(trainer.config)
    writer.save(trainer.model, trainer.optimizer, TrainerState(step=3))
    writer.wait()
    writer.close()
    return folder / "step3"


@pytest.fixture
def step(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "step3"))


def resume(step: Path, start: Path) -> Trainer:
    trainer = make_trainer(train_config("dense", step.parent), start)
    load_checkpoint(step, trainer.model, trainer.optimizer)
    return trainer


def change(step: Path, edit: Callable[[Metadata], None]) -> None:
    file = step / "model_and_optim" / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    edit(metadata)
    file.write_bytes(pickle.dumps(metadata))


NORM = "transformer.ln_f.weight"
ENTRIES = (f"model.{NORM}", f"optim.state.{NORM}.exp_avg", "optim.param_groups.0.lr")


@pytest.mark.parametrize("key", ENTRIES)
@pytest.mark.parametrize("declared", ["as it was", "as bytes"])
def test_payload(step: Path, start: Path, tmp_path: Path, key: str, declared: str) -> None:
    """In place of a tensor it is refused; a setting of the optimizer is never read."""
    marker = tmp_path / "ran"
    data = saved([Payload(marker)] * 40)
    (step / "model_and_optim" / "x.distcp").write_bytes(data)

    def edit(metadata: Metadata) -> None:
        index = next(i for i in metadata.storage_data if i.fqn == key)
        if declared == "as bytes":
            del metadata.storage_data[index]
            metadata.state_dict_metadata[key] = BytesStorageMetadata()
            index = MetadataIndex(key)
        metadata.storage_data[index] = _StorageInfo("x.distcp", 0, len(data))

    change(step, edit)
    if key.endswith("lr"):
        resume(step, start)
    else:
        with pytest.raises(CheckpointError, match=NORM):
            resume(step, start)
    assert not marker.exists()


def test_settings_come_from_the_config(step: Path, start: Path) -> None:
    """And all tensors from the checkpoint."""
    one, other = trained(step.parent, start), resume(step, start)
    want, got = one.optimizer.state_dict(), other.optimizer.state_dict()
    assert want["param_groups"] == got["param_groups"]
    for key, state in want["state"].items():
        assert all(torch.equal(v, got["state"][key][name]) for name, v in state.items())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((24,), float("nan")), "holds NaN"),
        (torch.full((24,), 1e300, dtype=torch.float64), "values beyond torch.float32"),
        (torch.ones(24, dtype=torch.complex64), "weights are one of float64"),
        (torch.ones(24, dtype=torch.int8), "weights are one of float64"),
    ],
)
def test_optimizer_state_of_other_numbers(
    step: Path, start: Path, value: torch.Tensor, message: str
) -> None:
    key = f"optim.state.{NORM}.exp_avg"
    data = saved(value)
    (step / "model_and_optim" / "x.distcp").write_bytes(data)

    def edit(metadata: Metadata) -> None:
        index = next(i for i in metadata.storage_data if i.fqn == key)
        metadata.storage_data[index] = _StorageInfo("x.distcp", 0, len(data))
        declared = metadata.state_dict_metadata[key]
        assert isinstance(declared, TensorStorageMetadata)
        declared.properties.dtype = value.dtype

    change(step, edit)
    with pytest.raises(CheckpointError, match=rf"'{key}' .*{message}"):
        resume(step, start)


def test_an_export_beyond_the_range_of_its_type(start: Path, tmp_path: Path) -> None:
    trainer = make_trainer(train_config("dense", tmp_path / "run"), start)
    with torch.no_grad():
        trainer.model.state_dict()[NORM].fill_(1e6)
    with pytest.raises(CheckpointError, match=rf"'{NORM}' holds .*values beyond torch.float16"):
        save_unsharded(trainer.model, trainer.config, tmp_path / "out", torch.float16)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [{"a": 1}, [1], {"torch": torch.ones(3)}, {"torch": 5}])
def test_random_state_of_something_else(step: Path, start: Path, content: object) -> None:
    torch.save(content, step / "train" / "rank0.pt")
    with pytest.raises(
        CheckpointError, match=r"rank0\.pt: (not the random state|'torch' is not the state)"
    ):
        resume(step, start)


def test_random_state_cannot_run_code(step: Path, start: Path, tmp_path: Path) -> None:
    (step / "train" / "rank0.pt").write_bytes(saved(Payload(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=r"rank0\.pt: not readable"):
        resume(step, start)
    assert not (tmp_path / "ran").exists()
