"""``--plugin my_methods.py``: a user's file with prune methods, data sets, config classes, ..."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path

from olmo.outside import describe
from olmo.setting_text import ConfigError

LOADED: list[str] = []
"""Names of the modules of users' files, in the order in which they were loaded."""


def load_plugin(file: Path, flag: str = "--plugin") -> None:
    """Import ``file`` under its own name, once, so that what it registers is known from here on.

    Its folder joins the end of ``sys.path``, by which new processes (loader workers) find it when
    they get an object of one of its classes. ``ConfigError`` names ``flag`` and the line that
    failed.
    """
    where, name = file.resolve(), file.stem
    if file.suffix != ".py" or not name.isidentifier():
        raise ConfigError(f"{flag} {file}: expected a Python file such as my_methods.py")
    if not where.is_file():
        raise ConfigError(f"{flag} {file}: no such file")
    if str(where.parent) not in sys.path:
        sys.path.append(str(where.parent))
    spec = None if name == "__main__" else importlib.util.find_spec(name)
    if spec is None or Path(spec.origin or "").resolve() != where:
        other = "the running program" if spec is None else spec.origin
        raise ConfigError(f"{flag} {file}: the name {name} is that of {other}; rename the file")
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as e:  # a script's own end must not end the program unsaid
        lines = [
            f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == str(where)
        ]
        line = f", line {lines[-1]}" if lines else ""
        raise ConfigError(f"{flag} {file}{line}: {describe(e)}") from e
    if name not in LOADED:
        LOADED.append(name)
