"""One process, two and four give the same gradients and read each other's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from olmo.models.loading import load_model
from olmo.train.checkpoint import latest_checkpoint, load_checkpoint
from olmo.train.optim import group_of
from olmo.types import HOST_INPUTS, MODEL_INPUTS
from tests.ranks import start_ranks
from tests.train.rows import (
    EXAMPLES,
    FOUR_RANKS,
    INPUTS,
    KINDS,
    LAYOUTS,
    LORA,
    TWICE,
    TWO_RANKS,
    gradients,
    make_trainer,
    micro_batch,
    train_config,
    upstream_trainer,
    write_start,
)
from tests.train.state import snapshot, take_step
from tests.train.two_ranks import DENSE_QUICK, LONG, QUICK, run, run_four

TOLERANCE = 1e-5
"""Of the largest entry of a parameter's gradient; measured: 4.3e-6."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Starting points, and a checkpoint that one process wrote after a step."""
    folder = tmp_path_factory.mktemp("ranks")
    for kind in KINDS:
        write_start(kind, folder / kind)
    trainer = make_trainer(train_config("stts", folder / "by_one"), folder / "stts")
    take_step(trainer, LAYOUTS["accumulated"])
    trainer.save()
    trainer.checkpoints.wait()
    torch.save(snapshot(trainer), folder / "by_one.pt")
    return folder


def found_by_two(folder: Path, kind: str) -> list[dict[str, Any]]:
    start_ranks(run, 2, folder, kind)
    return [torch.load(folder / f"{kind}{r}.pt", weights_only=True) for r in range(2)]


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> list[dict[str, Any]]:
    """What the two processes found, by rank."""
    return found_by_two(folder, QUICK)


@pytest.fixture(scope="module")
def two_ranks_at_length(folder: Path) -> list[dict[str, Any]]:
    return found_by_two(folder, LONG)


