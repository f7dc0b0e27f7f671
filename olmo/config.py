"""Strict dataclass configs: YAML and ``--a.b=c`` overrides in, typed objects out.

An unknown key fails and names the nearest known one. A value of the wrong type fails and names
its key. Text is read by the type of its field: a text field takes it as it is, any other reads its
number, word or list from it (``olmo.setting_text``).

``legacy_keys`` of a config class lets an old ``config.yaml`` pass: keys that upstream
wrote and that this project does not need are dropped there, and nowhere else; ``single_values``
lists those of them that may only hold certain values.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from olmo.setting_text import (
    INT64,
    IS_PATH,
    ConfigError,
    FilePath,
    Plain,
    TextMapping,
    expand,
    flow_list,
    flow_mapping,
    override,
    to_bool,
    to_float,
    to_int,
)
from olmo.text import nearest
from olmo.yaml_file import read_settings, read_yaml, to_yaml

__all__ = [
    "MAX_SEED",
    "Config",
    "ConfigError",
    "FilePath",
    "check_seed",
    "convert",
    "expand",
    "merge",
    "nearest",
    "nested",
    "parse_overrides",
    "read_settings",
    "read_yaml",
    "section",
    "to_yaml",
]

MAX_SEED = 2**32 - 1

log = logging.getLogger(__name__)
C = TypeVar("C", bound="Config")


@dataclasses.dataclass
class Config:
    """Base of every config dataclass."""

    legacy_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys of old config files that are accepted and ignored."""

    single_values: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Keys of old config files that are accepted only with one of these values."""

    @classmethod
    def upgrade(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Rewrite the keys of an old or flat layout into this class's own. May return ``data``."""
        return data

    @classmethod
    def from_dict(cls: type[C], data: dict[str, Any], path: str = "") -> C:
        """Build the config from nested dicts. ``path`` is the key prefix used in errors."""
        if not isinstance(data, dict):
            raise ConfigError(f"{path or cls.__name__}: expected a mapping, got {data!r}")
        data = cls.upgrade(dict(data))
        hints = typing.get_type_hints(cls, include_extras=True)
        fields = {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}
        values = {}
        for key, value in data.items():
            where = f"{path}.{key}" if path else str(key)
            if key in fields:
                values[key] = convert(fields[key], value, where)
            elif key in cls.legacy_keys:
                log.debug("ignored old key %s", where)
            elif key not in cls.single_values:
                hint = nearest(str(key), fields, listed=True)
                raise ConfigError(f"unknown key {where!r} ({cls.__name__}); {hint}")
            elif not any(_same(value, option) for option in cls.single_values[key]):
                options = ", ".join(map(repr, cls.single_values[key]))
                raise ConfigError(f"{where}: {value!r} is not supported, only {options}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as e:
            raise ConfigError(f"{path or cls.__name__}: {e}") from e

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values (tuples become lists), ready for YAML."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def save(self, path: str | Path) -> None:
        """Write YAML."""
        Path(path).write_text(to_yaml(self.to_dict()), encoding="utf-8")


def parse_overrides(args: list[str]) -> dict[str, Any]:
    """``["--a.b=1", "--flag"]`` to ``{"a": {"b": 1}, "flag": True}``. Of a key given twice the
    last value holds. Everything behind the first ``=`` is the value; see ``setting_text.override``.
    """
    out: dict[str, Any] = {}
    for i, arg in enumerate(args):
        key, eq, text = arg.partition("=")
        if not arg.startswith("-") or not key.strip("-"):
            before = args[i - 1] if i else ""
            hint = "overrides are written --key=value"
            if before.startswith("-") and "=" not in before:
                hint = f"if it is the value of {before}, write {before}={arg}"
            raise ConfigError(f"unexpected argument {arg!r}: {hint}")
        parts = key.lstrip("-").replace("-", "_").split(".")
        if "" in parts:
            raise ConfigError(f"{arg!r}: {key!r} is no key")
        out = merge(out, nested(".".join(parts), override(text) if eq else True))
    return out


def nested(key: str, value: Any) -> dict[str, Any]:
    """``a.b`` and a value as ``{"a": {"b": value}}``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def section(data: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The mapping at ``keys`` of nested dicts; empty where there is none. ``ConfigError`` names
    the keys if something else stands there."""
    found: Any = data
    for i, key in enumerate(keys):
        found = found.get(key)
        if found is None:
            return {}
        if not isinstance(found, dict):
            if not isinstance(found, Config):
                raise ConfigError(f"{'.'.join(keys[: i + 1])}: expected a mapping, got {found!r}")
            found = found.to_dict()
    return typing.cast(dict[str, Any], found)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over`` laid on top, key by key."""
    out = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merge(out[key], value)
        else:
            out[key] = value
    return out


def check_seed(seed: int) -> None:
    """``ValueError`` for a seed that numpy does not take."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be in 0 to {MAX_SEED}, got {seed}")


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value


