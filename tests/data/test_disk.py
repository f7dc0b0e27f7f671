"""Annotation files from outside: every failure is one named error with the file and the row."""

from __future__ import annotations

import datetime
import errno
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from olmo.data import arrow
from olmo.data.arrow import ArrowRows
from olmo.data.datasets import catalogue
from olmo.data.datasets import disk as disk_module
from olmo.data.datasets.catalogue import DatasetRow
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.messages import short
from olmo.data.datasets.tables import of_rows
from olmo.data.records import DatasetFormatError, Flaw, Losses, Record
from olmo.data.registry import MissingDataError
from olmo.outside import OutsideError
from tests.data.worlds import write_table

DEEP = b"[" * 100_000 + b"]" * 100_000
GOOD = b'{"video": "v.mp4", "question": "q"}\n'


def opened(
    home: Path, read: Callable[[Disk, str], Iterable[Record]], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The training split of a data set with this reader."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(home))
    monkeypatch.setattr(catalogue, "function_of", lambda name: read)
    return DatasetRow("mine", "", {"train": "train"}, [], read="this", merge="none").open("train")


def question(row: Any) -> Record:
    return {"question": row["question"], "start": int(row.get("start", 0))}


def of_jsonl(disk: Disk, split: str) -> Iterator[Record]:
    return disk.each(disk.jsonl("a.jsonl"), question)


def of_json(disk: Disk, split: str) -> Iterator[Record]:
    return disk.each(disk.rows("a.json"), question)


def of_csv(disk: Disk, split: str) -> Iterator[Record]:
    return disk.each(disk.csv("a.csv"), question)


def of_table(disk: Disk, split: str) -> Iterator[Record]:
    return disk.each(disk.table_rows("t"), question)


def of_parquet(disk: Disk, split: str) -> Iterator[Record]:
    return disk.each(disk.parquet("a.parquet"), question)


BAD_LINES = {
    "deep": (DEEP, "not valid JSON"),
    "deep value": (b'{"question": ' + DEEP + b"}", "not valid JSON"),
    "5000 digits": (b'{"question": "q", "start": 1' + b"0" * 5000 + b"}", "not valid"),
    "400 digits": (b'{"question": "q", "start": 1e999}', "OverflowError"),
    "surrogate": (b'{"question": "a\\ud800"}', ".*surrogates not allowed"),
    "latin-1": (b'{"question": "\xe9"}', "it is not UTF-8"),
    "NUL bytes": (bytes(100), "not valid JSON"),
    "utf-16": (GOOD.decode().encode("utf-16"), "it is not UTF-8"),
    "no object": (b"[1, 2]", ""),
    "null": (b"null", ""),
    "cut": (GOOD[:-5], "not valid JSON"),
    "other keys": (b"{}", "no field 'question'"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_costs_one_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line, message = BAD_LINES[name]
    n_bad = 2 if b"\n" in line else 1
    (tmp_path / "a.jsonl").write_bytes(GOOD + line + b"\n" + GOOD * 3)
    with caplog.at_level(logging.WARNING):
        assert len(opened(tmp_path, of_jsonl, monkeypatch)) == 4
    assert re.search(rf"mine:train: {n_bad} of {4 + n_bad} rows left out: 1 {message}", caplog.text)
    assert re.search(r"\(first .*a\.jsonl: line 2\)", caplog.text)
    (tmp_path / "a.jsonl").write_bytes(GOOD + (line + b"\n") * 3 + GOOD)
    with pytest.raises(DatasetFormatError, match=rf"'mine': .* rows left out: \d {message}"):
        opened(tmp_path, of_jsonl, monkeypatch)


BAD_FILES = {
    "deep": (DEEP, "a.json: not valid JSON"),
    "5000 digits": (b'[{"question": "q", "start": 1' + b"0" * 5000 + b"}]", "not valid JSON"),
    "latin-1": (b'[{"question": "q"},\n\n{"question": "\xe9"}]', "a.json: line 3 is not UTF-8"),
    "utf-16": ("[]".encode("utf-16"), "line 1 is not UTF-8"),
    "a mapping without rows": (b'{"rows": []}', "no field 'data'"),
    "a number": (b"7", "expected a list of rows, got int"),
    "empty": (b"", "not valid JSON"),
    "no rows": (b"[]", "it has no rows"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_whole_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, message = BAD_FILES[name]
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DatasetFormatError, match=message):
        opened(tmp_path, of_json, monkeypatch)


BAD_ROWS = [
    *('{"question": "q", "start": 1e999}', '{"question": "q", "start": NaN}', "null", "[]", "3"),
    *('{"question": "\\udfff"}', '{"start": 1}', '{"question": "q", "start": {}}', '"text"'),
]


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_of_a_file_costs_one_example(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.json").write_text(f'[{{"question": "a"}}, {row}, {{"question": "b"}}]')
    with caplog.at_level(logging.WARNING):
        data = opened(tmp_path, of_json, monkeypatch)
    assert [r["question"] for r in data.records] == ["a", "b"]
    assert "1 of 3 rows left out" in caplog.text and "a.json: row 1)" in caplog.text


BAD_CELLS = {
    "a cell without end": (b'"' + b"x" * 200_000, "field larger than"),
    "other cells": (b"q", "another number of cells than the 2 columns"),
    "no number": (b"q,x", "invalid literal"),
    "5000 digits": (b"q," + b"1" * 5000, "Exceeds the limit"),
    "latin-1": (b"\xe9,1", "it is not UTF-8"),
    "NUL": (b"q,\x00", ""),
}


@pytest.mark.parametrize("name", BAD_CELLS)
def test_a_bad_line_of_a_table_costs_one_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content, message = BAD_CELLS[name]
    (tmp_path / "a.csv").write_bytes(b"question,start\nq,1\nq,1\n" + content + b"\n")
    with caplog.at_level(logging.WARNING):
        assert len(opened(tmp_path, of_csv, monkeypatch)) == 2
    assert re.search(rf"1 of 3 rows left out: 1 .*{message}.*a\.csv: line", caplog.text)


def test_records_that_are_no_json_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"question": q} for q in ("q", datetime.date(2026, 1, 2))]
    write_table(tmp_path / "a.parquet", [{"question": "q"}])
    monkeypatch.setattr(disk_module, "parquet_rows", lambda path: rows)
    with caplog.at_level(logging.WARNING):
        assert len(opened(tmp_path, of_parquet, monkeypatch)) == 1
    assert "date is not JSON serializable" in caplog.text


def test_lines_of_all_systems_are_read(tmp_path: Path) -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + end.join([b"a,1", b"", b'"x, y",2']))
        disk = Disk(tmp_path)
        assert list(disk.lines("a")) == ["a,1", '"x, y",2'] and disk.place == ("a", "line", 3)
        assert list(disk.cells("a")) == [["a", "1"], ["x, y", "2"]]
    (tmp_path / "a").write_bytes(b'"two\r\nlines",1\nb,2\n')
    cells, places = Disk(tmp_path), []
    for row in cells.cells("a"):
        places.append((row[0], cells.place[2]))
    assert places == [("two\r\nlines", 2), ("b", 3)]


def test_a_quote_that_is_not_closed_costs_its_line(tmp_path: Path) -> None:
    lines = ["q,a", '"two\nlines",1', '"odd,2', "a,3", '"b, ""c""",4', 'd "e",5']
    (tmp_path / "a").write_text("\n".join(lines))
    disk = Disk(tmp_path)
    assert [row["q"] for row in disk.csv("a")] == ["two\nlines", "a", 'b, "c"', 'd "e"']
    assert disk.losses.text().endswith(f"1 a quote is not closed (first {tmp_path}/a: line 4)")


def test_sizes_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk_module, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(disk_module, "MAX_FILE_BYTES", 1000)
    (tmp_path / "a.jsonl").write_bytes(GOOD + b" " * 3000 + GOOD + GOOD)
    assert len(opened(tmp_path, of_jsonl, monkeypatch)) == 2, "the long line is passed over"
    assert "1 it is longer than 1000 bytes (first" in caplog.text
    (tmp_path / "a.json").write_bytes(b"[" + b" " * 1000 + b"]")
    with pytest.raises(DatasetFormatError, match=r"a\.json is larger than 1000 bytes"):
        opened(tmp_path, of_json, monkeypatch)


def test_pipes_and_absent_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDataError, match=r"a\.json"):
        opened(tmp_path, of_json, monkeypatch)
    os.mkfifo(tmp_path / "a.json")
    (tmp_path / "a.jsonl").mkdir()
    for read in (of_json, of_jsonl):
        with pytest.raises(DatasetFormatError, match="not a regular file"):
            opened(tmp_path, read, monkeypatch)


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for name in ("a\0/b.mp4", "\ud800/b.mp4", "x" * 300 + "/b.mp4", "a/" * 5000 + "b.mp4"):
        assert not disk.exists(name)


def test_an_example_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [[[0, 10**400, "far"]], [[0, "x", "no number"]], [[0, 1]], 7, [[0, 1, "right"]]]
    rows = [{"question": "q", "subtitle": t} for t in times]
    data = opened(tmp_path, lambda disk, split: iter(rows), monkeypatch)
    for i in (0, 1, 2):
        with pytest.raises(DatasetFormatError, match=rf"mine:train example {i}: "):
            data.get(i, np.random.RandomState(0))
    assert data.get(4, np.random.RandomState(0))["subtitle"] == {(0.0, 1.0): "right"}


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, RecursionError, OSError])
def test_a_row_that_cannot_be_made_is_named(error: type[Exception], tmp_path: Path) -> None:
    def messages(row: Any) -> Any:
        raise error("odd")

    write_table(tmp_path / "t.arrow", {"train": [{"x": 1}]})
    table = Disk(tmp_path).table("t")
    with pytest.raises(DatasetFormatError, match=rf"t/train: row 0: {error.__name__}: odd"):
        of_rows({"rows": [0]}, table, messages)


