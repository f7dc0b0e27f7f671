"""What two or four gloo processes do for ``test_sharded.py``; results go to files of a folder."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from olmo.command_line import RunError
from olmo.data.examples import Skipped
from olmo.distributed import from_main, is_main
from olmo.models.loading import CheckpointError
from olmo.models.parallel import whole_copy
from olmo.train.checkpoint import load_checkpoint
from olmo.train.optim import clip_gradients, named_groups
from olmo.train.resume import resume
from olmo.train.signals import folder_lock
from olmo.types import MODEL_INPUTS
from tests.train.rows import (
    FOUR_RANKS,
    INPUTS,
    LORA,
    TWO_RANKS,
    full,
    gradients,
    make_trainer,
    micro_batch,
    train_config,
    upstream_trainer,
)
from tests.train.state import snapshot, take_step

QUICK, LONG = "quick", "long"
DENSE_QUICK = ("packed",)
"""The layouts of a model without pruning that are quick; with pruning all are."""


def run(rank: int, folder: Path, kind: str) -> None:
    """All that is quick, or all that is long, in one process group."""
    torch.set_num_threads(1)
    store = f"file://{folder / kind}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        if kind == QUICK:
            results = {
                "gradients": _gradients(rank, folder, RUNS),
                "scorer": _scorer(rank, folder),
                "no video": _no_video(rank, folder),
                "nan": _nan_on_rank_1(rank, folder),
                "bad examples": _bad_examples(rank, folder),
                "held on the host": _inputs_on_the_host(folder),
                "resharded": _checkpoints(rank, folder),
                "refused": _second_run(folder / "used"),
            }
        else:
            others = tuple(name for name in TWO_RANKS if name not in DENSE_QUICK)
            results = {
                "gradients": _gradients(rank, folder, (("dense", 1, others),)),
                "upstream": _upstream(folder),
                "fallback": _fallback(folder),
                "adapters": _adapters(rank, folder) if LORA else None,
            }
        torch.save(results, folder / f"{kind}{rank}.pt")
    finally:
        dist.destroy_process_group()


RUNS = (
    *(("dense", 1, DENSE_QUICK), ("stts", 1, tuple(TWO_RANKS))),
    *(("untied", 1, ("accumulated",)), ("stts", 2, ("accumulated",))),
)
"""Kind of model, replicas, layouts."""


def _gradients(
    rank: int, folder: Path, runs: tuple[tuple[str, int, tuple[str, ...]], ...]
) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for kind, replicas, layouts in runs:
        config = train_config(kind, folder / "unused", fsdp={"replicas": replicas})
        trainer = make_trainer(config, folder / kind)
        for name in layouts:
            layout = TWO_RANKS[name][rank]
            found[f"{kind}, {name}, {replicas}"] = gradients(trainer, layout)
    return found


def run_four(rank: int, folder: Path) -> None:
    """Two copies of the model on two ranks each: gradients, their norms, and one step. The model
    with pruning is compiled."""
    torch.set_num_threads(1)
    store = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=4)
    try:
        found = {}
        compiled = {"vision_backbone": {"compile_vit": "blocks", "compile_connector": "default"}}
        torch.compile = partial(torch.compile, backend="aot_eager")
        for kind, model in (("dense", {}), ("stts", compiled)):
            mesh = {"replicas": 2}
            config = train_config(
                kind, folder / "run", fsdp=mesh, model=model, compile_llm=bool(model)
            )
            trainer = make_trainer(config, folder / kind)
            found[kind] = gradients(trainer, FOUR_RANKS[rank])
            norms = clip_gradients(named_groups(trainer.model), {})
            found[f"{kind} norms"] = {name: torch.tensor(norm) for name, norm in norms.items()}
            take_step(trainer, FOUR_RANKS[rank])
        trainer.save()
        trainer.checkpoints.wait()
        found["state"] = snapshot(trainer)
        torch.save(found, folder / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def _scorer(rank: int, folder: Path) -> dict[str, float]:
    """Largest gradient of the scorer on this rank, through one of the two losses."""
    found = {}
    for name, coefficient, llm in (("llm", 0.0, True), ("aux", 0.5, False)):
        vit = {"vit": {"sim_reg_loss_coefficient": coefficient}}
        config = train_config("stts", folder / "unused", model={"vision_backbone": vit})
        trainer = make_trainer(config, folder / "stts")
        gradients(trainer, TWO_RANKS["only text on rank 1"][rank], llm)
        local = [
            p.grad.to_local().abs().max()
            for n, p in trainer.model.named_parameters()
            if "temporal_token_scorer" in n and p.grad.to_local().numel()
        ]
        found[name] = float(max(local))
    return found


def _no_video(rank: int, folder: Path) -> dict[str, float]:
    """Largest gradient of the scorer and of all others where no rank has a video."""
    trainer = make_trainer(train_config("stts", folder / "unused"), folder / "stts")
    found = gradients(trainer, [[[1]], [[2]]] if rank == 0 else [[[1]], [[1]]])
    parts: dict[str, list[float]] = {"scorer": [], "others": []}
    for name, value in found.items():
        part = "scorer" if "temporal_token_scorer" in name else "others"
        parts[part].append(float(value.abs().max()))
    return {part: max(values) for part, values in parts.items()}


def _bad_examples(rank: int, folder: Path) -> dict[str, Any]:
    """What each rank skips in three steps: the same example on both, over and over, then more."""
    config = train_config("stts", folder / "unused", data={"max_skipped": 3})
    trainer = make_trainer(config, folder / "stts")
    steps = [[["d 1"], ["d 1"]], [[], ["d 1", "d 2"]], [["d 1"], ["e 1"]], [["e 5"], []]]
    said, found = "", []
    for step in steps:
        batch = micro_batch([[1]])
        batch.skipped = [Skipped(name, f"{name}: gone") for name in step[rank]]
        metrics = {"batch/tokens": 1.0}
        try:
            trainer._count([batch], trainer._agree([batch]), metrics)
        except RunError as e:
            said = str(e)
        found.append((list(trainer.state.bad_examples), metrics["data/examples_skipped"]))
    return {"found": found, "said": said}


def _nan_on_rank_1(rank: int, folder: Path) -> dict[str, Any]:
    """Only rank 1 meets a NaN: both leave the update out, then both end with the same words."""
    options = {"on_nan": "skip", "max_skipped_in_a_row": 2, "loss_chunk": 3}
    save_folder = folder / "nan"
    save_folder.mkdir(exist_ok=True)
    trainer = make_trainer(train_config("stts", save_folder, train=options), folder / "stts")
    before = snapshot(trainer)
    if rank == 1:
        block = trainer.model.transformer.blocks[1]
        block.register_forward_hook(lambda module, args, out: out * float("nan"))
    layout = TWO_RANKS["accumulated"][rank]
    skipped = take_step(trainer, layout)["optim/updates_skipped"]
    after = snapshot(trainer)
    same = all(torch.equal(before[name], value) for name, value in after.items())
    try:
        take_step(trainer, layout)
    except RunError as e:
        return {"skipped": skipped, "same": same, "said": str(e)}
    raise AssertionError("the second NaN in a row did not end the run")


def _inputs_on_the_host(folder: Path) -> dict[str, bool]:
    """Whether inputs reach the model as they are when FSDP moves what it is given, as on a GPU."""
    model = make_trainer(train_config("stts", folder / "unused"), folder / "stts").model
    batch = micro_batch([[0], [3, 4]]).tensors
    inputs = {name: batch[name] for name in MODEL_INPUTS}
    with torch.no_grad():
        model(**inputs)  # after this the streams of FSDP are those of the CPU
    model._get_fsdp_state()._device = torch.device("cuda")  # type: ignore[operator]
    found = {}

    def note(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        found.update({name: value is batch[name] for name, value in kwargs.items()})

    def move(args: Any, kwargs: dict[str, torch.Tensor], *_: object) -> tuple[Any, Any]:
        return (args,), ({name: value.clone() for name, value in kwargs.items()},)

    model.register_forward_pre_hook(note, with_kwargs=True)
    mover = mock.patch("torch.distributed.fsdp._fully_shard._fsdp_state._to_kwargs", move)
    with torch.no_grad(), mover:
        model(**inputs)
    return found


def _upstream(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of a run from a published layout; the scorer is new."""
    model = upstream_trainer(folder / "unused").model
    return {name: full(value).detach().clone() for name, value in model.state_dict().items()}


