"""Nested dicts of settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from olmo.setting_text import ConfigError


def nested(key: str, value: Any) -> dict[str, Any]:
    """``a.b`` and a value as ``{"a": {"b": value}}``."""
    head, _, rest = key.partition(".")
    return {head: nested(rest, value) if rest else value}


def section(data: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The mapping at ``keys`` of nested dicts and configs; empty where there is none.
    ``ConfigError`` names the keys if something else stands there."""
    for i, key in enumerate(keys):
        found: Any = data.get(key)
        data = found.to_dict() if hasattr(found, "to_dict") else {} if found is None else found
        if not isinstance(data, dict):
            raise ConfigError(f"{'.'.join(keys[: i + 1])}: expected a mapping, got {data!r}")
    return data


def laid(data: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """``data`` with ``value`` at a dotted ``key``; a config on the way becomes a mapping."""
    head, _, rest = key.partition(".")
    return data | {head: laid(section(data, head), rest, value) if rest else value}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over`` laid on top, key by key."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if both else value
    return out


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested dicts."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
