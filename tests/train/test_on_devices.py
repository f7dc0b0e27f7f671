"""Training on a GPU; each test runs on the CPU as well, so that its code is known to run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader

from olmo.train.checkpoint import load_checkpoint
from olmo.train.device_batches import DeviceBatches
from olmo.train.optim import build_optimizer
from olmo.train.state import TrainerState
from olmo.train.trainer import Callback, Trainer
from tests.pretended_gpu import pretended_gpu, to_gpu
from tests.train.rows import gradients, make_trainer, micro_batch, train_config, write_start
from tests.train.state import snapshot, take_step

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
devices = pytest.mark.parametrize("device", ["cpu", GPU])
ROWS = [[[0], [1]], [[3, 4]], [[2], [3]]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_start("stts", folder)
    return folder


def on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in state.items()}


def losses(trainer: Trainer, n: int) -> list[float]:
    return [take_step(trainer, ROWS)["train/loss"] for _ in range(n)]


@devices
def test_batches_arrive_in_order_and_whole(device: str) -> None:
    """Also when the host is far ahead of the device, and drops each batch at once."""
    layouts = [[[0], [1]], [[2], [3, 4]], [[3, 4]], [[0, 1, 2, 3, 4]], [[1]]] * 4
    made = (micro_batch(rows) for rows in layouts)
    pinned = (m.pin_memory() if device == "cuda" else m for m in made)
    arriving = DeviceBatches(torch.device(device))(m.tensors for m in pinned)
    found = []
    for batch in arriving:
        busy = torch.randn(512, 512, device=device)
        for _ in range(8):
            busy = busy @ busy.T / 512
        pixels = batch["images"].double().sum() + 0 * busy.sum()
        found.append(torch.stack((pixels, batch["labels"].sum(), batch["weights"].double().sum())))
        assert batch["num_images"].device.type == "cpu"
        assert {batch[k].device.type for k in ("labels", "weights")} == {device}
        assert batch["response_mask"].device.type == "cpu"
    for rows, sums in zip(layouts, found, strict=True):
        host = micro_batch(rows).tensors
        mask = host["loss_masks"] > 0
        expected = (host["images"], host["labels"][mask], host["loss_masks"][mask])
        want = torch.stack([x.double().sum() for x in expected])
        torch.testing.assert_close(sums.cpu(), want, rtol=1e-12, atol=0)


def test_a_copy_begins_before_the_batch_ahead_of_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The path of a GPU with streams that only note what is asked of them."""
    said: list[str] = []

    class Stream:
        copies = 0

        def record_event(self) -> int:
            self.copies += 1
            said.append(f"copy {self.copies}")
            return self.copies

        def wait_event(self, event: int) -> None:
            said.append(f"wait {event}")

    arriving, work = DeviceBatches(torch.device("cpu")), Stream()
    arriving.stream = Stream()  # type: ignore[assignment]
    held: list[Tensor] = []
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: work)
    monkeypatch.setattr(Tensor, "record_stream", lambda x, stream: held.append(x))
    for i, batch in enumerate(arriving(micro_batch(rows).tensors for rows in ROWS)):
        said.append(f"use {i + 1}")
        assert {id(x) for x in held} >= {
            id(batch[k]) for k in ("labels", "weights", "images", "token_pooling")
        }
    assert said == [
        "copy 1",
        "copy 2",
        "wait 1",
        "use 1",
        "copy 3",
        "wait 2",
        "use 2",
        "wait 3",
        "use 3",
    ]


class Noted(Callback):
    """Losses by step; asks the run to stop after step ``stop``."""

    def __init__(self, stop: int = -1):
        self.losses: dict[int, float] = {}
        self.stop = stop

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        self.losses[trainer.state.step] = metrics["train/loss"]
        trainer.stopping |= trainer.state.step == self.stop


@devices
def test_a_stopped_run_goes_on_with_the_same_losses(
    device: str, start: Path, tmp_path: Path
) -> None:
    def run(name: str, stop: int = -1) -> dict[int, float]:
        sizes = {"global_train_batch_size": 2, "device_train_microbatch_size": 1}
        config = train_config("stts", tmp_path / name, max_duration=4, save_interval=0, **sizes)
        trainer, noted = make_trainer(config, start, device), Noted(stop)
        last = tmp_path / name / "step2"
        if last.is_dir():
            trainer.state = load_checkpoint(last, trainer.model, trainer.optimizer)
        left = [micro_batch(rows) for rows in (ROWS * 3)[2 * trainer.state.step : 8]]
        pin = device == "cuda"
        trainer.loader = DataLoader(left, batch_size=None, pin_memory=pin)  # type: ignore[arg-type]
        trainer.callbacks = [noted]
        trainer.fit()
        return noted.losses

    whole, first, rest = run("whole"), run("cut", stop=2), run("cut")
    assert list(first) == [1, 2] and list(rest) == [3, 4]
    for step, loss in (first | rest).items():
        assert loss == pytest.approx(whole[step], rel=0 if device == "cpu" else 1e-4, abs=0)


COMPILED: dict[str, dict[str, Any]] = {
    "vit": {"model": {"vision_backbone": {"compile_vit": "blocks"}}},
    "connector, dynamic": {"model": {"vision_backbone": {"compile_connector": "dynamic"}}},
    "connector, default": {"model": {"vision_backbone": {"compile_connector": "default"}}},
    "llm": {"compile_llm": True},
}
SLOW = {"llm", "connector, default"}
"""Of a kind that another one of them tests, too."""


