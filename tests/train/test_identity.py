"""Which run a folder holds, and what may change in it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from olmo.config import merge, read_settings
from olmo.data.mixture import MIXTURES, Mixture, MixtureConfig
from olmo.train import identity as identity_module
from olmo.train.config import TrainConfig
from olmo.train.identity import (
    Differences,
    check_ranks,
    compare,
    fingerprint,
    identity_of,
    same_place,
)
from olmo.train.run import train
from tests.train.conftest import Run
from tests.train.rows import train_config, write_start

OWN = '{"image": "a.png", "question": "What?", "answer": "A cup."}\n'
CHAT = '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two start checkpoints, the first in a run folder, and a file of own data."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("identity")
    write_start("dense", folder / "run" / "step5")
    write_start("untied", folder / "other")
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    (folder / "own.jsonl").write_text(OWN * 12)
    (folder / "mine.yaml").write_text("groups: [{rate: 1.0, datasets: [{name: custom}]}]\n")
    return folder


@pytest.fixture
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in, which is the current folder."""
    copy = shutil.copytree(folder, tmp_path / "place")
    monkeypatch.chdir(copy)
    return copy


def config_of(**changes: Any) -> TrainConfig:
    data = {"mixture": "mine.yaml", "custom": "own.jsonl"}
    given = {"initial_model_checkpoint": "run", "data": data}
    return train_config("stts", Path("save"), **merge(given, changes))


def opened(config: TrainConfig) -> Mixture:
    return MixtureConfig.load(config.data.mixture).open(
        config.data.split, False, config.data.custom
    )


def differences(now: TrainConfig, before: tuple[TrainConfig, dict[str, Any]]) -> Differences:
    """``before``: a config and an identity, taken before what the test changed."""
    stored = json.loads(json.dumps(before[1]))
    kept = TrainConfig.from_dict(before[0].to_dict())
    return compare(kept, stored, now, identity_of(now, opened(now)))


def begun(**changes: Any) -> tuple[TrainConfig, dict[str, Any]]:
    config = config_of(**changes)
    return config, identity_of(config, opened(config))


def test_the_same_run(place: Path) -> None:
    assert differences(config_of(), begun()) == Differences()


@pytest.mark.parametrize(
    "changes",
    [
        *({k: 8} for k in ("max_duration", "save_interval", "save_num_checkpoints_to_keep")),
        *({"data": {k: 8}} for k in ("num_workers", "prefetch_factor", "max_skipped")),
        {"device_train_microbatch_size": 1},
        {"in_loop": {"picture_interval": 3}},
        {"run_name": "other", "wandb": {"project": "x"}},
        {"model": {"vision_backbone": {"compile_vit": "blocks"}}},
        {"model": {"llm": {"activation_checkpoint": "fine_grained"}}},
        {"fsdp": {"replicas": 2}},
        {"compile_llm": True, "console_log_interval": 3, "precision": "amp_bf16"},
    ],
)
def test_what_may_change_in_silence(changes: dict[str, Any], place: Path) -> None:
    assert differences(config_of(**changes), begun()) == Differences()


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("optimizer.llm_learning_rate", {"optimizer": {"llm_learning_rate": 3e-3}}),
        ("scheduler.alpha_f", {"scheduler": {"alpha_f": 0.5}}),
        ("vit.topk", {"model": {"vision_backbone": {"vit": {"topk": 0.25}}}}),
        ("data.sequence_length", {"data": {"sequence_length": 64}}),
        ("global_train_batch_size", {"global_train_batch_size": 8}),
        ("ft_vit", {"ft_vit": False}),
        ("llm.residual_dropout", {"model": {"llm": {"residual_dropout": 0.5}}}),
    ],
)
def test_what_may_change_and_is_said(key: str, changes: dict[str, Any], place: Path) -> None:
    found = differences(config_of(**changes), begun())
    assert not found.identity and not found.data
    assert any(key in line and ", now " in line for line in found.settings)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("seed", {"seed": 3}),
        ("data.seed", {"data": {"seed": 3}}),
        ("data.split", {"data": {"split": "validation"}}),
        ("model.llm.n_layers", {"model": {"llm": {"n_layers": 3}}}),
        ("model.llm.rope_theta", {"model": {"llm": {"rope_theta": 5.0}}}),
        ("model.llm.tokenizer.identifier", {"model": {"llm": {"tokenizer": {"identifier": "x"}}}}),
        ("vit_layers", {"model": {"vision_backbone": {"vit_layers": [-1]}}}),
        ("prune_method", {"model": {"vision_backbone": {"vit": {"prune_method": "evs"}}}}),
        ("prune_at", {"model": {"vision_backbone": {"vit": {"prune_at": 0}}}}),
        ("start checkpoint", {"initial_model_checkpoint": "other"}),
        ("data.mixture", {"data": {"mixture": "synthetic_text_qa", "custom": None}}),
    ],
)
def test_what_makes_another_run(key: str, changes: dict[str, Any], place: Path) -> None:
    found = differences(config_of(**changes), begun())
    lines = [line for line in found.identity if key in line]
    assert lines and all(", now " in line for line in lines)