def _checkpoints(rank: int, folder: Path) -> dict[str, torch.Tensor]:
    """Write one from two ranks; read the one that a single process wrote."""
    trainer = make_trainer(train_config("stts", folder / "by_two"), folder / "stts")
    take_step(trainer, TWO_RANKS["accumulated"][rank])
    trainer.save()
    before = snapshot(trainer)
    with torch.no_grad():  # the write goes on in the background
        for p in trainer.model.parameters():
            p.add_(1.0)
    trainer.checkpoints.wait()
    if rank == 0:
        torch.save(before, folder / "by_two.pt")
    other = make_trainer(train_config("stts", folder / "unused"), folder / "stts")
    load_checkpoint(folder / "by_one" / "step1", other.model, other.optimizer)
    return {name: full(value) for name, value in snapshot(other).items()}


def _adapters(rank: int, folder: Path) -> dict[str, Any]:
    """A run with adapters: gradients, what evaluation on the way sees, and a checkpoint."""
    trainer = make_trainer(train_config("stts", folder / "adapted", **LORA), folder / "stts")
    found = {"gradients": gradients(trainer, TWO_RANKS["accumulated"][rank])}
    for _ in range(2):
        take_step(trainer, TWO_RANKS["accumulated"][rank])
    trainer.save()
    trainer.checkpoints.wait()
    batch = micro_batch([[0], [3, 4]]).tensors
    with torch.no_grad():
        found["logits"] = whole_copy(trainer.model)(**{k: batch[k] for k in INPUTS}).logits
    return found


