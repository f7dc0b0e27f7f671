"""YAML files of configs, read without surprises.

No interpolation, no Python tags, no numbers in bases that nobody meant: ``no``, ``0612``, ``1:30``
and ``2024-01-01`` are text, and the type of the field reads it (``olmo.setting_text``). ``true``,
``false``, ``null``, ``~`` and nothing are what they are in YAML 1.2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from olmo.outside import foreign
from olmo.setting_text import ConfigError, expand, scalar

MAX_VALUES = 100_000
"""Values of one file, those of every alias counted anew."""
MAX_DEPTH = 50
CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
TAGS = {
    "scalar": "tag:yaml.org,2002:str",
    "sequence": "tag:yaml.org,2002:seq",
    "mapping": "tag:yaml.org,2002:map",
}


class _Loader(yaml.SafeLoader):
    """Leaves every scalar text; explicit tags stay visible."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own attribute)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_multi_representer(str, _Dumper.represent_str)


def read_settings(path: str | Path) -> dict[str, Any]:
    """Nested dicts of a YAML file, in UTF-8, for ``Config.from_dict``: scalars without quotes are
    ``Plain``. ``ConfigError`` names the file, and the line where there is one."""
    path = Path(expand(path))
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    with foreign(lambda reason: ConfigError(f"{path}: not a readable config: {reason}")):
        node = yaml.compose(path.read_bytes().decode("utf-8-sig"), _Loader)
        data = {} if node is None else _Reader(path).value(node, 0)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping at the top level")
    return data


def scalar_value(text: str) -> Any:
    """Value of a scalar without quotes."""
    return CONSTANTS[text] if text in CONSTANTS else scalar(text)


def to_yaml(data: dict[str, Any]) -> str:
    """YAML of plain values that ``read_settings`` gives back."""
    return yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=2**31)


class _Reader:
    """Turns the nodes of one file into values."""

    def __init__(self, path: Path):
        self.path, self.n_values = path, 0

    def error(self, node: yaml.Node, reason: str) -> ConfigError:
        return ConfigError(f"{self.path}, line {node.start_mark.line + 1}: {reason}")

    def value(self, node: yaml.Node, depth: int) -> Any:
        self.n_values += 1
        if self.n_values > MAX_VALUES:
            raise self.error(node, f"more than {MAX_VALUES} values, with those of its aliases")
        if depth > MAX_DEPTH:
            raise self.error(node, f"nested more than {MAX_DEPTH} levels deep")
        if node.tag != TAGS[node.id]:
            raise self.error(node, f"the tag {node.tag!r} is not supported")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth)
        quoted_or_block = node.style is not None
        return node.value if quoted_or_block else scalar_value(node.value)

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        """A key given twice is an error; ``<<`` lays its mapping below the other keys."""
        out: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag != TAGS["scalar"]:
                raise self.error(key, "a key must be a single word")
            if key.value in out:
                raise self.error(key, f"the key {key.value!r} stands twice")
            out[key.value] = self.value(value, depth + 1)
        below = out.pop("<<", {})
        if not isinstance(below, dict):
            raise self.error(node, f"<<: expected a mapping, got {below!r}")
        return below | out
