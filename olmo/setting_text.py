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
QUOTED = re.compile(r""" "(?:[^"\\]|\\.)*" | '(?:[^']|'')*' """, re.VERBOSE)
INT64 = range(-(2**63), 2**63)
"""Larger integers fit no seed, size or step."""


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
    if len(text) < 40:
        for kind in (int, float):
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
    if text[:1] == "{" and (mapping := _mapping_or_none(text)) is not None:
        return mapping
    value = scalar(text)
    return Plain(text) if isinstance(value, float) and "e" in text else value


def flow_list(text: str) -> list[Any]:
    """Items of ``[a, 'b, c', 3]``. ``ValueError`` for anything else."""
    return [_item(part) for part in _parts(text, "[")]


def flow_mapping(text: str) -> TextMapping:
    """Keys and values of ``{a: 1, "b": [2, 3]}``. ``ValueError`` for anything else."""
    out = TextMapping()
    out.text = text
    for part in _parts(text, "{"):
        quote = part[:1] if part[:1] in ("'", '"') else ""
        colon = part.find(":", part.find(quote, 1) if quote else 0)
        if colon < 1:
            raise ValueError(f"{part!r} is no `key: value`")
        key = str(_item(part[:colon].strip()))
        if key in out:
            raise ValueError(f"{key!r} stands twice")
        out[key] = _item(part[colon + 1 :].strip())
    return out


def to_int(text: str) -> int:
    """``612``, ``1_000`` or a whole number with an exponent, ``1e6``; decimal."""
    try:
        whole = float(text) if "e" in text.lower() else 0.5
        return int(whole) if whole.is_integer() else int(text)
    except ValueError as e:
        raise ValueError("expected int") from e


def to_float(text: str) -> float:
    """A decimal number."""
    try:
        return float(text)
    except ValueError as e:
        raise ValueError("expected float") from e


def to_bool(text: str) -> bool:
    """``true``, ``false``, ``yes``, ``no``, ``on`` or ``off``, in any case."""
    try:
        return BOOLS[text.lower()]
    except KeyError as e:
        raise ValueError("expected bool (true or false)") from e


def _mapping_or_none(text: str) -> TextMapping | None:
    try:
        return flow_mapping(text)
    except ValueError:
        return None  # text for a field that wants text, and an error for any other


def _item(part: str) -> Any:
    if not part:
        raise ValueError("an empty item")
    if not QUOTED.fullmatch(part):
        return override(part)
    return json.loads(part) if part[0] == '"' else part[1:-1].replace("''", "'")


def _parts(text: str, bracket: str) -> list[str]:
    """What stands between the outer brackets, cut at the commas that are in no quotes and in no
    inner brackets. A quote counts where a key or value begins."""
    text = text.strip()
    if len(text) < 2 or text[0] != bracket or text[-1] != PAIRS[bracket]:
        raise ValueError(f"expected {bracket}...{PAIRS[bracket]}")
    parts, open_until, start, i, begins = [], [], 1, 1, True
    while i < len(text) - 1:
        char = text[i]
        if begins and char in "'\"":
            quoted = QUOTED.match(text, i)
            if quoted is None:
                raise ValueError(f"the quote {char} is not closed")
            i = quoted.end()
            begins = False
            continue
        if char in PAIRS:
            open_until.append(PAIRS[char])
        elif char in PAIRS.values():
            if not open_until or open_until.pop() != char:
                raise ValueError(f"{char} closes nothing")
        elif char == "," and not open_until:
            parts.append(text[start:i].strip())
            start = i + 1
        begins = char in "[{,:" or (begins and char.isspace())
        i += 1
    if open_until:
        raise ValueError(f"{open_until[-1]} is missing")
    last = text[start:-1].strip()
    return [*parts, last] if last or parts else []
