"""What two gloo processes do for ``test_sharded.py``; results go to files of one folder."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from olmo.train.checkpoint import load_checkpoint
from tests.train.rows import TWO_RANKS, full, gradients, make_trainer, train_config
from tests.train.state import snapshot, take_step


def run(rank: int, folder: Path) -> None:
    """Everything, in one process group: starting processes costs more than all of this."""
    torch.set_num_threads(1)
    store = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        results = {
            "gradients": _gradients(rank, folder),
            "scorer": _scorer(rank, folder),
            "resharded": _checkpoints(rank, folder),
        }
        torch.save(results, folder / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def _gradients(rank: int, folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    every, one = tuple(TWO_RANKS), ("accumulated",)
    for kind, replicas, layouts in (
        *(("dense", 1, every), ("stts", 1, every)),
        *(("untied", 1, one), ("stts", 2, one)),
    ):
        config = train_config(kind, folder / "unused", fsdp={"replicas": replicas})
        trainer = make_trainer(config, folder / kind)
        for name in layouts:
            layout = TWO_RANKS[name][rank]
            found[f"{kind}, {name}, {replicas}"] = gradients(trainer, layout)
    return found


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
