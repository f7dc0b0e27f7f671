"""Settings of every test run: one thread per worker, no network, the same seed for each test."""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# No deadline: a shared machine is slow at times. Derandomised: a failure is there again next time.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Workers share the cores: one thread each, also in the processes that tests start."""
    if hasattr(config, "workerinput"):  # set by pytest-xdist in its workers
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        import torch

        torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked ``gpu`` is skipped where there is no CUDA device."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def scored_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of the shipped tiny model with an untrained scorer, at a share of 0.5."""
    from tests.scored import write_scored_checkpoint

    return write_scored_checkpoint(tmp_path_factory.mktemp("scored"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The result of a test does not depend on which tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # tests that only read source files stay fast
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A script's ``main`` sets up logging for a whole process; that must not outlive a test."""
    loggers = [logging.getLogger(name) for name in ("", "olmo.models.loading")]
    before = [(one, one.handlers[:], one.level) for one in loggers]
    yield
    for one, handlers, level in before:
        one.handlers[:] = handlers
        one.setLevel(level)
