"""Files of own data: their kinds, what is wrong with them, changes, and a large one."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

from olmo.data.arrow import ParquetRows, write_splits, write_table
from olmo.data.custom import CustomDataError, CustomDataset
from olmo.data.custom_files import chosen_split
from olmo.data.mixture import CUSTOM, MixtureConfig, open_named
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.images import load_image
from olmo.preprocessing.prompts import KNOWN_STYLES
from olmo.preprocessing.tokens import Turn
from olmo.train.identity import contents

QA = {"video": "a.mp4", "question": "What?", "answer": "This."}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}


def png(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "c.png").write_bytes(png(9))
    return tmp_path


def examples(path: Path, **options: Any) -> list[dict[str, Any]]:
    data = CustomDataset.open(path, **options)
    return [data.get(i, np.random.RandomState(0)) for i in range(len(data))]


def lines(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(v) + "\n" for v in values))
    return path


def table(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_a_json_list(folder: Path) -> None:
    path = folder / "my.json"
    for indent, mark in ((None, ""), (2, ""), ("\t", "\ufeff")):
        rows = [QA, CHAT, QA | {"question": "Ünd so 😀?"}]
        text = mark + json.dumps(rows, indent=indent, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")
        first, second, third = examples(path)
        assert first["question"] == "What?" and first["metadata"] == {"example_id": "my.json:0"}
        assert second["messages"] == [Turn.of("Hi"), Turn.of("Ho")]
        assert third["question"] == "Ünd so 😀?"
    assert CustomDataset.open(path).where(2) == f"{path}: row 2"
    assert len(examples(lines(path, QA, CHAT))) == 2, "lines in a .json file"


def test_a_row_of_a_table_that_is_no_python_object(folder: Path) -> None:
    times = pa.array([0, 1 << 61, 0], pa.timestamp("us"))
    rows = pa.Table.from_pylist([QA, QA, QA | {"answer": ""}]).append_column("when", times)
    pq.write_table(rows, folder / "my.parquet")
    with pytest.raises(CustomDataError, match=r"3 rows cannot be used:(?s:.*)row 1: OverflowError"):
        CustomDataset.open(folder / "my.parquet")


def test_a_json_list_beyond_one_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place of a list at the edge of what is read at once."""
    monkeypatch.setattr("olmo.data.custom_files.WINDOW", 1)
    path = folder / "my.json"
    rows = [QA | {"question": "é" * n} for n in (1, 30, 3, 200, 7, 5)]
    text = json.dumps(rows, ensure_ascii=False, indent=1).replace("},", "}  ,\n\n ") + "\n \n"
    path.write_text(text)
    sizes = [len(json.dumps(r, ensure_ascii=False, indent=1).encode()) + 4 for r in rows]
    for limit in range(60, 700):
        n_long = sum(size > limit for size in sizes)
        if not n_long:
            got = [e["question"] for e in examples(path, max_line_bytes=limit)]
            assert got == [r["question"] for r in rows]
            continue
        with pytest.raises(CustomDataError) as caught:
            CustomDataset.open(path, max_line_bytes=limit)
        assert f"my.json: {n_long} rows" in str(caught.value)
        assert str(caught.value).count(f"longer than data.max_line_bytes={limit}") == n_long


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "row 0: not valid JSON at byte 1: Expecting value; all behind it is not read"),
        ("[GOOD, {]", "row 1: not valid JSON at byte 61: "),
        ("[GOOD", "row 1: expected a comma, or the end of the list, at byte 59"),
        ("[GOOD GOOD]", "row 1: expected a comma"),
        ("[GOOD,]", "row 1: not valid JSON at byte 60: Expecting value"),
        ("[GOOD] x", "row 1: expected a comma, or the end of the list, at byte 61"),
        ("[5, GOOD]", "row 0: expected an object in braces, got '5'"),
        ('[GOOD, {"a": "\ud800"}]', "row 1: not in UTF-8: byte 0xed at 8"),
        ('[{"video": 1, "video": 2}]', "row 0: the key 'video' stands there twice"),
        ("[" * 10**5, "row 0: not valid JSON at byte 1: maximum recursion"),
        ("[]", "it is empty"),
    ],
)
def test_mistakes_of_a_json_list(folder: Path, text: str, message: str) -> None:
    good = json.dumps(QA)
    path = folder / "my.json"
    path.write_text(text.replace("GOOD", good), errors="surrogatepass")
    with pytest.raises(CustomDataError, match=f"my.json: (.*\n  )?{message}"):
        CustomDataset.open(path)


