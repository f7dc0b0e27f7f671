"""Strict dataclass configs: YAML and ``--a.b=c`` overrides in, typed objects out.

An unknown key fails and names the nearest known one. A value of the wrong type fails and names
its key. Text is read by the type of its field: a text field takes it as it is, any other reads its
number, word or list from it (``olmo.setting_text``). ``legacy.yaml`` lists the keys of old config
files that are accepted although no field has their name.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from olmo import legacy
from olmo.files import write_text
from olmo.mappings import merge, nested, section
from olmo.setting_text import (
    IS_PATH,
    ConfigError,
    FilePath,
    Plain,
    TextMapping,
    expand,
    flow_list,
    flow_mapping,
    override,
    read_as,
    same,
    wanted,
)
from olmo.text import nearest
from olmo.yaml_file import read_settings, to_yaml

__all__ = [
    "MAX_SEED",
    "Config",
    "ConfigError",
    "FilePath",
    "convert",
    "expand",
    "merge",
    "nearest",
    "nested",
    "parse_overrides",
    "read_settings",
    "section",
    "to_yaml",
]

MAX_SEED = 2**32 - 1
INT64 = range(-(2**63), 2**63)
"""Larger integers fit no seed, size or step."""


@dataclasses.dataclass
class Config:
    """Base of every config dataclass."""

    @classmethod
    def upgrade(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Rewrite the keys of an old or flat layout into this class's own. May return ``data``."""
        return data

    @classmethod
    @functools.cache
    def field_types(cls) -> dict[str, Any]:
        """The type of every field that a file or command line may set."""
        hints = typing.get_type_hints(cls, include_extras=True)
        return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}

    @classmethod
    def known_keys(cls) -> set[str]:
        """The fields, and the keys of old files."""
        return {*cls.field_types(), *legacy.rows_of(cls)}

    @classmethod
    def dotted_keys(cls) -> Iterator[str]:
        """The keys of all fields, with those of configs in them: ``a``, ``b.c``."""
        for name, hint in cls.field_types().items():
            union = typing.get_origin(hint) in (typing.Union, types.UnionType)
            options = typing.get_args(hint) if union else (hint,)
            inner = [o for o in options if isinstance(o, type) and issubclass(o, Config)]
            for config in inner:
                yield from (f"{name}.{key}" for key in config.dotted_keys())
            if not inner:
                yield name

    @classmethod
    def from_dict(cls, data: dict[str, Any], path: str = "") -> Self:
        """Build the config from nested dicts. ``path`` is the key prefix used in errors."""
        if not isinstance(data, dict):
            raise ConfigError(f"{path or cls.__name__}: expected a mapping, got {data!r}")
        fields = cls.field_types()
        values = {}
        for key, value in cls.upgrade(legacy.translate(cls, dict(data), path)).items():
            where = f"{path}.{key}" if path else str(key)
            if key not in fields:
                hint = nearest(str(key), fields, listed=True)
                raise ConfigError(f"unknown key {where!r} ({cls.__name__}); {hint}")
            values[key] = convert(fields[key], value, where)
        try:
            return cls(**values)
        except (TypeError, ValueError) as e:
            raise ConfigError(f"{path or cls.__name__}: {e}") from e

    def at_least(self, least: float, *names: str) -> None:
        """``ValueError`` for a field below ``least``. None is a field that is left out."""
        self.require(f"at least {least:g}", lambda value: value >= least, *names)

    def require(self, expected: str, holds: Callable[[Any], bool], *names: str) -> None:
        """``ValueError``, with what is ``expected``, for a field whose value does not hold. None
        is a field that is left out."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ValueError(f"{name} must be {expected}, got {value}")

    def in_range(self, interval: str, *names: str) -> None:
        """``ValueError`` unless a field, or each item of one, lies in ``interval``: ``[0, 1)``."""
        low, high = map(float, interval[1:-1].split(","))
        ends = [low] * (interval[0] == "[") + [high] * (interval[-1] == "]")

        def holds(value: Any) -> bool:
            items = value if isinstance(value, (list, tuple)) else (value,)
            return all(x is None or low < x < high or x in ends for x in items)

        self.require(f"in {interval}", holds, *names)

    def check_seed(self) -> None:
        """``ValueError`` for a ``seed`` that numpy does not take."""
        self.in_range(f"[0, {MAX_SEED}]", "seed")

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values (tuples become lists), ready for YAML."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def save(self, path: str | Path) -> None:
        """Write YAML, whole or not at all."""
        write_text(Path(path), to_yaml(self.to_dict()))


def parse_overrides(args: list[str]) -> dict[str, Any]:
    """``["--a.b=1", "--flag"]`` to ``{"a": {"b": 1}, "flag": True}``. Of a key given twice the
    last value holds. Everything behind the first ``=`` is the value; see ``setting_text.override``.
    """
    out: dict[str, Any] = {}
    for i, arg in enumerate(args):
        key, eq, text = arg.partition("=")
        if not re.match(r"--?[^-=\d]", arg):
            before = args[i - 1] if i else ""
            hint = "overrides are written --key=value"
            if before.startswith("-") and "=" not in before:
                hint = f"if it is the value of {before}, write {before}={arg}"
            raise ConfigError(f"unexpected argument {arg!r}: {hint}")
        parts = key.lstrip("-").replace("-", "_").split(".")
        if "" in parts:
            raise ConfigError(f"{arg!r}: {key!r} is not a key")
        out = merge(out, nested(".".join(parts), override(text) if eq else True))
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value


def convert(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type ``hint``; text is read by it. ``ConfigError`` names ``where``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        value = convert(args[0], value, where)
        return expand(value) if IS_PATH in args[1:] else value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is typing.Literal:
        for option in args:
            if same(value, option):
                return option
        raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
    is_config = isinstance(hint, type) and issubclass(hint, Config)
    if hint is Any or (is_config and isinstance(value, hint)):
        return value
    reader = READERS.get(dict if is_config else origin or hint)
    if isinstance(value, Plain) and reader is not None:
        try:
            value = reader(value)
        except ValueError as e:
            raise ConfigError(f"{where}: {e}, got {value!r}") from e
    if is_config:
        return hint.from_dict(value, where)
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        items = [convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
        if origin is tuple and args[-1] is not Ellipsis and len(items) != len(args):
            raise ConfigError(f"{where}: expected {len(args)} values, got {value!r}")
        return origin(items)
    if origin is dict and isinstance(value, dict):
        return {str(k): convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    return _convert_plain(hint, value, where)


READERS: dict[Any, Callable[[str], Any]] = {
    **{kind: functools.partial(read_as, kind) for kind in (int, float, bool)},
    **{list: flow_list, tuple: flow_list, dict: flow_mapping},
}
"""What makes a value of text without quotes, by type."""


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    optional = type(None) in options
    if value is None and optional:
        return None
    error = ""
    for option in (a for a in options if a is not type(None)):
        try:
            return convert(option, value, where)
        except ConfigError as e:
            error = str(e)
    inner = isinstance(value, dict)  # the error is about a key of it
    raise ConfigError(error + ("; null is allowed" if optional and not inner else ""))


def _convert_plain(hint: Any, value: Any, where: str) -> Any:
    """A number, a truth value or text. A number for a text field is its text."""
    if hint is str and isinstance(value, (Plain, TextMapping)):
        return str(value) if isinstance(value, Plain) else value.text
    if hint is str and type(value) in (int, float) and "e" not in repr(value):
        return repr(value)
    if hint is float and type(value) is int and value in INT64:
        value = float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: expected a finite number, got {value!r}")
    if hint is int and isinstance(value, int) and value not in INT64:
        raise ConfigError(f"{where}: {str(value)[:30]} is beyond 64 bits")
    if isinstance(hint, type) and isinstance(value, hint):
        if not (hint is int and isinstance(value, bool)):
            return value
    raise ConfigError(f"{where}: expected {wanted(hint)}, got {value!r}")
