"""The wordings of prompts: lists in one YAML file, of which a user may replace some.

Evaluation takes the first wording of a list. Training draws one with the generator of the
example.
"""

from __future__ import annotations

import difflib
import functools
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from olmo.config import ConfigError, read_settings

Rng = np.random.Generator | np.random.RandomState

SHIPPED = Path(__file__).parents[1] / "assets" / "prompts.yaml"
Lists = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Wordings:
    """``lists`` of templates by name. With ``rng`` one of a list is drawn, without the first is
    taken."""

    lists: Lists
    rng: Rng | None = None

    @classmethod
    def load(cls, path: str | Path | None = None) -> Wordings:
        """The shipped lists, those that the file ``path`` has replaced by its own. ``ConfigError``
        names the file, list and number of a wording that cannot be used."""
        if path is not None and not Path(path).is_file():
            raise ConfigError(
                f"data_formatter.prompts: no file {path}; null takes the shipped wordings"
            )
        return cls(_load(None if path is None else str(path)))

    def drawn_with(self, rng: Rng | None) -> Wordings:
        """The same lists with another generator."""
        return Wordings(self.lists, rng)

    def fixed(self) -> dict[str, str]:
        """The wordings that evaluation takes."""
        return {name: templates[0] for name, templates in self.lists.items()}

    def text(self, name: str, **values: object) -> str:
        """A wording of the list ``name`` with its keywords filled in."""
        return self.pick(self.lists[name]).format(**values)

    def pick(self, templates: tuple[str, ...]) -> str:
        """One of ``templates``."""
        return templates[0 if self.rng is None else int(self.rng.choice(len(templates)))]


def keywords(template: str) -> frozenset[str]:
    """The names in braces. ``ValueError`` for braces that are no plain names."""
    found = set()
    for _, name, form, conversion in string.Formatter().parse(template):
        if name is not None:
            if form or conversion or not name.isidentifier():
                raise ValueError(f"{{{name}}} is no plain name in braces")
            found.add(name)
    return frozenset(found)


@functools.lru_cache(maxsize=8)
def _load(path: str | None) -> Lists:
    shipped = _checked(SHIPPED, {})
    return shipped if path is None else {**shipped, **_checked(Path(path), shipped)}


def _checked(path: Path, shipped: Lists) -> dict[str, tuple[str, ...]]:
    """Lists of a file. Keywords must be those of the ``shipped`` list of the name, or without one
    those of its first wording."""
    found: dict[str, tuple[str, ...]] = {}
    for name, templates in read_settings(path).items():
        if shipped and name not in shipped:
            near = difflib.get_close_matches(str(name), shipped, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(shipped)}"
            raise ConfigError(f"{path}: unknown list {name!r}. {hint}")
        if not isinstance(templates, list) or not templates:
            raise ConfigError(f"{path}: {name}: expected a list of texts, got {templates!r}")
        for i, template in enumerate(templates):
            where = f"{path}: {name}[{i}]"
            if not isinstance(template, str) or not template.strip():
                raise ConfigError(f"{where}: expected text, got {template!r}")
            try:
                mine = keywords(template)
                expected = keywords(shipped[name][0] if shipped else templates[0])
            except ValueError as e:
                raise ConfigError(f"{where}: {template!r}: {e}") from e
            if mine != expected:
                raise ConfigError(
                    f"{where}: expected the keywords {_named(expected)}, got {_named(mine)} in "
                    f"{template!r}"
                )
        found[str(name)] = tuple(templates)
    return found


def _named(names: frozenset[str]) -> str:
    return ", ".join(f"{{{n}}}" for n in sorted(names)) or "none"
