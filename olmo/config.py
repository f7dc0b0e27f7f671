"""Strict dataclass configs: YAML and ``--a.b=c`` overrides in, typed objects out.

An unknown key fails and names the nearest known one. A value of the wrong type fails and names
its key. ``legacy_keys`` of a config class lets an old ``config.yaml`` pass: keys that upstream
wrote and that this project does not need are dropped there, and nowhere else; ``single_values``
lists those of them that may only hold certain values.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from olmo.outside import OutsideError

log = logging.getLogger(__name__)
C = TypeVar("C", bound="Config")


class ConfigError(OutsideError):
    """A config file or override that cannot be used; the message names the key."""


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
        hints = typing.get_type_hints(cls)
        fields = {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}
        values = {}
        for key, value in data.items():
            where = f"{path}.{key}" if path else str(key)
            if key in fields:
                values[key] = _convert(fields[key], value, where)
            elif key in cls.legacy_keys:
                log.debug("ignored old key %s", where)
            elif key not in cls.single_values:
                raise ConfigError(_unknown_key(str(key), where, list(fields), cls.__name__))
            elif value not in cls.single_values[key]:
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
        Path(path).write_text(OmegaConf.to_yaml(OmegaConf.create(self.to_dict())))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Nested dicts of a YAML file, interpolations resolved. Errors name the file."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        data = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, OSError, ValueError) as e:
        raise ConfigError(f"{path}: not a readable config: {e}") from e
    except Exception as e:  # PyYAML's own error classes share no base with OmegaConf's
        if type(e).__module__.partition(".")[0] == "yaml":
            raise ConfigError(f"{path}: not valid YAML: {e}") from e
        raise
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping at the top level")
    return typing.cast(dict[str, Any], data)


def parse_overrides(args: list[str]) -> dict[str, Any]:
    """``["--a.b=1", "--flag"]`` to ``{"a": {"b": 1}, "flag": True}``; values are YAML."""
    dotlist = []
    for arg in args:
        key, eq, value = arg.partition("=")
        key = key.strip("-").replace("-", "_")
        if not arg.startswith("-") and not eq:
            raise ConfigError(f"unexpected argument {arg!r}: overrides are written --key=value")
        dotlist.append(f"{key}={value if eq else True}")
    try:
        merged = OmegaConf.to_container(OmegaConf.from_dotlist(dotlist), resolve=True)
    except OmegaConfBaseException as e:
        raise ConfigError(f"cannot read the overrides {args}: {e}") from e
    return typing.cast(dict[str, Any], merged)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over`` laid on top, key by key."""
    out = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merge(out[key], value)
        else:
            out[key] = value
    return out


def nearest(word: str, known: Collection[str]) -> str:
    """What may have been meant by ``word``, for an error message."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"


def _unknown_key(key: str, where: str, known: list[str], owner: str) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown key {where!r} ({owner}).{hint} Known keys: {', '.join(sorted(known))}"


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        errors = []
        for option in (a for a in args if a is not type(None)):
            try:
                return _convert(option, value, where)
            except ConfigError as e:
                errors.append(str(e))
        raise ConfigError(errors[-1] + ("; null is allowed" if type(None) in args else ""))
    if origin is typing.Literal:
        if value in args:
            return value
        raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        items = [_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
        if origin is tuple and args[-1] is not Ellipsis and len(items) != len(args):
            raise ConfigError(f"{where}: expected {len(args)} values, got {value!r}")
        return origin(items)
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(hint, type) and issubclass(hint, Config):
        return value if isinstance(value, hint) else hint.from_dict(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint):
        if not (hint is int and isinstance(value, bool)):
            return value
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{where}: expected {name}, got {value!r}")
