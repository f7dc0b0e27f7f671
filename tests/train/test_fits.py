"""What fits on one GPU: the table of ``--dry_run``, and the config made for one GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from olmo.config import merge, read_settings
from olmo.model_configs import preset_model_config
from olmo.train.config import TrainConfig
from olmo.train.dry_run import full_row
from olmo.train.fits import SWITCHES, USABLE, fits_table
from olmo.train.lora import choose_trained
from olmo.train.memory import GIB, estimate_memory, n_adapters
from olmo.train.optim import freeze

CONFIG = Path(__file__).parents[2] / "configs" / "one_gpu.yaml"


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    start = {"model": preset_model_config("qwen3_4b_instruct")}
    return TrainConfig.from_dict(merge(start, read_settings(CONFIG)))


def test_the_table_has_the_known_figures(config: TrainConfig) -> None:
    lines = fits_table(config, full_row(config)[1]).splitlines()[2:]
    found = {line[:27].rstrip(): line[27:].split() for line in lines}
    assert list(found) == list(SWITCHES)
    assert found["nothing recomputed"] == ["129", "-", "-", "-"]
    assert found["  --lora.rank=16"] == ["32", "-", "2", "7"]
    assert found["      --ft_vit=False"] == ["18", "1", "5", "9"]


def test_the_config_for_one_gpu_is_a_line_of_the_table_and_fits_into_24_gb(
    config: TrainConfig,
) -> None:
    model = config.model.build("meta")
    freeze(model, config.frozen)
    row = full_row(config)[1]
    before = estimate_memory(config, model, row, 1)
    assert before.total < USABLE * 24 * GIB
    assert config.lora is not None and n_adapters(model, config.lora) > 1e7
    pytest.importorskip("peft")
    model = config.model.build("meta")
    choose_trained(model, config)
    assert n_adapters(model, config.lora) == 0
    assert estimate_memory(config, model, row, 1).total == pytest.approx(before.total)