def _same(value: Any, option: Any) -> bool:
    """Whether ``value``, or the value of its text, is ``option``."""
    if not isinstance(value, Plain) or option is None:
        return bool(value == option)
    try:
        return bool(convert(type(option), value, "") == option)
    except ConfigError:
        return False


def convert(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type ``hint``; text is read by it. ``ConfigError`` names ``where``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Annotated:
        value = convert(args[0], value, where)
        return expand(value) if IS_PATH in args[1:] else value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is typing.Literal:
        for option in args:
            if _same(value, option):
                return option
        raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
    if origin in (list, tuple):
        value = _read(flow_list, value, where)
        if isinstance(value, (list, tuple)):
            items = [convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
            if origin is tuple and args[-1] is not Ellipsis and len(items) != len(args):
                raise ConfigError(f"{where}: expected {len(args)} values, got {value!r}")
            return origin(items)
    if origin is dict:
        value = _read(flow_mapping, value, where)
        if isinstance(value, dict):
            return {str(k): convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(hint, type) and issubclass(hint, Config):
        if isinstance(value, hint):
            return value
        return hint.from_dict(_read(flow_mapping, value, where), where)
    return _convert_plain(hint, value, where)


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    optional = type(None) in options
    if value is None and optional:
        return None
    errors = []
    for option in (a for a in options if a is not type(None)):
        try:
            return convert(option, value, where)
        except ConfigError as e:
            errors.append(str(e))
    raise ConfigError(errors[-1] + ("; null is allowed" if optional else ""))


READERS: dict[Any, Callable[[str], Any]] = {int: to_int, float: to_float, bool: to_bool}


def _convert_plain(hint: Any, value: Any, where: str) -> Any:
    """A number, a truth value or text. A number for a text field is its text."""
    if hint in READERS:
        value = _read(READERS[hint], value, where)
        if hint is float and type(value) is int and value in INT64:
            value = float(value)
        if hint is float and isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where}: expected a finite number, got {value!r}")
        if hint is int and isinstance(value, int) and value not in INT64:
            raise ConfigError(f"{where}: {str(value)[:30]} is beyond 64 bits")
    elif hint is str and isinstance(value, TextMapping):
        return value.text
    elif hint is str and isinstance(value, Plain):
        return str(value)
    elif hint is str and type(value) in (int, float) and "e" not in repr(value):
        return repr(value)
    if isinstance(hint, type) and isinstance(value, hint):
        if not (hint is int and isinstance(value, bool)):
            return value
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{where}: expected {name}, got {value!r}")


def _read(reader: Callable[[str], Any], value: Any, where: str) -> Any:
    """``value``; if it is text without quotes, what ``reader`` makes of it."""
    if not isinstance(value, Plain):
        return value
    try:
        return reader(value)
    except ValueError as e:
        raise ConfigError(f"{where}: {e}, got {value!r}") from e