# --- the start checkpoint -----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["run/step5", "./run/", "../place/run", "{}/run", "link", "moved"])
def test_one_start_checkpoint_by_many_paths(way: str, place: Path) -> None:
    before = begun()
    (place / "link").symlink_to("run")
    if way == "moved":
        (place / "run" / "step5").rename(place / "moved")
    now = config_of(initial_model_checkpoint=way.format(place))
    assert differences(now, before) == Differences()


def test_a_run_that_has_got_on_is_still_the_start(place: Path) -> None:
    before = begun()
    shutil.copytree(place / "other", place / "run" / "step9")
    assert differences(config_of(), before) == Differences()
    shutil.rmtree(place / "run" / "step5")
    assert "step9" in differences(config_of(), before).identity[0]


def test_a_replaced_start_is_noticed(place: Path) -> None:
    before = begun()
    file = place / "run" / "step5" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = os.urandom(len(data) - len(data) // 2)
    file.write_bytes(data)
    found = differences(config_of(), before)
    assert len(found.identity) == 1 and "replaced" in found.identity[0]


def test_a_large_file_is_sampled_from_end_to_end(tmp_path: Path) -> None:
    size, file = 8 << 20, tmp_path / "model.safetensors"
    seen = set()
    for place in (None, 0, size // 2, size - 1):
        data = bytearray(size)
        if place is not None:
            first, stop = max(place - 300_000, 0), min(place + 300_000, size)
            data[first:stop] = b"x" * (stop - first)
        file.write_bytes(data)
        seen.add(fingerprint(tmp_path))
    assert len(seen) == 4


# --- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OWN * 3, ("own.jsonl", "12 examples", "now 3 examples")),
        (OWN.replace("cup", "jug") * 12, ("own.jsonl", "contents")),
    ],
)
def test_changed_data_are_said(text: str, said: tuple[str, ...], place: Path) -> None:
    before = begun()
    (place / "own.jsonl").write_text(text)
    found = differences(config_of(), before)
    assert not found.identity and len(found.data) == 1
    assert all(words in found.data[0] for words in said)


def test_a_changed_file_of_a_folder_is_said(place: Path) -> None:
    (place / "own").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (place / "own" / name).write_text(CHAT)
    before = begun(data={"custom": "own"})
    assert differences(config_of(data={"custom": "own"}), before) == Differences()
    (place / "own" / "b.jsonl").write_text(CHAT.replace("Ho", "He"))
    found = differences(config_of(data={"custom": "own"}), before)
    assert not found.identity and len(found.data) == 1 and "contents" in found.data[0]


def test_another_file_is_another_run_but_a_moved_one_is_not(place: Path) -> None:
    before = begun()
    (place / "two.jsonl").write_text(OWN * 11)
    found = differences(config_of(data={"custom": "two.jsonl"}), before)
    assert found.identity == ["data.custom: 'own.jsonl', now 'two.jsonl'"]
    (place / "two.jsonl").write_text(OWN * 12)
    (place / "ours.yaml").write_text((place / "mine.yaml").read_text())
    moved = config_of(data={"custom": str(place / "two.jsonl"), "mixture": "ours.yaml"})
    assert differences(moved, before) == Differences()


# --- the same data by other paths, and with other contents ---------------------------------------

OTHER = {"data": {}}


def test_other_contents_by_another_path(place: Path) -> None:
    (place / "two.jsonl").write_text(OWN * 12)
    found = differences(config_of(data={"custom": "two.jsonl"}), (config_of(), OTHER))
    assert found.identity == ["data.custom: 'own.jsonl', now 'two.jsonl'"]
    absolute = config_of(
        data={k: str(place / getattr(config_of().data, k)) for k in ("mixture", "custom")}
    )
    assert not differences(absolute, (config_of(), OTHER)).identity


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ("own.jsonl", "own.jsonl", True),
        ("own.jsonl", "{}/own.jsonl", True),
        ("./own.jsonl", "{}/own.jsonl", True),
        ("elsewhere/own.jsonl", "own.jsonl", False),
        ("own.jsonl", "other.jsonl", False),
        ("/gone/own.jsonl", "own.jsonl", False),
    ],
)
def test_same_place(before: str, now: str, same: bool, place: Path) -> None:
    assert same_place(before, now.format(place)) == same


