"""How values are read: text by the type of its field, from a command line and from YAML."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo.config import (
    Config,
    ConfigError,
    FilePath,
    parse_overrides,
    read_settings,
    to_yaml,
)
from olmo.setting_text import flow_list


@dataclass
class Inner(Config):
    x: int = 1
    y: float | None = None


@dataclass
class Kinds(Config):
    text: str = ""
    maybe: str | None = "set"
    path: FilePath = ""
    whole: int = 0
    real: float = 0.0
    flag: bool = False
    option: int | None = 3
    word: Literal["no", "yes", "none"] | None = None
    tags: list[str] = field(default_factory=list)
    pair: tuple[int, int] = (0, 0)
    rest: tuple[int, ...] = ()
    table: dict[str, float | bool] = field(default_factory=dict)
    either: float | dict[str, float] | None = None
    inner: Inner = field(default_factory=Inner)
    nested: Inner | None = None
    anything: dict[str, Any] = field(default_factory=dict)


def read(*args: str) -> Kinds:
    return Kinds.from_dict(parse_overrides(list(args)))


TEXTS = [
    *("x #2", "0612", "123", "1.50", "1e6", "1_000", "yes", "no", "true", "1:30", "2024-01-01"),
    *("[a].jsonl", "[a, b]", "{a}", "{a: 1}", "a=b", "a.b=c", "", " x ", '"quoted"', "'q'", "~x"),
    *("${oc.env:HOME}", "${x", "$HOME", "größe/漢", "!!python/object:x", "&a", "*a", "- x", "a: b"),
    *("# no comment", "nan", ".inf", "0o17", "-3", "None", "\\n", "%s", "a\tb"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_field_takes_the_text_as_it_is(text: str) -> None:
    assert read(f"--text={text}").text == text
    assert read(f"--maybe={text}").maybe == text


@given(st.text())
def test_any_text_is_kept_but_null(text: str) -> None:
    assert read(f"--maybe={text}").maybe == (None if text == "null" else text)


@given(st.text())
def test_a_saved_text_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("saved") / "config.yaml"
    if not text.isprintable():
        return  # YAML has no form for some control characters, and folds line ends
    Kinds(text=text, tags=[text]).save(file)
    again = Kinds.from_dict(read_settings(file))
    assert (again.text, again.tags) == (text, [text])


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("whole=1e6", 1_000_000),
        ("whole=1_000", 1000),
        ("whole=0612", 612),
        ("whole=-3", -3),
        ("real=1e-5", 1e-5),
        ("real=3", 3.0),
        ("real=.5", 0.5),
        ("real=1_000.5", 1000.5),
        *((f"flag={word}", True) for word in ("true", "True", "yes", "on", "ON")),
        *((f"flag={word}", False) for word in ("false", "No", "off")),
        ("flag", True),
        ("option=null", None),
        ("maybe=null", None),
        ("word=no", "no"),
        ("word=none", "none"),
        ("word=null", None),
        ("tags=[a, 0612, run #2, lr: 1e-4, 1:30, no, 'b, c', \"d\", x[0]]", None),
        ("tags=[]", []),
        ("pair=[1, 2]", (1, 2)),
        ("rest=[-1,-3]", (-1, -3)),
        ("table={a: 1, b: true}", {"a": 1.0, "b": True}),
        ('table={"a": 0.5}', {"a": 0.5}),
        ("either=.5", 0.5),
        ("either={a: 2}", {"a": 2.0}),
        ("inner={x: 4, y: null}", Inner(4, None)),
        ("inner.x=5", Inner(5)),
        ("nested.y=1e3", Inner(1, 1000.0)),
        ("nested=null", None),
    ],
)
def test_other_fields_read_the_text_by_their_type(flag: str, value: Any) -> None:
    key = flag.partition("=")[0].partition(".")[0]
    found = getattr(read(f"--{flag}"), key)
    if value is None and key == "tags":
        value = ["a", "0612", "run #2", "lr: 1e-4", "1:30", "no", "b, c", "d", "x[0]"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "flag",
    [
        *(f"whole={t}" for t in ("x", "", "2.5", "2.0", "0o17", "0x1f", "nan", "true", "null")),
        *(f"whole={t}" for t in ("1e30", "9" * 30, "9" * 5000, "1e999")),
        *(f"real={t}" for t in ("nan", "inf", "-.inf", "1e999", "", "x", "true", "null", "1:30")),
        *(f"flag={t}" for t in ("1", "0", "y", "", "null", "maybe")),
        *("option=x", "option=", "word=maybe", "text", "path", "text=null", "tags=a", "tags=[a"),
        *("tags=[a]]", "tags=[a,,b]", "tags=['a]", "pair=[1]", "pair=[1,x]", "table={a: x}"),
        *("table={a: 1, a: 2}", "table=3", "inner=3", "inner={x: 1, z: 2}", "inner.z=1", "inner"),
        *("whole.x=1", "nothing=1", "inner.x.y=1", "tags.0=a"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_key(flag: str) -> None:
    with pytest.raises(ConfigError, match=flag.partition("=")[0].partition(".")[0]):
        read(f"--{flag}")


def test_keys() -> None:
    assert read("--inner.x=1", "--inner.x=2").inner.x == 2, "the last one holds"
    assert read("--inner={x: 1}", "--inner.y=2").inner == Inner(1, 2.0)
    assert read("--inner.x=3", "--text=a=b.c=d") == Kinds(text="a=b.c=d", inner=Inner(3))
    for wrong in ("--=1", "--a..b=1", "--.a=1", "--a.=1", "stray", "-", "--"):
        with pytest.raises(ConfigError):
            parse_overrides([wrong])
    with pytest.raises(ConfigError, match=r"write --inner\.x=5"):
        parse_overrides(["--inner.x", "5"])


def test_home_is_expanded_in_paths_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert read("--path=~/x #2").path == "/home/me/x #2"
    assert read("--path=~").path == "/home/me" and read("--path=./~").path == "./~"
    assert read("--path=$HOME/x").path == "$HOME/x"
    assert read("--text=~/x").text == "~/x"


def yaml(tmp_path: Path, text: str | bytes) -> dict[str, Any]:
    file = tmp_path / "own.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_settings(file)


def test_a_file_keeps_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "revealed")
    lines = [f"k{i}: {t}" for i, t in enumerate(("0612", "1:30", "no", "2024-01-01", "1e6"))]
    found = yaml(tmp_path, "\n".join([*lines, "s: ${oc.env:SECRET}", "n: 612", "t: ~", "b: true"]))
    assert list(found.values()) == [
        *("0612", "1:30", "no", "2024-01-01", "1e6", "${oc.env:SECRET}", 612, None, True)
    ]
    kinds = Kinds.from_dict(yaml(tmp_path, "text: 612\nreal: 1e-4\nwhole: 1_000\nflag: off"))
    assert kinds == Kinds("612", real=1e-4, whole=1000)
    with pytest.raises(ConfigError, match="text: expected str, got True"):
        Kinds.from_dict(yaml(tmp_path, "text: true"))


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    found = yaml(tmp_path, "a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: *x")
    assert found["b"] == {"p": 1, "q": 3} and found["c"] == found["a"]


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not a readable config"),
        ("a: !!python/object/apply:os.system [touch RAN]", "tag .*python.* is not supported"),
        ("!!python/name:os.system : 1", "a key must be"),
        ("a: !!binary aGk=", "tag .*binary"),
        ("a: 1\na: 2", "line 2: the key 'a' stands twice"),
        ("a:\n  b: 1\n  b: 2", "line 3: the key 'b' stands twice"),
        (LAUGHS, "more than 100000 values"),
        ("a: " + "[" * 60 + "]" * 60, "more than 50 levels"),
        ("a: " + "[" * 5000, "RecursionError"),
        ("a: &x [*x]", "levels deep"),
        (b"\xff\xfe\x00a", "utf-8"),
        ("[1, 2]", "a mapping at the top"),
        ("a: 1\n---\nb: 2", "not a readable config"),
        ("? [a]\n: 1", "a key must be"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        yaml(tmp_path, text)
    assert "own.yaml" in str(raised.value) and not os.path.exists("RAN")


def test_yaml_out_and_in(tmp_path: Path) -> None:
    data = {"a": [1, 1e-5, True, None, "null", "1e6", "0612", "x: #"], "b": {"c": "${d}"}}
    assert yaml(tmp_path, to_yaml(data)) == data


def test_lists_of_text() -> None:
    assert flow_list("[a, \"b\\\"c\", [1, 2], 'it''s']") == ["a", 'b"c', "[1, 2]", "it's"]


def test_quoted_text_and_python_text_are_no_numbers(tmp_path: Path) -> None:
    for data in ({"whole": "5"}, yaml(tmp_path, "whole: '5'"), {"flag": "true"}, {"tags": "[a]"}):
        with pytest.raises(ConfigError, match="expected"):
            Kinds.from_dict(data)
