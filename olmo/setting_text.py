"""Text to values: what stands behind ``--key=`` on a command line or in an unquoted YAML scalar.

Text is read by the type of its field (``olmo.config``). Before that type is known, only text whose
value tells it back exactly becomes a number: ``612`` does, ``0612`` and ``1e6`` stay text. So a
field that wants text gets the very characters.
"""

from __future__ import annotations

import json
import math
import os
import re
from typing import Annotated, Any

from olmo.outside import OutsideError


class ConfigError(OutsideError):
    """A config file or override that cannot be used; the message names the key."""


IS_PATH = "path"
FilePath = Annotated[str, IS_PATH]
"""Type of a config field that holds a path: a leading ``~`` is the home folder."""

BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
PAIRS = {"[": "]", "{": "}"}
QUOTES = ("'", '"')
QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'""")
MARK = re.compile(rf"(?<=[\[{{,:])\s*({QUOTED.pattern}|['\"])|[\[\]{{}},]")
"""Brackets, commas and quoted text; a quote counts where a key or value begins."""


class Plain(str):
    """Text without quotes, which the type of its field reads; any other ``str`` is just text."""


class TextMapping(dict[str, Any]):
    """A mapping in braces on a command line; ``text`` is what was written."""

    text = ""


def expand(path: str | os.PathLike[str]) -> str:
    """``path`` with a leading ``~`` or ``~user`` as the home folder: the one rule for all paths
    that a user gives. Variables such as ``$HOME`` are the shell's business."""
    return os.path.expanduser(path)


def scalar(text: str) -> int | float | Plain:
    """The number that ``text`` is the canonical form of, else the text. Of numbers with an
    exponent only PyYAML's own form counts (``1.0e-05``)."""
    for kind in (int, float) if len(text) < 40 else ():
        try:
            number: int | float = kind(text)
        except ValueError:
            continue
        form = repr(number)
        if "e" in form and "." not in form:
            form = form.replace("e", ".0e")
        if form == text and math.isfinite(number):
            return number
    return Plain(text)


def override(text: str) -> Any:
    """Value of ``--key=text`` as far as it can be told without the type of the field: ``null`` is
    no value, text in braces a mapping, and see ``scalar``."""
    if text == "null":
        return None
    if text[:1] == "{":
        try:
            return flow_mapping(text)
        except ValueError:
            return Plain(text)  # for a field that wants text, and an error for any other
    value = scalar(text)
    return Plain(text) if isinstance(value, float) and "e" in text else value


def read_as(kind: type, text: str) -> Any:
    """``text`` as ``bool`` (a word of ``BOOLS`` in any case), ``int`` (``612``, ``1_000``, ``1e6``)
    or ``float``; decimal. ``ValueError`` for anything else."""
    try:
        if kind is bool:
            return BOOLS[text.lower()]
        if kind is int and "e" in text.lower() and (whole := float(text)).is_integer():
            return int(whole)
        return kind(text)
    except (KeyError, ValueError) as e:
        raise ValueError(f"expected {wanted(kind)}") from e


def wanted(kind: Any) -> str:
    """The name of a type in a message."""
    return "bool (true or false)" if kind is bool else getattr(kind, "__name__", str(kind))


def same(value: Any, option: Any) -> bool:
    """Whether ``value``, or what its text says in the type of ``option``, is ``option``."""
    if isinstance(value, Plain) and isinstance(option, (bool, int, float, list)):
        kind = type(option)
        try:
            return bool((flow_list(value) if kind is list else read_as(kind, value)) == option)
        except ValueError:
            return False
    return bool(value == option)


def flow_list(text: str) -> list[Any]:
    """Items of ``[a, 'b, c', 3]``. ``ValueError`` for anything else."""
    return [_item(part) for part in _parts(text, "[")]


def flow_mapping(text: str) -> TextMapping:
    """Keys and values of ``{a: 1, "b": [2, 3]}``. ``ValueError`` for anything else."""
    out = TextMapping()
    out.text = text
    for part in _parts(text, "{"):
        quoted = QUOTED.match(part)
        colon = part.find(":", quoted.end() if quoted else 0)
        if colon < 1:
            raise ValueError(f"{part!r} is not `key: value`")
        key = str(_item(part[:colon].strip()))
        if key in out:
            raise ValueError(f"{key!r} stands twice")
        out[key] = _item(part[colon + 1 :].strip())
    return out


def _item(part: str) -> Any:
    if not part:
        raise ValueError("an empty item")
    if not QUOTED.fullmatch(part):
        return override(part)
    return json.loads(part) if part[0] == '"' else part[1:-1].replace("''", "'")


def _parts(text: str, bracket: str) -> list[str]:
    """What stands between the outer brackets, cut at the commas that are in no quotes and in no
    inner brackets."""
    text = text.strip()
    if len(text) < 2 or text[0] != bracket or text[-1] != PAIRS[bracket]:
        raise ValueError(f"expected {bracket}...{PAIRS[bracket]}")
    parts, open_until, start = [], [], 1
    for found in MARK.finditer(text):
        mark = found[0].strip()
        if mark in QUOTES:
            raise ValueError(f"the quote {mark} is not closed")
        if mark in PAIRS:
            open_until.append(PAIRS[mark])
        elif mark in PAIRS.values():
            if open_until.pop() != mark or (not open_until and found.end() < len(text)):
                raise ValueError(f"{mark} closes nothing")
        elif mark == "," and len(open_until) == 1:
            parts.append(text[start : found.start()].strip())
            start = found.end()
    if open_until:
        raise ValueError(f"{open_until[-1]} is missing")
    last = text[start:-1].strip()
    return [*parts, last] if last or parts else []
