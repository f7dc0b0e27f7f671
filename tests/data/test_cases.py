"""Every data set of the catalogue on a miniature of its files: see ``tests/cases``."""

from __future__ import annotations

from pathlib import Path

import pytest

from olmo.data.datasets.catalogue import dataset_rows
from tests.data.worlds import CASES, examples, write_case

NAMES = sorted(path.name for path in CASES.iterdir())


def test_every_data_set_has_a_case() -> None:
    assert sorted(dataset_rows()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_case(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All examples of all splits that ``expected.json`` has, with the first choice of every draw."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    expected = write_case(name, tmp_path / dataset_rows()[name].home)
    assert expected
    for split, found in expected.items():
        assert examples(name, split, tmp_path, seed=None) == found, split