def test_a_mixture_by_its_name_and_by_its_path(place: Path) -> None:
    named = config_of(data={"mixture": "synthetic_text_qa", "custom": None})
    by_path = config_of(data={"mixture": str(MIXTURES / "synthetic_text_qa.yaml"), "custom": None})
    assert not differences(by_path, (named, OTHER)).identity
    other = config_of(data={"mixture": "synthetic_video_qa", "custom": None})
    assert "data.mixture" in differences(other, (named, OTHER)).identity[0]


# --- the command --------------------------------------------------------------------------------


def test_no_folder_is_chosen_for_the_user(run_script: Any, start: Path, tmp_path: Path) -> None:
    code, text = run_script(str(start), "debug")
    assert code == 2 and "--save_folder=DIR is missing" in text


@pytest.mark.slow
def test_the_command_knows_its_run(
    run_script: Any, start: Path, folder: Path, tmp_path: Path
) -> None:
    """Another run is refused, the same is finished or goes on, by whatever path."""
    own = tmp_path / "own.jsonl"
    shutil.copyfile(folder / "a.png", tmp_path / "a.png")
    own.write_text(OWN * 12)
    rows = ("--global_batch_size", "2", "--device_batch_size=2", f"--data.custom={own}")
    mine = tmp_path / "mine.yaml"
    mine.write_text("groups: [{rate: 1.0, datasets: [{name: custom}]}]\n")

    def run(*flags: str, name: str = "run") -> tuple[int, str]:
        return run_script(str(start), str(mine), *rows, f"--save_folder={tmp_path / name}", *flags)

    assert run("--max_duration=1")[0] == 0
    code, text = run("--max_duration=1")
    assert code == 0 and "is finished: step 1" in text and "a larger --max_duration" in text
    code, text = run("--max_duration=1", "--optimizer.llm_learning_rate=0.5")
    assert code == 2 and "nothing would be trained" in text and "llm_learning_rate" in text
    code, text = run("--max_duration=2", "--seed=1")
    assert code == 2 and re.search(r"seed: \d+, now 1", text) and "--allow_changes" in text
    (tmp_path / "link").symlink_to("run")
    code, text = run("--max_duration=2", "--seed=1", "--allow_changes", name="link")
    assert code == 0 and "seed: " in text and (tmp_path / "run" / "step2").is_dir()
    own.write_text(OWN * 3)
    code, text = run("--max_duration=2", "--seed=1")
    assert code == 2 and "12 examples" in text and "now 3 examples" in text
    code, text = run("--max_duration=3", "--seed=1")
    assert code == 0 and "12 examples" in text and "now 3 examples" in text
    assert "of another run" in run("--max_duration=4")[1]


@pytest.mark.slow
def test_an_identity_is_kept_with_every_checkpoint(run_train: Run, tmp_path: Path) -> None:
    run_train(tmp_path, "--max_duration=1")
    state = json.loads((tmp_path / "step1" / "train" / "state.json").read_text())
    assert set(state["identity"]) == {"start", "data"}
    assert read_settings(tmp_path / "step1" / "config.yaml")["data"]["mixture"] == "debug"


def test_a_run_has_no_place_in_a_checkpoint(place: Path) -> None:
    """It would be deleted with it; nor around its start, for which its own would then stand."""
    (place / "link").symlink_to(place / "run" / "step5")
    shutil.copytree(place / "run" / "step5", place / "dense" / "step5-unsharded")
    for save, said in (
        ("run/step5", "is in the checkpoint"),
        ("run/step5/new", "is in the checkpoint"),
        ("link/new", "is in the checkpoint"),
        ("dense", "holds the start checkpoint dense/step5-unsharded"),
    ):
        before = sorted(p for p in place.rglob("*") if p.name != ".lock")
        config = config_of(save_folder=str(place / save), initial_model_checkpoint="dense")
        with pytest.raises(ValueError, match=said):
            train(config, torch.device("cpu"))
        left = {p.name for p in place.rglob("*")} - {p.name for p in before}
        assert left <= {".lock"}, left


@pytest.mark.parametrize("there", [{"a": (3, 0.5)}, {"a": (3, 0.5), "b": (5, 0.5)}])
def test_ranks_with_other_data_do_not_train(
    there: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``skip_missing`` is decided by each rank, from the files on its machine."""
    mixture = Mixture({"a": [0] * 3, "b": [0] * 4}, {"a": 0.5, "b": 0.5})  # type: ignore[dict-item]
    monkeypatch.setattr(identity_module, "gather", lambda mine: [mine, mine])
    check_ranks(mixture)
    monkeypatch.setattr(identity_module, "gather", lambda mine: [mine, mine, there])
    with pytest.raises(ValueError, match=r"rank 2 has other data than rank 0, first 'b'"):
        check_ranks(mixture)