@pytest.mark.slow
@devices
@pytest.mark.parametrize(
    "option", [pytest.param(o, marks=pytest.mark.slow) if o in SLOW else o for o in COMPILED]
)
def test_compiled_parts_give_the_gradients_of_eager_ones(
    option: str, device: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = make_trainer(train_config("stts", tmp_path / "a"), start, device)
    torch.compiler.reset()
    if device == "cpu":  # a compiler of C++ takes too long
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    trainer = make_trainer(train_config("stts", tmp_path / "b", **COMPILED[option]), start, device)
    for layout in (ROWS[:1], ROWS[1:]):
        expected, found = gradients(eager, layout), gradients(trainer, layout)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            limit = 1e-3 * float(value.abs().max()) + 1e-7
            torch.testing.assert_close(found[name], value, rtol=0, atol=limit, msg=name)


@pytest.fixture
def group_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group as ``init_distributed`` makes it, in which one rank shards the model."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = f"file://{tmp_path / 'rendezvous'}"
    dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
    monkeypatch.setattr("olmo.train.run.get_world_size", lambda: 2)
    yield
    dist.destroy_process_group()


@devices
@pytest.mark.parametrize(
    ("precision", "autocast", "limit"),
    [
        ("mixed", False, 1e-4),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                *(("pure", True, 0.03), ("mixed", True, 0.03)),
                *(("float", False, 1e-4), ("float", True, 0.03)),
            )
        ),
    ],
)
@pytest.mark.usefixtures("group_of_one")
def test_a_sharded_model_has_the_losses_of_a_whole_one(
    precision: str, autocast: bool, limit: float, device: str, start: Path, tmp_path: Path
) -> None:
    """``limit`` is relative; in bf16 three steps of this model with large weights differ most."""
    with pytest.MonkeyPatch.context() as one:
        one.setattr("olmo.train.run.get_world_size", lambda: 1)
        whole = make_trainer(train_config("stts", tmp_path / "a"), start, device)
    products = "amp_bf16" if autocast else "fp32"
    changes = {"precision": products, "fsdp": {"precision": precision}}
    sharded = make_trainer(train_config("stts", tmp_path / "b", **changes), start, device)
    assert isinstance(sharded.model, FSDPModule)
    assert losses(sharded, 3) == pytest.approx(losses(whole, 3), rel=limit)


@devices
def test_a_checkpoint_is_of_the_step_at_which_it_was_begun(
    device: str, start: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(train_config("stts", tmp_path), start, device)
    losses(trainer, 1)
    before = snapshot(trainer)
    trainer.save()
    losses(trainer, 2)  # while it is written
    trainer.checkpoints.wait()
    again = make_trainer(train_config("stts", tmp_path), start, device)
    load_checkpoint(tmp_path / "step1", again.model, again.optimizer)
    torch.testing.assert_close(snapshot(again), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("saved_on", "resumed_on"),
    [
        ("cpu", "cpu"),
        pytest.param("cpu", "cuda", marks=pytest.mark.gpu),
        pytest.param("cuda", "cpu", marks=pytest.mark.gpu),
    ],
)
def test_a_run_goes_on_on_another_device(
    saved_on: str, resumed_on: str, start: Path, tmp_path: Path
) -> None:
    """Also from an optimizer that was fused, on the CPU as well."""
    first = make_trainer(train_config("stts", tmp_path), start, saved_on)
    for group in first.optimizer.param_groups:
        group["fused"] = True
    losses(first, 2)
    first.save()
    first.checkpoints.wait()
    stored = torch.distributed.checkpoint.FileSystemReader(tmp_path / "step2/model_and_optim")
    names = stored.read_metadata().state_dict_metadata
    assert not [n for n in names if "fused" in n] and any(".betas" in n for n in names)
    again = make_trainer(train_config("stts", tmp_path), start, resumed_on)
    again.state = load_checkpoint(tmp_path / "step2", again.model, again.optimizer)
    fused = {group["fused"] for group in again.optimizer.param_groups}
    assert fused == ({True} if resumed_on == "cuda" else {None})
    torch.testing.assert_close(on_cpu(snapshot(again)), on_cpu(snapshot(first)), rtol=0, atol=0)
    for state in again.optimizer.state.values():
        assert state["step"].device.type == resumed_on
    assert losses(again, 2) == pytest.approx(losses(first, 2), rel=1e-4)


@pytest.mark.slow
def test_a_step_waits_twice_besides_the_model(start: Path, tmp_path: Path) -> None:
    """On a pretended GPU, with the losses of the CPU."""
    layout = ROWS[:2]
    changes: dict[str, Any] = {"max_grad_norm": 1.0, "device_train_microbatch_size": 1}
    config = train_config("stts", tmp_path, global_train_batch_size=2, **changes)
    on_host = make_trainer(config, start)
    with pretended_gpu() as gpu:
        model = to_gpu(make_trainer(config, start).model)
        optimizer = build_optimizer(model, config.optimizer)
        assert {group["fused"] for group in optimizer.param_groups} == {True}
        place = torch.device("cuda", 0)
        trainer = Trainer(config, model, optimizer, on_host.loader, place, TrainerState())
        for _ in range(2):
            gpu.reset()
            metrics = trainer.step(iter([micro_batch(rows).pin_memory() for rows in layout]))
            waits = dict(gpu.waits)
            expected = take_step(on_host, layout)
            assert metrics["train/loss"] == pytest.approx(expected["train/loss"], rel=1e-6)
    model_waits = sum(n for line, n in waits.items() if "olmo/nn/" in line)
    assert model_waits == len(layout)
    assert sum(waits.values()) - model_waits == 2, waits
