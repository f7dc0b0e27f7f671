"""Parameter groups, schedule, clipping and the token loss."""

from __future__ import annotations

import math

import pytest
import torch

from olmo.config import merge, read_settings
from olmo.models.loading import merged_model_config
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig
from olmo.train.config import TrainConfig
from olmo.train.loss import token_loss
from olmo.train.optim import (
    OptimizerConfig,
    SchedulerConfig,
    build_optimizer,
    clip_gradients,
    decays,
    freeze,
    learning_rate,
    named_groups,
    set_learning_rates,
)
from tests.train.conftest import REPOSITORY, SMALLER


@pytest.fixture()
def model():
    data = merge(read_settings(REPOSITORY / "configs" / "tiny.yaml")["model"], SMALLER)
    config = merged_model_config(data, {"model_name": "temporal_video_olmo"})
    model = config.build()
    model.reset_parameters()
    return model


def test_groups_share_out_every_parameter(model) -> None:
    groups = named_groups(model)
    assert list(groups) == ["llm", "connector", "vit", "temporal_token_scorer"]
    names = [name for params in groups.values() for name in params]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert "transformer.wte.new_embedding" in groups["connector"]
    assert "transformer.wte.embedding" in groups["llm"]


def test_groups_have_their_own_rates_and_can_be_frozen(model) -> None:
    freeze(model, ["vit"])
    config = OptimizerConfig(llm_learning_rate=1.0, llm_weight_decay=0.1)
    found = [
        (g["group_name"], g["lr"], g["weight_decay"])
        for g in build_optimizer(model, config).param_groups
    ]
    assert found == [
        ("llm", 1.0, 0.1),
        ("llm", 1.0, 0.0),
        ("connector", 5e-6, 0.0),
        ("temporal_token_scorer", 1e-4, 0.0),
    ]
    freeze(model, ["llm", "connector", "temporal_token_scorer"])
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(model, config)


@pytest.mark.parametrize(("prune", "frozen"), [(True, []), (False, ["temporal_token_scorer"])])
def test_a_scorer_that_is_not_used_does_not_train(prune: bool, frozen: list[str]) -> None:
    """Else a checkpoint would lack its optimizer state, which resuming asks for."""
    model = TemporalVideoOlmoConfig.from_dict({"vision_backbone": {"vit": {"prune": prune}}})
    assert TrainConfig(model=model, ft_embedding="all").frozen == frozen


@pytest.mark.parametrize(
    ("value", "tied", "frozen"),
    [
        ("lm_head", True, {"wte.embedding"}),
        ("lm_head", False, {"wte.embedding"}),
        ("ln_f", True, {"wte.embedding"}),
        ("ln_f", False, {"wte.embedding", "ff_out.weight"}),
        ("wte", True, {"ln_f.weight"}),
        ("wte", False, {"ln_f.weight", "ff_out.weight"}),
        ("all", False, set()),
    ],
)
def test_what_trains_of_the_embeddings(value: str, tied: bool, frozen: set[str]) -> None:
    data = merge(read_settings(REPOSITORY / "configs" / "tiny.yaml")["model"], SMALLER)
    model = merged_model_config(data, {"llm": {"weight_tying": tied}})
    config = TrainConfig.from_dict({"model": model, "ft_embedding": value})
    built = config.model.build("meta")
    freeze(built, config.frozen)
    found = {n for n, p in built.named_parameters() if not p.requires_grad}
    assert found == {f"transformer.{name}" for name in frozen}
    assert "transformer.wte.new_embedding" in named_groups(built)["connector"]


def test_of_the_scorer_matrices_decay(model) -> None:
    scorer = named_groups(model)["temporal_token_scorer"]
    taken = {name for name, p in scorer.items() if decays(name, p)}
    assert taken and taken < set(scorer) and all(scorer[name].ndim >= 2 for name in taken)