def obvious_gradients(kind: str, folder: Path, numbers: list[int]) -> dict[str, Tensor]:
    """One example at a time with all its logits; sums over the batch, divided at the end."""
    model = load_model(folder / kind)[0].train()
    ce, z, weight, aux, n_aux = torch.zeros(()), torch.zeros(()), 0.0, torch.zeros(()), 0
    for i in numbers:
        batch = micro_batch([[i]]).tensors
        labels, weights = batch.pop("labels"), batch.pop("loss_masks")
        has_loss = weights > 0
        out = model(**batch, response_mask=has_loss)
        log_z = out.logits.logsumexp(-1)
        picked = out.logits.gather(-1, labels[has_loss][:, None])[:, 0]
        ce = ce + (weights[has_loss] * (log_z - picked)).sum()
        z = z + (weights[has_loss] * 1e-4 * log_z**2).sum()
        weight += float(weights.sum())
        if out.vision.aux_count:
            aux, n_aux = (
                aux + out.vision.aux_loss * out.vision.aux_count,
                n_aux + out.vision.aux_count,
            )
    ((ce + z) / weight + aux / max(n_aux, 1)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Some gradients are zero but for rounding: those of key biases, say. Hence the floor."""
    assert set(expected) <= set(found)
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        size = max(float(value.abs().max()), 3e-2 * largest)
        error = float((found[name] - value).abs().max())
        assert error <= TOLERANCE * size, (name, error, size)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, dict[str, Tensor]]:
    everything = list(range(len(EXAMPLES)))
    return {
        f"{kind}{'' if once else ' twice'}": obvious_gradients(
            kind, folder, everything if once else [*everything, 1]
        )
        for kind in KINDS
        for once in (True, False)
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_process(
    kind: str, layout: str, folder: Path, expected: dict[str, dict[str, Tensor]]
) -> None:
    """Several rows, several micro-batches and packed rows, against one example at a time."""
    trainer = make_trainer(train_config(kind, folder / "unused"), folder / kind)
    assert_same(gradients(trainer, LAYOUTS[layout]), expected[kind])
    if layout == "accumulated":
        assert_same(gradients(trainer, TWICE), expected[f"{kind} twice"])


def assert_gradients(
    kind: str, layout: str, ranks: list[dict[str, Any]], expected: dict[str, dict[str, Tensor]]
) -> None:
    twice = " twice" if layout == "only text on rank 1" else ""
    for rank in ranks:
        assert_same(rank["gradients"][f"{kind}, {layout}, 1"], expected[kind + twice])


@pytest.mark.parametrize(
    ("kind", "layout"),
    [*(("stts", layout) for layout in TWO_RANKS), *(("dense", layout) for layout in DENSE_QUICK)],
)
def test_two_processes(
    kind: str,
    layout: str,
    two_ranks: list[dict[str, Any]],
    expected: dict[str, dict[str, Tensor]],
) -> None:
    assert_gradients(kind, layout, two_ranks, expected)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [name for name in TWO_RANKS if name not in DENSE_QUICK])
def test_two_processes_without_pruning(
    layout: str,
    two_ranks_at_length: list[dict[str, Any]],
    expected: dict[str, dict[str, Tensor]],
) -> None:
    assert_gradients("dense", layout, two_ranks_at_length, expected)


@pytest.mark.parametrize(("kind", "replicas"), [("untied", 1), ("stts", 2)])
def test_other_head_and_other_mesh(
    kind: str,
    replicas: int,
    two_ranks: list[dict[str, Any]],
    expected: dict[str, dict[str, Tensor]],
) -> None:
    """A head of its own; a mesh of two replicas of one shard each."""
    for rank in two_ranks:
        assert_same(rank["gradients"][f"{kind}, accumulated, {replicas}"], expected[kind])


@pytest.mark.slow
def test_four_processes_in_two_replicas(folder: Path, tmp_path: Path) -> None:
    """A real 2 x 2 mesh, once compiled. One process loads its checkpoint, optimizer included."""
    for kind in ("dense", "stts"):
        write_start(kind, tmp_path / kind)
    start_ranks(run_four, 4, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(4)]
    numbers = [i for rank in FOUR_RANKS for rows in rank for row in rows for i in row]
    for kind in ("dense", "stts"):
        expected = obvious_gradients(kind, folder, numbers)
        groups: dict[str, list[Tensor]] = {}
        for name, value in expected.items():
            groups.setdefault(group_of(name), []).append(value.norm())
        for rank in ranks:
            assert_same(rank[kind], expected)
            for group, norms in groups.items():
                norm = torch.stack(norms).norm()
                torch.testing.assert_close(rank[f"{kind} norms"][group], norm, rtol=1e-4, atol=0)
    trainer = make_trainer(train_config("stts", tmp_path / "unused"), tmp_path / "stts")
    load_checkpoint(tmp_path / "run" / "step1", trainer.model, trainer.optimizer)
    assert_equal(snapshot(trainer), ranks[3]["state"])


def test_both_losses_reach_the_scorer(two_ranks: list[dict[str, Any]]) -> None:
    """Each alone, on both ranks, although rank 1 has nothing but text."""
    for rank in two_ranks:
        assert rank["scorer"]["llm"] > 1e-6 and rank["scorer"]["aux"] > 1e-6


def test_without_any_video_the_scorer_has_a_gradient_of_zero(
    two_ranks: list[dict[str, Any]],
) -> None:
    """And no rank waits for another: text and an image on rank 0, text alone on rank 1."""
    for rank in two_ranks:
        assert rank["no video"]["scorer"] == 0.0 and rank["no video"]["others"] > 1e-6


def test_a_nan_on_one_rank_is_met_by_both(two_ranks: list[dict[str, Any]]) -> None:
    """The same decision and message everywhere, with the examples of both ranks."""
    for rank in two_ranks:
        found = rank["nan"]
        assert found["skipped"] == 1 and found["same"]
        for words in ("step 2", "transformer.blocks.1", *(f"example {i}" for i in range(5))):
            assert words in found["said"]
    assert two_ranks[0]["nan"]["said"] == two_ranks[1]["nan"]["said"]


def test_bad_examples_are_agreed_on(two_ranks: list[dict[str, Any]]) -> None:
    """Each counts once; the metric counts how often one was left out."""
    for rank in two_ranks:
        assert rank["bad examples"]["found"] == [
            (["d 1"], 2.0),
            (["d 1", "d 2"], 4.0),
            (["d 1", "d 2", "e 1"], 6.0),
            (["d 1", "d 2", "e 1", "e 5"], 7.0),
        ]
        assert rank["bad examples"]["said"].startswith(
            "4 files or examples could not be used, more than"
        )


def test_counts_of_frames_stay_on_the_host(two_ranks: list[dict[str, Any]]) -> None:
    """Everything else goes where FSDP puts it."""
    moved = {name for name, same in two_ranks[0]["held on the host"].items() if not same}
    assert set(two_ranks[0]["held on the host"]) == set(MODEL_INPUTS)
    assert moved == set(MODEL_INPUTS) - set(HOST_INPUTS)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected) and any(k.endswith(".exp_avg_sq") for k in found)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_two_ranks_write_and_one_reads(folder: Path, two_ranks: list[dict[str, Any]]) -> None:
    """Also: the checkpoint holds the state at the time of the call, whatever follows."""
    newest = latest_checkpoint(folder / "by_two")
    assert newest == folder / "by_two" / "step1"
    trainer = make_trainer(train_config("stts", folder / "unused"), folder / "stts")
    state = load_checkpoint(newest, trainer.model, trainer.optimizer)
    assert state.step == 1
    assert_equal(snapshot(trainer), torch.load(folder / "by_two.pt", weights_only=True))


@pytest.mark.slow
def test_two_ranks_start_from_the_published_layout(
    two_ranks_at_length: list[dict[str, Any]], tmp_path: Path
) -> None:
    """With the weights that one process gets, the new scorer's included."""
    model = upstream_trainer(tmp_path).model
    for rank in two_ranks_at_length:
        assert set(rank["upstream"]) == set(model.state_dict())
        for name, value in model.state_dict().items():
            assert torch.equal(rank["upstream"][name], value), name


def test_one_writes_and_two_ranks_read(folder: Path, two_ranks: list[dict[str, Any]]) -> None:
    written = torch.load(folder / "by_one.pt", weights_only=True)
    for rank in two_ranks:
        assert_equal(rank["resharded"], written)


@pytest.mark.slow
def test_two_ranks_fall_back_alike(folder: Path, two_ranks_at_length: list[dict[str, Any]]) -> None:
    """On damage that only one of them can see."""
    for rank in two_ranks_at_length:
        found = rank["fallback"]
        assert found["step"] == 1 and found["same"]
        assert "damaged/step2" in found["said"] and "--allow_fallback=False" in found["said"]
    assert two_ranks_at_length[0]["fallback"]["said"] == two_ranks_at_length[1]["fallback"]["said"]
    assert (folder / "damaged" / "step2-set-aside").is_dir()


@pytest.mark.skipif(not LORA, reason="needs peft")
@pytest.mark.slow
def test_two_ranks_train_adapters_as_one_does(
    folder: Path, two_ranks_at_length: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Gradients at first, and a checkpoint that one process merges; evaluation on the way answers
    as that does."""
    trainer = make_trainer(train_config("stts", tmp_path, **LORA), folder / "stts")
    expected = gradients(trainer, LAYOUTS["accumulated"])
    batch = micro_batch([[0], [3, 4]]).tensors
    with torch.no_grad():
        merged = load_model(folder / "adapted")[0](**{k: batch[k] for k in INPUTS}).logits
    for rank in two_ranks_at_length:
        assert_same(rank["adapters"]["gradients"], expected)
        torch.testing.assert_close(rank["adapters"]["logits"], merged, rtol=1e-4, atol=1e-4)


def test_a_second_run_is_refused_on_every_rank(two_ranks: list[dict[str, Any]]) -> None:
    """Through a link to the folder as well."""
    for rank in two_ranks:
        assert "another process trains in this folder" in rank["refused"]["said"]
