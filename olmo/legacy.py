"""Keys of old and foreign config files, as the rows of ``legacy.yaml`` say."""

from __future__ import annotations

import functools
import operator
import re
from pathlib import Path
from typing import Any

from olmo.mappings import laid, section
from olmo.setting_text import ConfigError, same
from olmo.text import nearest
from olmo.yaml_file import read_settings, scalar_value

ROWS = Path(__file__).with_name("legacy.yaml")
BOUND = re.compile(r"(<=|>=|<|>) *(-?[\d.]+)")
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def rows_of(cls: type) -> dict[str, Any]:
    """Rows by key of a config class and of its base classes; its own go first."""
    table = _table()
    return {k: row for c in reversed(cls.__mro__) for k, row in table.get(c.__name__, {}).items()}


@functools.cache
def _table() -> dict[str, Any]:
    return read_settings(ROWS)


def translate(cls: Any, data: dict[str, Any], path: str = "") -> dict[str, Any]:
    """``data`` without the keys that are no fields of the config class ``cls`` but have a row: each
    is dropped, or replaced by the keys that it stands for. ``ConfigError`` for a value that its
    row does not allow."""
    for key in [key for key in data if key not in cls.field_types()]:
        if (row := rows_of(cls).get(key)) is not None:
            value = data[key]
            data = {k: v for k, v in data.items() if k != key}
            data = _applied(row, value, data, f"{path}.{key}" if path else key)
    return data


def _applied(row: Any, value: Any, data: dict[str, Any], where: str) -> dict[str, Any]:
    if row == "ignored":
        return data
    if isinstance(row, list):
        row = {"allow": row}
    for option, over in row.get("set", {}).items():
        if _fits(value, scalar_value(option)):
            for key, new in over.items():
                data = laid(data, key, new)
            if option != "section":
                return data
    if any(_fits(value, option) for option in row.get("allow", ())):
        return data
    if "to" in row:
        *above, last = row["to"].split(".")
        found = section(data, *above).get(last, value)
        if str(found) != str(value):
            raise ConfigError(
                f"{where}={value} and {row['to']}={found} contradict: give one of them"
            )
        return laid(data, row["to"], value)
    if "keys" in row and (value is None or isinstance(value, dict)):
        for key, inner in (value or {}).items():
            if key not in row["keys"]:
                raise ConfigError(f"unknown key '{where}.{key}'; {nearest(key, row['keys'], True)}")
            data = _applied(row["keys"][key], inner, data, f"{where}.{key}")
        return data
    raise ConfigError(f"{where}: {value!r} is not supported{_instead(row)}")


def _fits(value: Any, option: Any) -> bool:
    if option == "section":
        return isinstance(value, dict)
    bound = BOUND.fullmatch(option) if isinstance(option, str) else None
    if bound is None:
        return same(value, option)
    number = type(value) in (int, float)
    return number and bool(COMPARE[bound[1]](value, float(bound[2])))


def _instead(row: dict[str, Any]) -> str:
    options = [*map(scalar_value, row.get("set", ())), *row.get("allow", ())]
    allowed = ", ".join(map(_shown, options))
    return (f", only {allowed}" if allowed else "") + (
        f"; use {row['use']}" if "use" in row else ""
    )


def _shown(option: Any) -> str:
    """As it is written."""
    if option is None:
        return "null"
    return "a mapping" if option == "section" else repr(option)