def test_a_group_has_betas_and_eps_of_its_own(model) -> None:
    config = OptimizerConfig(betas=(0.8, 0.9), vit_betas=(0.5, 0.6), llm_eps=1e-3)
    found = {
        g["group_name"]: (g["betas"], g["eps"]) for g in build_optimizer(model, config).param_groups
    }
    assert found["llm"] == ((0.8, 0.9), 1e-3) and found["vit"] == ((0.5, 0.6), 1e-6)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("optimizer", "llm_learning_rate", -1e-5, "must be at least 0, got -1e-05"),
        ("optimizer", "vit_weight_decay", -0.1, "must be at least 0, got -0.1"),
        ("optimizer", "vit_max_grad_norm", 0.0, "must be above 0, or null"),
        ("optimizer", "betas", [0.9, 1.0], r"must be in \[0, 1\)"),
        ("optimizer", "llm_eps", 0.0, r"must be in \(0, inf\)"),
        ("scheduler", "llm_t_warmup", -1, "must be at least 0, got -1"),
        ("scheduler", "t_max", 0, "must be at least 1, got 0"),
        ("scheduler", "warmup_min_lr", 1e-5, "optimizer.llm_learning_rate=1e-05"),
        (None, "max_grad_norm", 0.0, "must be above 0, or null for none, got 0.0"),
        (None, "time_limit", -1.0, "must be above 0, or null for none"),
        (None, "save_num_checkpoints_to_keep", 0, "must be at least 1, or -1 for all, got 0"),
        (None, "stop_at", 0, "must be at least 1, got 0"),
    ],
)
def test_values_out_of_range_are_named(
    section: str | None, key: str, value: object, said: str
) -> None:
    with pytest.raises(ValueError, match=rf"{key}.* {said}|.*{said}"):
        TrainConfig.from_dict({section: {key: value}} if section else {key: value})


def test_a_cosine_may_end_before_the_run(model) -> None:
    optimizer = build_optimizer(model, OptimizerConfig())
    config = SchedulerConfig(t_max=10, llm_t_warmup=2, warmup_min_lr=None)
    rates = [set_learning_rates(optimizer, step, 20, config)["llm"] for step in (1, 2, 10, 20)]
    assert rates == pytest.approx([5.5e-6, 1e-5, 1e-6, 1e-6])


def test_schedule_of_the_recipe() -> None:
    """Values of the published recipe: 6250 steps, 200 of warm-up, peak 1e-5."""
    expected = {1: 5.0e-8, 100: 5.0e-6, 200: 1.0e-5, 3225: 5.5e-6, 6250: 1.0e-6}
    for step, lr in expected.items():
        assert learning_rate(step, 1e-5, 200, 6250, SchedulerConfig()) == pytest.approx(
            lr, rel=1e-3
        )


def test_clipping_is_per_group() -> None:
    a, b, c = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad, b.grad, c.grad = (torch.tensor(g) for g in ([3.0, 4.0], [0.3, 0.4], [3.0, 4.0]))
    limits = OptimizerConfig(vit_max_grad_norm=0.25).max_norms(1.0)
    norms = clip_gradients({"llm": {"a": a}, "connector": {"b": b}, "vit": {"c": c}}, limits)
    assert norms == {"llm": pytest.approx(5), "connector": pytest.approx(0.5), "vit": norms["llm"]}
    assert a.grad.norm() == pytest.approx(1.0, rel=1e-4) and b.grad.norm() == pytest.approx(0.5)
    assert c.grad.norm() == pytest.approx(0.25, rel=1e-4)


def test_token_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])) + 2.0
    loss = token_loss(logits, torch.tensor([0, 1]), torch.tensor([2.0, 0.5]), z_scale=1e-2)
    assert loss.cross_entropy.item() == pytest.approx(2 * math.log(2) + 0.5 * math.log(10))
    assert loss.z_loss.item() == pytest.approx(2.5 * 4 * 1e-2)
    assert loss.correct.item() == pytest.approx(2.0)