def test_parquet(folder: Path) -> None:
    chat = [
        {"role": "user", "content": [
            {"type": "image", "text": None}, {"type": "text", "text": "Q"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
    ]  # fmt: skip
    rows = [
        {"messages": chat, "images": [{"bytes": png(i), "path": None}], "n": i} for i in range(5)
    ]
    rows[3]["images"] = [{"bytes": None, "path": "c.png"}]
    path = table(folder / "my.parquet", rows, row_group_size=2)
    got = examples(path)
    assert [e["messages"] for e in got] == [[Turn.of("Q"), Turn.of("A")]] * 5
    assert got[3]["image"] == str(folder / "c.png")
    assert [load_image(e["image"])[0, 0, 0] for e in got] == [0, 1, 2, 9, 4]
    assert got[4]["metadata"] == {"example_id": "my.parquet:4"}
    assert CustomDataset.open(path).where(4) == f"{path}: row 4"


def test_flat_parquet_and_its_mistakes(folder: Path) -> None:
    rows = [
        {
            "image": {"bytes": png(7), "path": "x.png"},
            "question": "Q",
            "answer": "A",
            "start": None,
        },
        {"image": {"bytes": None, "path": "c.png"}, "question": "Q", "answer": "A", "start": None},
    ]
    first, second = examples(table(folder / "my.parquet", rows))
    assert first["image"] == png(7) and second["image"] == str(folder / "c.png")
    rows[1] |= {"question": None, "start": 2.0}
    table(folder / "my.parquet", [*rows, rows[0] | {"image": {"bytes": None, "path": None}}])
    with pytest.raises(CustomDataError) as caught:
        CustomDataset.open(folder / "my.parquet")
    assert str(caught.value).split("2 rows cannot be used:")[1] == (
        "\n  row 1: (a) no 'question'; (b) 'start' needs a 'video'"
        "\n  row 2: 'image': expected a path or a list of paths, got None"
    )
    (folder / "bad.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(CustomDataError, match=r"bad\.parquet"):
        CustomDataset.open(folder / "bad.parquet")


def test_row_groups_are_kept_up_to_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(folder / "t.parquet", [{"a": i} for i in range(10)], row_group_size=3)
    rows = ParquetRows(path)
    order = [9, 0, 4, 3, 2, 8, 1, 0]
    assert [rows[i] for i in order] == [{"a": i} for i in order] and len(rows) == 10
    assert len(rows._groups) == 4 and not pickle.loads(pickle.dumps(rows))._groups
    monkeypatch.setattr("olmo.data.arrow.GROUP_BYTES", 30)
    rows = ParquetRows(path)
    assert [rows[i] for i in order] == [{"a": i} for i in order] and len(rows._groups) == 1
    with pytest.raises(IndexError):
        rows[10]


def test_folders_of_save_to_disk(folder: Path) -> None:
    rows = [CHAT | {"image": {"bytes": png(3), "path": None}}]
    write_table([table(folder / "t.parquet", rows)], folder / "hf" / "train")
    (single,) = examples(folder / "hf" / "train")
    assert single["image"] == png(3) and single["metadata"] == {"example_id": "train:0"}
    write_splits(folder / "hf", ["train"])
    assert examples(folder / "hf") == [single | {"metadata": {"example_id": "hf:0"}}]
    with pytest.raises(CustomDataError, match="hf has no split 'test', only train"):
        CustomDataset.open(folder / "hf", split="test")
    assert open_named(str(folder / "hf"), "train").names == [CUSTOM]
    assert chosen_split(folder / "hf", "", "train") == "train"
    for asked in ("", "test"):
        with pytest.raises(CustomDataError, match="hf has no split 'test', only train"):
            chosen_split(folder / "hf", asked, "test")
    for path in (folder, folder / "hf" / "train", folder / "t.parquet"):
        assert chosen_split(path, "", "test") == "test"
        with pytest.raises(CustomDataError, match=f"{path.name} has no split 'val': only a folder"):
            chosen_split(path, "val", "test")
    (folder / "hf" / "dataset_dict.json").write_text("[]")
    with pytest.raises(CustomDataError, match="hf: TypeError"):
        chosen_split(folder / "hf", "", "test")


def test_a_folder_of_files(folder: Path) -> None:
    lines(folder / "b.jsonl", QA, QA)
    lines(folder / "notes.txt", "nothing")
    (folder / "a.json").write_text(json.dumps([CHAT]))
    table(folder / "c.parquet", [QA])
    data = CustomDataset.open(folder)
    names = [data.get(i, np.random.RandomState(0))["metadata"]["example_id"] for i in range(4)]
    assert names == ["a.json:0", "b.jsonl:1", "b.jsonl:2", "c.parquet:0"] and len(data) == 4
    assert data.where(2) == f"{folder}/b.jsonl:2"
    assert [f.name for f in data.files] == ["a.json", "b.jsonl", "c.parquet"]
    before = contents(data.files)
    lines(folder / "b.jsonl", QA, CHAT)
    assert contents(data.files) != before
    assert open_named(str(folder), "train").names == [CUSTOM]
    (folder / "m.yaml").write_text("groups: [{rate: 1, datasets: [{name: mine, path: .}]}]")
    assert len(MixtureConfig.load(str(folder / "m.yaml")).open("train").datasets["mine"]) == 4
    lines(folder / "b.jsonl", {"a": 1}, QA)
    lines(folder / "d.jsonl", QA, QA, 5)
    (folder / "e.parquet").write_bytes(b"nothing")
    with pytest.raises(CustomDataError) as caught:
        CustomDataset.open(folder)
    text = str(caught.value)
    assert "b.jsonl: line 1: " in text and "d.jsonl: line 3: " in text and "e.parquet: " in text


def test_no_files(folder: Path) -> None:
    with pytest.raises(CustomDataError, match=r"own data have \.jsonl, .* files, here is none"):
        CustomDataset.open(folder)
    (folder / "state.json").write_text("{}")
    with pytest.raises(CustomDataError, match="_data_files"):
        CustomDataset.open(folder)


# --- a change, other processes, size -----------------------------------------------------------


@pytest.mark.parametrize("name", ["my.jsonl", "my.json", "my.parquet"])
def test_a_changed_file_is_not_read(folder: Path, name: str) -> None:
    path = folder / name

    def write(**changes: Any) -> None:
        rows = [QA | changes] * 3
        if name == "my.parquet":
            table(path, rows)
        elif name == "my.json":
            path.write_text(json.dumps(rows))
        else:
            lines(path, *rows)

    write()
    data = CustomDataset.open(path)
    data.get(0, np.random.RandomState(0))
    os.utime(path, ns=(1, 1))  # a copy of it in its place
    with pytest.raises(CustomDataError, match=f"{name}: .* 2: the file has changed since"):
        data.get(1 if name == "my.jsonl" else 2, np.random.RandomState(0))
    data = CustomDataset.open(path)
    write(question="Which?")
    with pytest.raises(CustomDataError, match="has changed"):
        data.get(0, np.random.RandomState(0))
    path.unlink()
    with pytest.raises(CustomDataError, match=f"{name}: .*No such file"):
        data.get(0, np.random.RandomState(0))


def _answers(data: CustomDataset, indices: list[int]) -> list[str]:
    return [data.get(i, np.random.RandomState(0))["answer"] for i in indices]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["my.jsonl", "my.parquet"])
def test_other_processes_read_the_same(folder: Path, name: str, method: str) -> None:
    rows = [QA | {"answer": f"number {i}"} for i in range(50)]
    path = folder / name
    table(path, rows, row_group_size=7) if name == "my.parquet" else lines(path, *rows)
    data = CustomDataset.open(path)
    expected = _answers(data, list(range(50)))  # its files are open now
    assert expected == [r["answer"] for r in rows]
    order = np.random.RandomState(0).permutation(50).tolist()
    with get_context(method).Pool(2) as pool:
        tasks = [pool.apply_async(_answers, (data, order)) for _ in range(4)]
        for task in tasks:
            assert task.get(60) == [expected[i] for i in order]
    assert _answers(data, order) == [expected[i] for i in order]


def test_the_contents_of_one_file_are_its_hash(folder: Path, monkeypatch: Any) -> None:
    import hashlib

    path = lines(folder / "my.jsonl", QA)
    assert contents([path]) == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("olmo.train.identity.HASHED_BYTES", 10)
    sampled = contents([path])
    assert sampled != hashlib.sha256(path.read_bytes()).hexdigest()
    lines(path, QA | {"answer": "That."})
    assert contents([path]) != sampled


MEASURE = """
import re, sys, time
import olmo.data.loader
from olmo.data.custom import CustomDataset

def peak():  # kB
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

before = peak()
start = time.process_time()
data = CustomDataset.open(sys.argv[1])
seconds = time.process_time() - start
print(len(data), seconds, (peak() - before) / 1024, peak() / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["question", "conversations"])
def test_a_large_file(folder: Path, form: str) -> None:
    """Seconds of processor time and MB; ``OWN_DATA_LINES=1000000`` measures a million."""
    for i in range(1000):
        (folder / f"v{i}.mp4").touch()
    path, n = folder / "big.jsonl", int(os.environ.get("OWN_DATA_LINES", 100_000))
    with path.open("w") as file:
        for i in range(n):
            line: dict[str, Any] = {"video": f"v{i % 1000}.mp4"}
            question, answer = f"What happens in part {i} of this clip?", f"A person walks, {i}."
            if form == "question":
                line |= {"question": question, "answer": answer}
            else:
                turns = [{"from": "human", "value": f"<video>\n{question}"}]
                line |= {"conversations": [*turns, {"from": "gpt", "value": answer}]}
            file.write(json.dumps(line) + "\n")
    out = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    found, seconds, growth, total = map(float, out.stdout.split())
    print(f"{form}: {seconds:.1f} s, {growth:.0f} MB more, {total:.0f} MB in all")
    assert found == n and seconds < 4 * n / 100_000 and growth < 20 + 4 * n / 100_000
    start = time.perf_counter()
    contents([path])
    assert time.perf_counter() - start < 2


def test_a_style_that_passes_formats_every_line(folder: Path) -> None:
    """One line of a kind is tried out for all."""
    texts = ["a", "<|image|>", "{question}", "%s", "1.", "\n", "A. b\nB. c", "é" * 100]
    accepted = 0
    for style in sorted(KNOWN_STYLES):
        for options in ({}, {"options": ["x", "{y}"], "answer": 0}):
            said = [QA | {"question": f"q {t}", "answer": f"{t} b", "style": style} for t in texts]
            try:
                got = examples(lines(folder / "my.jsonl", *(line | options for line in said)))
            except CustomDataError as e:
                assert f"{len(texts)} lines" in str(e)  # all or none
                continue
            for example in got:
                formatter = DataFormatterConfig().build()
                assert len(formatter(example, np.random.RandomState(0)).turns) == 2
            accepted += 1
    assert accepted > len(KNOWN_STYLES)
