from __future__ import annotations

import json
from pathlib import Path

import pytest

from olmo.files import whole_file, write_bytes, write_json, write_text


def test_files_are_written_and_replaced(tmp_path: Path):
    write_bytes(tmp_path / "a", b"1")
    write_bytes(tmp_path / "a", b"2")
    write_text(tmp_path / "b", "é\n")
    write_json(tmp_path / "c", {"z": "é", "a": 1}, sort_keys=True)
    assert (tmp_path / "a").read_bytes() == b"2"
    assert (tmp_path / "b").read_bytes() == "é\n".encode()
    assert (tmp_path / "c").read_text("utf-8") == '{\n  "a": 1,\n  "z": "é"\n}\n'
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "c"}


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    with pytest.raises(RuntimeError), whole_file(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == 1
    assert list(tmp_path.iterdir()) == [path]
