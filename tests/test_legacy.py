"""``olmo/legacy.yaml``, and what each kind of row does."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import olmo
from olmo import legacy
from olmo.config import Config, ConfigError, parse_overrides, read_settings

TABLE = """
Section:
  old: ignored
Whole:
  gone: ignored
  fixed: [sdpa, 3, 0.5, false, null]
  never: {use: section.x}
  mostly: {allow: [null, "<= 0"], use: "the flag --every"}
  interval: {set: {null: {section.x: 0}, "<= 0": {section.x: 0}}, to: section.x}
  master: {set: {false: {section.x: 0, section.deep.y: null, on: false}}, allow: [true]}
  compile:
    set: {null: {on: false}, section: {on: true}}
    keys: {mode: [default], inner: {keys: {degree: [1]}}}
  on: {use: nothing}
"""


@dataclass
class Deep(Config):
    y: int | None = 1


@dataclass
class Section(Config):
    x: int = 7
    deep: Deep = field(default_factory=Deep)


@dataclass
class Whole(Config):
    on: bool = True
    section: Section = field(default_factory=Section)


@dataclass
class Special(Whole):
    gone: int = 0


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "legacy.yaml"
    file.write_text(TABLE)
    table = read_settings(file)
    monkeypatch.setattr(legacy, "_table", lambda: table)


def read(*flags: str, **given: Any) -> Whole:
    return Whole.from_dict(given | parse_overrides([f"--{flag}" for flag in flags]))


def result(x: int = 7, y: int | None = 1, on: bool = True) -> Whole:
    return Whole(on, Section(x, Deep(y)))


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("gone=[1, 2]", result()),
        ("section.old.thing=5", result()),
        *((f"fixed={text}", result()) for text in ("sdpa", "3", "0.5", "false", "null")),
        ("mostly=null", result()),
        ("mostly=-1", result()),
        ("interval=3", result(3)),
        ("interval=null", result(0)),
        ("interval=-1", result(0)),
        ("master=true", result()),
        ("master=false", result(0, None, on=False)),
        ("compile=null", result(on=False)),
        ("compile={mode: default, inner: {degree: 1}}", result()),
        ("compile.inner=null", result()),
    ],
)
def test_what_is_accepted(flag: str, expected: Whole):
    assert read(flag) == expected


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("fixed=flash", "fixed: 'flash' is not supported, only 'sdpa', 3, 0.5, False, null"),
        ("never=1", "never: 1 is not supported; use section.x"),
        ("mostly=5", "mostly: 5 is not supported, only null, '<= 0'; use the flag --every"),
        ("interval=x", "section.x: expected int, got 'x'"),
        ("master=maybe", "master: 'maybe' is not supported, only False, True"),
        ("compile=yes", "compile: 'yes' is not supported, only null"),
        ("compile.mode=max", "compile.mode: 'max' is not supported, only 'default'"),
        ("compile.inner.degree=2", "compile.inner.degree: 2 is not supported, only 1"),
        ("compile.mod=default", "unknown key 'compile.mod'; did you mean 'mode'?"),
        ("gonne=1", "unknown key 'gonne'"),
    ],
)
def test_what_is_refused(flag: str, message: str):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        read(flag)


def test_another_name_beside_the_name_itself():
    assert read("interval=3", "section.x=3") == result(3)
    with pytest.raises(ConfigError, match=r"interval=3 and section.x=4 contradict"):
        read("interval=3", "section.x=4")
    assert read("master=false", "section.x=4") == result(0, None, on=False), "a master switch"
    built = {"section": Section(4, Deep(2))}
    assert read("compile=null", **built) == result(4, 2, on=False)
    assert read("master=false", **built) == result(0, None, on=False)
    assert built["section"] == Section(4, Deep(2))


def test_rows_of_a_base_class_and_fields():
    assert Special.from_dict({"fixed": 3, "gone": 5}).gone == 5
    with pytest.raises(ConfigError, match="gone"):
        Special.from_dict({"gone": "x"})


def test_the_file_names_config_classes_and_no_fields_of_theirs():
    for module in pkgutil.walk_packages(olmo.__path__, "olmo."):
        wings = ("olmo.eval.lmms", "olmo.benchmark", "olmo.viewer", "olmo.data.video_torchcodec")
        if not module.name.startswith(wings):
            importlib.import_module(module.name)
    classes: dict[str, type[Config]] = {}
    left = [Config]
    while left:
        left += (found := left.pop()).__subclasses__()
        if found.__module__.startswith("olmo."):
            classes[found.__name__] = found
    table = read_settings(legacy.ROWS)
    assert table
    for name, found in table.items():
        assert name in classes, f"no config class {name}"
        assert not set(found) & set(classes[name].field_types()), name
        for key, row in found.items():
            known = {"allow", "use", "to", "set", "keys"}
            assert row == "ignored" or isinstance(row, list) or set(row) <= known, (name, key)
