"""Each foreign decoder has one door, where its errors and its work are bounded; none unpickles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

DOORS = {
    "Image.open": {"olmo/preprocessing/image_files.py", "olmo/data/animation.py"},
    "zipfile.ZipFile": {"olmo/download/archives.py"},
    "tarfile.open": {"olmo/download/archives.py"},
    "shutil.unpack_archive": set(),
    "urllib.request.urlopen": set(),
    "urllib.request.urlretrieve": set(),
    "urllib.request.OpenerDirector": {"olmo/download/addresses.py"},
    "csv.reader": {"olmo/data/datasets/disk.py"},
    "csv.DictReader": set(),
}
"""Calls, and the files that may make them."""

UNPICKLING = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
CALLS = {"read_pickle", "read_hdf", "eval", "exec", "torch.load", "np.load", "numpy.load"}


def readers() -> Iterator[tuple[str, ast.AST]]:
    """Nodes of all that reads data sets."""
    for folder in ("olmo/data", "olmo/download", "olmo/preprocessing", "scripts"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            yield from ((name, node) for node in ast.walk(ast.parse(file.read_text())))


def test_each_decoder_is_called_in_one_place() -> None:
    found = {
        (call, name)
        for name, node in readers()
        if isinstance(node, (ast.Attribute, ast.Name)) and (call := ast.unparse(node)) in DOORS
    }
    assert found == {(call, name) for call, names in DOORS.items() for name in names}


def test_no_reader_unpickles() -> None:
    bad = []
    for name, node in readers():
        if isinstance(node, ast.Import):
            modules = {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {(node.module or "").partition(".")[0]}
        else:
            modules = set()
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        allows = isinstance(node, ast.keyword) and node.arg == "allow_pickle"
        if modules & UNPICKLING or called in CALLS or called.split(".")[-1] in CALLS or allows:
            bad.append(f"{name}:{getattr(node, 'lineno', '?')}")
    assert bad == []