def _second_run(folder: Path) -> dict[str, Any]:
    """What each rank gets when rank 0 finds the folder in use."""
    with contextlib.ExitStack() as stack:
        if is_main():
            stack.enter_context(folder_lock(folder))
            folder.with_name("link").symlink_to(folder)
        lock = folder_lock(folder.with_name("link"), patience=0)
        try:
            from_main(lambda: stack.enter_context(lock))
        except (ValueError, OSError) as e:
            return {"said": str(e)}
    raise AssertionError("two runs in one folder")


def _fallback(folder: Path) -> dict[str, Any]:
    """Only the file that rank 1 wrote is damaged, and only inside a tensor."""
    config, identity = train_config("stts", folder / "damaged"), {"data": {}}
    trainer = make_trainer(config, folder / "stts")
    for _ in range(2):
        take_step(trainer, TWO_RANKS["accumulated"][dist.get_rank()])
        trainer.save()
    trainer.checkpoints.wait()
    file = folder / "damaged" / "step2" / "model_and_optim" / "__1_0.distcp"
    if is_main():
        data = bytearray(file.read_bytes())
        data[data.index(b"data.pkl", len(data) // 2) + 60] ^= 1
        file.write_bytes(data)
    dist.barrier()
    again = make_trainer(config, folder / "stts")
    try:
        resume(replace(config, allow_fallback=False), identity, again.model, again.optimizer)
    except (CheckpointError, ValueError) as e:
        said = str(e)
    state = resume(config, identity, again.model, again.optimizer)
    assert state is not None
    found = snapshot(again)
    load_checkpoint(folder / "damaged" / "step1", again.model, again.optimizer)
    same = all(torch.equal(value, found[name]) for name, value in snapshot(again).items())
    return {"step": state.step, "said": said, "same": same}