def test_damaged_tables_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "a.parquet", [{"question": f"text {i}"} for i in range(2000)])
    whole = (tmp_path / "a.parquet").read_bytes()
    for broken in (b"", b"PAR1", whole[:-4], whole[100:], whole[:50] + bytes(300) + whole[350:]):
        (tmp_path / "a.parquet").write_bytes(broken)
        with pytest.raises(DatasetFormatError, match=r"a\.parquet"):
            opened(tmp_path, of_parquet, monkeypatch)
        with pytest.raises(OutsideError, match=r"a\.parquet: "):
            arrow.write_table([tmp_path / "a.parquet"], tmp_path / "made")
        assert not (tmp_path / "made/state.json").exists()
    (tmp_path / "a.parquet").write_bytes(whole)
    with pytest.raises(OutsideError, match=r"a\.parquet: .*larger than allowed"):
        arrow.write_table([tmp_path / "a.parquet"], tmp_path / "made", max_bytes=1000)


def test_damaged_arrow_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_table(disk: Disk, split: str) -> Iterator[Record]:
        return disk.each(disk.table_rows("t", "train", "x"), lambda row: {"question": row["x"]})

    write_table(tmp_path / "t.arrow", {"train": [{"x": "a"}]})
    state = tmp_path / "t/train/state.json"
    whole = state.read_text()
    for broken in ("", "[]", "{}", '{"_data_files": [{"filename": "../../../etc/passwd"}]}'):
        state.write_text(broken)
        with pytest.raises(DatasetFormatError, match=r"'mine': .*/t: "):
            opened(tmp_path, of_table, monkeypatch)
    state.write_text(whole)
    (file,) = (tmp_path / "t/train").glob("*.arrow")
    for broken_bytes in (b"", b"no arrow", file.read_bytes()[:100]):
        file.write_bytes(broken_bytes)
        with pytest.raises(DatasetFormatError, match=r"'mine': .*/t"):
            opened(tmp_path, of_table, monkeypatch)


