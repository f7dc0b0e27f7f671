"""How a checkpoint prunes: one table, the same at every entry point."""

import logging
from pathlib import Path

import pytest

pytest.importorskip("transformers.models.molmo2")

from launch_scripts.eval_molmo2 import build_config
from olmo import load_model
from olmo.eval.loading import load_answerer
from olmo.eval.settings import plan_evaluation
from olmo.models.loading import load_model as load_native
from olmo.models.loading import load_model_config, model_section
from olmo.models.pruning_choice import resolve_pruning
from tests.eval.scripts import script_module
from tests.scored import DENSE_STEP

ROOT = Path(__file__).parents[2]
SCORER = "has no token scorer. Choose a prune_method without training: easy, evs, heuristic, random"
NO_EFFECT = "prune_at has no effect without topk or prune_method"


def by_load_model(path, given):
    return load_model(path, device="cpu", **given)[0].model.config


def by_native(path, given):
    return load_native(path, {"vision_backbone": {"vit": given}})[1]


def by_evaluation(path, given):
    flags = [
        f"--model.vision_backbone.vit.{k}={'null' if v is None else v}" for k, v in given.items()
    ]
    return plan_evaluation(build_config([str(path), "--tasks=synthetic", *flags])).model_config


def by_predict(path, given):
    """The flags of ``predict.py``, and the loader that it calls."""
    predict = script_module("predict")
    flags = [f"--{k}={'null' if v is None else v}" for k, v in given.items()]
    args = predict.parse_args(["a.mp4", "?", "--checkpoint", str(path), *flags])
    return load_answerer(path, predict.overrides_of(args)).model.config


ENTRIES = {
    "load_model": by_load_model,
    "native": by_native,
    "evaluation": by_evaluation,
    "predict": by_predict,
}

DENSE_TABLE = [
    ({}, 0.0, None),
    ({"topk": 0.3}, 0.3, "evs"),
    ({"topk": 0.3, "prune_at": 1}, 0.3, "evs"),
    ({"topk": 0.3, "prune_method": "easy"}, 0.3, "easy"),
    ({"prune_method": "easy"}, 0.5, "easy"),
    ({"topk": 0}, 0.0, None),
    ({"topk": None}, 0.0, None),
    ({"topk": 0, "prune_method": "easy"}, 0.0, None),
    ({"prune_method": "scorer"}, SCORER, None),
    ({"topk": 0.3, "prune_method": "scorer"}, SCORER, None),
    ({"topk": 0, "prune_method": "scorer"}, SCORER, None),
]
STTS_TABLE = [
    ({}, 0.5, "scorer"),
    ({"topk": 0.3}, 0.3, "scorer"),
    ({"topk": 0}, 0.0, None),
    ({"topk": None}, 0.0, None),
    ({"prune_method": "easy"}, 0.5, "easy"),
    ({"topk": 0.25, "prune_method": "random", "prune_at": 2}, 0.25, "random"),
]


def check(find, path, given, share, method):
    """That ``find`` makes the config of the table's row, or refuses with its message."""
    if isinstance(share, str):
        with pytest.raises(ValueError, match=share):
            find(path, given)
        return
    config = find(path, given)
    assert config.budget.topk == share
    if method is not None:
        vit = config.vision_backbone.vit
        assert vit.prune_method == method
        assert vit.prune_at == given.get("prune_at", vit.prune_at)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(("given", "share", "method"), DENSE_TABLE)
def test_a_dense_checkpoint(entry, given, share, method):
    check(ENTRIES[entry], DENSE_STEP, given, share, method)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(("given", "share", "method"), STTS_TABLE)
def test_a_checkpoint_with_a_scorer(scored_checkpoint, entry, given, share, method):
    check(ENTRIES[entry], scored_checkpoint, given, share, method)


@pytest.mark.parametrize(("given", "share", "method"), DENSE_TABLE)
def test_a_picture_of_a_dense_checkpoint(given, share, method):
    """A picture shows pruning, so without an argument it is that of the default share."""
    visualize = script_module("visualize_pruning")

    def find(path, chosen):
        return visualize.checkpoint_config(path, chosen, None, {})

    check(find, DENSE_STEP, given, *((share, method) if given else (0.5, "evs")))


def test_what_is_said(caplog):
    """One line where evs was chosen for the user, none where there was nothing to choose."""
    for given, n in (({"topk": 0.3}, 1), ({"topk": 0}, 0), ({"prune_method": "easy"}, 0), ({}, 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "olmo.models.pruning_choice"):
            by_evaluation(DENSE_STEP, given)
        found = [r.getMessage() for r in caplog.records if r.name == "olmo.models.pruning_choice"]
        assert found == [f"{DENSE_STEP} is dense: topk 0.3 prunes it by evs"] * n


def test_settings_without_effect():
    """``load_model`` takes them: a question may bring the topk."""
    for entry in (by_native, by_evaluation):
        with pytest.raises(ValueError, match=NO_EFFECT):
            entry(DENSE_STEP, {"prune_at": 1})
    assert by_load_model(DENSE_STEP, {"prune_at": 1}).budget.topk == 0


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize(("given", "share"), [(g, s) for g, s, _ in DENSE_TABLE if s != SCORER])
def test_resolving_twice(given, share, waiting):
    stored = model_section(DENSE_STEP)
    once = resolve_pruning(stored, {"vision_backbone": {"vit": given}}, DENSE_STEP, waiting)
    assert resolve_pruning(stored, once, DENSE_STEP, waiting) == once
    assert load_model_config(DENSE_STEP, once, stored).budget.topk == share


def test_a_pruning_checkpoint_that_was_saved_dense():
    """As ``save_pretrained`` of a dense one leaves it: a topk wakes it up."""
    stored = {
        "model_name": "temporal_video_olmo",
        "vision_backbone": {"vit": {"prune": False, "prune_method": "evs"}},
    }
    for given, wakes in (({"topk": 0.3}, True), ({"topk": 0}, False), ({}, False)):
        found = resolve_pruning(stored, {"vision_backbone": {"vit": given}}, "x")
        assert found["vision_backbone"]["vit"].get("prune", False) is wakes
