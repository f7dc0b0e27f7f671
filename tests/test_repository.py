"""House rules that a linter does not know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("olmo", "launch_scripts", "scripts")
MAX_LINES, MAX_FUNCTION = 400, 80
SITE_PATH = re.compile(r"/(?!dev/|proc/)[A-Za-z][\w.-]*/|(gs|s3|weka|r2)://")
"""Start of an absolute path, or of a bucket, that exists at one site only."""


def files(pattern: str, *folders: str) -> list[Path]:
    return sorted(f for folder in folders for f in (ROOT / folder).rglob(pattern))


def text_constants(file: Path) -> Iterator[tuple[int, str]]:
    """Line and value of every string in a Python file, docstrings included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_files_are_short() -> None:
    long = {
        str(f.relative_to(ROOT)): n
        for f in files("*.py", *CODE, "tests")
        if (n := len(f.read_text().splitlines())) > MAX_LINES
    }
    assert not long, f"more than {MAX_LINES} lines: {long}"


def test_files_of_tests_have_names_of_their_own() -> None:
    """Else `pytest` without this project's options imports one file for both."""
    names = [file.name for file in files("test_*.py", "tests")]
    assert len(names) == len(set(names))


def test_functions_are_short() -> None:
    long = {
        f"{f.relative_to(ROOT)}: {node.name}": n
        for f in files("*.py", *CODE)
        for node in ast.walk(ast.parse(f.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if (n := (node.end_lineno or 0) - node.lineno + 1) >= MAX_FUNCTION
    }
    assert not long, f"{MAX_FUNCTION} lines or more: {long}"


def test_code_has_no_site_paths() -> None:
    found = [
        f"{f.relative_to(ROOT)}:{line}: {text!r}"
        for f in files("*.py", *CODE)
        for line, text in text_constants(f)
        if SITE_PATH.match(text)
    ]
    assert not found, "\n" + "\n".join(found)


def test_configs_have_no_site_paths() -> None:
    found = [
        f"{f.relative_to(ROOT)}:{n}: {line.strip()}"
        for f in files("*.yaml", "configs")
        for n, line in enumerate(f.read_text().splitlines(), 1)
        if any(SITE_PATH.match(word.strip("\"'[],")) for word in line.split())
    ]
    assert not found, "\n" + "\n".join(found)


def test_links_between_documents_exist() -> None:
    broken = [
        f"{f.relative_to(ROOT)}: {target}"
        for f in [*ROOT.glob("*.md"), *files("*.md", "docs")]
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", f.read_text())
        if "://" not in target and not (f.parent / target).exists()
    ]
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize("text", ["/mnt/data/x", "/home/me/videos", "s3://bucket/key"])
def test_site_paths_are_seen(text: str) -> None:
    assert SITE_PATH.match(text)


@pytest.mark.parametrize("text", ["/", "/dev/shm/x", "runs/demo", "https://arxiv.org/abs/x", "a/b"])
def test_other_paths_pass(text: str) -> None:
    assert not SITE_PATH.match(text)