def test_offsets_that_point_elsewhere_are_refused(tmp_path: Path) -> None:
    """Without a check, reading such a row ends the process."""
    offsets = pa.array([0, 1 << 30, 6], pa.int32()).buffers()[1]
    wrong = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abcdef")])
    rows = ArrowRows([tmp_path / "a"], [pa.table({"x": wrong})])
    for read in (lambda: rows[0], lambda: rows.column("x")):
        with pytest.raises(pa.ArrowInvalid):
            read()
    assert [type(row) for row in rows] == [OutsideError, OutsideError]


@pytest.mark.parametrize("read", [of_parquet, of_table])
def test_a_row_that_is_no_python_object_costs_one_example(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the odd value stands in a column that nothing reads."""
    data = pa.array([b"a", b"\xff", *[b"c"] * 250], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), len(data), data.buffers())
    times = pa.array([*[0] * 240, 1 << 61, *[0] * 11], pa.timestamp("us"))
    pq.write_table(pa.table({"question": texts, "when": times}), tmp_path / "a.parquet")
    arrow.write_table([tmp_path / "a.parquet"], tmp_path / "t")
    with caplog.at_level(logging.WARNING):
        found = opened(tmp_path, read, monkeypatch)
    assert [r["question"] for r in found.records] == ["a", *["c"] * 249]
    assert "2 of 252 rows left out" in caplog.text and ": row 240)" in caplog.text


def test_a_folder_that_cannot_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "loop").symlink_to("loop")
    assert not Disk(tmp_path).exists("loop/v.mp4")
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    plain = {"splits": {"train": "train"}, "sources": [], "fields": {"question": "question"}}

    def denied(folder: Path) -> list[str]:
        if folder.name in ("closed", "v"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return ["a.jsonl"]

    monkeypatch.setattr(os, "listdir", denied)
    for given in ({"files": ["closed/a.jsonl"]}, {"files": ["a.jsonl"], "video": "v/{video}"}):
        with pytest.raises(DatasetFormatError, match=r"(closed|v): PermissionError: Permission"):
            DatasetRow("mine", "", **plain, **given).open("train")


def test_pipes_in_an_arrow_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "t.arrow", {"train": [{"question": "a"}]})
    (file,) = (tmp_path / "t/train").glob("*.arrow")
    for path in (file, tmp_path / "t/train/state.json"):
        path.unlink()
        with pytest.raises(MissingDataError, match=path.name):
            opened(tmp_path, of_table, monkeypatch)
        os.mkfifo(path)
        with pytest.raises(DatasetFormatError, match="not a regular file"):
            opened(tmp_path, of_table, monkeypatch)


def test_items_count_as_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of one item per row, all but a few can be lost only if that is allowed."""
    good, bad = {"items": [{"q": "q", "a": 1}]}, {"items": [{"q": "q", "a": None}]}
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    row = DatasetRow(
        *("mine", "", {"train": "train"}, []),
        files=["a.json"],
        items="items",
        fields={"question": "q", "answer": "a"},
        merge="none",
    )
    (tmp_path / "a.json").write_text(json.dumps([good, *[bad] * 2]))
    with pytest.raises(DatasetFormatError, match="2 of 3 rows left out: 2 no field 'a'"):
        row.open("train")
    (tmp_path / "a.json").write_text(json.dumps([good, bad, {"items": 7}, good, good]))
    with caplog.at_level(logging.WARNING):
        assert len(row.open("train")) == 3
    assert "2 of 5 rows left out" in caplog.text


def test_null_is_neither_an_answer_nor_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"q": "q", "a": "yes", "v": "v"}
    (tmp_path / "a.json").write_text(json.dumps([good, good | {"a": None}, good | {"v": None}]))
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    row = DatasetRow(
        *("mine", "", {"train": "train"}, []),
        files=["a.json"],
        video="{v}.mp4",
        fields={"question": "q", "answer": "a"},
        max_lost=1.0,
    )
    disk, records = row.records("train")
    assert [record["video"] for record in records] == ["v.mp4"]
    assert [count for count, _ in disk.losses.reasons.values()] == [1, 1]


def test_a_short_answer_is_not_null() -> None:
    assert short("q", 0)["answer"] == "0"
    with pytest.raises(Flaw, match="no text"):
        short("q", None)


def test_whatever_a_reader_raises_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a mixture can be trained without the data set."""

    def read(disk: Disk, split: str) -> Any:
        raise OutsideError("odd")

    with pytest.raises(DatasetFormatError, match=r"data set 'mine': .*: odd"):
        opened(tmp_path, read, monkeypatch)


def test_long_reasons_are_cut() -> None:
    losses = Losses(1)
    losses.add(OutsideError("x" * 10_000), "here")
    assert len(losses.text()) < 500
