"""What all scripts share: how flags are spelt, how a path or number is read, and the exit code.

    @exit_code()
    def main(argv: list[str] | None = None) -> int:

Codes: 2 for what a user can put right (one message, no traceback), 130 after Ctrl-C, 141 when the
reader of the output went away. Any other exception is a fault of the program and keeps its
traceback; ``OLMO_DEBUG=1`` shows those of the first kind as well.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from olmo.config import MAX_SEED, Config, ConfigError, expand, nearest, parse_overrides, section
from olmo.plugin import load_plugin
from olmo.setting_text import read_as

DTYPE_NAMES = ("float32", "float16", "bfloat16")
"""For ``--dtype``: attributes of ``torch``, which is not imported for ``--help``."""

P = ParamSpec("P")
Main = Callable[P, int]
MISTAKE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


class RunError(RuntimeError):
    """A run that cannot go on; the message says why and what helps."""


class _Plugin(argparse.Action):
    """Imports a file as soon as its name is read."""

    def __call__(self, parser: object, namespace: object, file: Any, flag: object = None) -> None:
        load_plugin(file)


class Parser(argparse.ArgumentParser):
    """``argparse`` with the text of a module as help. A flag may be spelt with dashes or
    underscores; it is not abbreviated. With ``plugins`` there is ``--plugin``, whose files are
    imported before anything else is read."""

    def __init__(self, text: str | None, plugins: bool = False, **options: Any):
        super().__init__(
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )
        for kind in (int, float):  # 1e3 is an integer here as well
            self.register("type", kind, functools.partial(read_as, kind))
        if plugins:
            words = "Python file to import first: prune methods, data sets, scorers of your own"
            nothing_kept: Any = {"action": _Plugin, "default": argparse.SUPPRESS}
            self.add_argument("--plugin", type=path, metavar="FILE", help=words, **nothing_kept)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else list(args)
        end = given.index("--") if "--" in given else len(given)
        flags: list[str] = []
        switched: dict[str, bool] = {}
        for argument in map(underscored, given[:end]):
            flag, eq, text = argument.partition("=")
            action = self._option_string_actions.get(flag)
            if isinstance(action, argparse._StoreTrueAction):  # the last one holds
                try:
                    switched[action.dest] = on = not eq or read_as(bool, text)
                except ValueError as e:
                    self.error(f"argument {flag}: {e}, got {text!r}")
                if not on:
                    continue
                argument = flag
            flags.append(argument)
        found, rest = super().parse_known_args([*flags, *given[end:]], namespace)
        for name, on in switched.items():
            setattr(found, name, on)
        return found, rest

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = self.parse_known_args(args, namespace)
        self.refuse(rest)
        return found

    def parse_with_model(self, args: Sequence[str] | None) -> tuple[Any, dict[str, Any]]:
        """The flags, and the overrides ``--model.KEY=VALUE`` as nested dicts."""
        found, rest = self.parse_known_args(args)
        self.refuse([a for a in rest if a.startswith("-") and not a.startswith("--model.")])
        return found, section(parse_overrides(rest), "model")

    def overrides(
        self, rest: list[str], config: type[Config], model: type[Config]
    ) -> dict[str, Any]:
        """What ``parse_known_args`` left over, as overrides of a config, whose ``model`` is of that
        class. An error about the end of a nested key names the whole key."""
        known = [*self.flags(), *(f"--{key}" for key in config.known_keys())]
        for arg in rest:
            flag = underscored(arg).partition("=")[0]
            first = flag.partition(".")[0]
            if first.startswith("--") and first not in known:
                deep = (*(f"model.{key}" for key in model.dotted_keys()), *config.dotted_keys())
                whole = dict.fromkeys(k for k in deep if k.endswith(f".{flag[2:]}"))
                hint = " or ".join(repr(f"--{key}") for key in whole)
                hint = f"did you mean {hint}?" if whole else nearest(first, known)
                raise ConfigError(f"unknown argument {flag if whole else first!r}; {hint}")
        return parse_overrides(rest)

    def flags(self) -> list[str]:
        """All flags but ``--help``."""
        flags = [option for action in self._actions for option in action.option_strings]
        return [option for option in flags if option not in ("-h", "--help")]

    def refuse(self, rest: list[str]) -> None:
        """End if anything is in ``rest``, naming the nearest flag of the first."""
        if rest:
            flag = rest[0].partition("=")[0]
            hint = f"; {nearest(flag, self.flags())}" if flag.startswith("-") else ""
            self.error(f"unknown argument {rest[0]!r}{hint}")


def underscored(argument: str) -> str:
    """``--some-flag=a-b`` as ``--some_flag=a-b``; anything but a flag as it is."""
    if not re.match(r"--\w", argument):
        return argument
    flag, eq, value = argument.partition("=")
    return "--" + flag[2:].replace("-", "_") + eq + value


def path(text: str) -> Path:
    """A path of the command line, ``~`` being the home folder."""
    return Path(expand(text))


def number(kind: type, least: float, most: float | None = None) -> Callable[[str], Any]:
    """Reader of a flag's number, an ``int`` or ``float`` within bounds."""

    def read(text: str) -> Any:
        value = read_as(kind, text)
        if not least <= value <= (sys.maxsize if most is None else most):
            bound = f" and at most {most:g}" if most is not None else ""
            raise argparse.ArgumentTypeError(f"must be at least {least:g}{bound}, got {text}")
        return value

    read.__name__ = kind.__name__  # argparse names it in the error about other text
    return read


def share(text: str) -> float:
    """``--topk``: a number, or ``null``, which removes nothing."""
    return 0.0 if text == "null" else float(read_as(float, text))


positive, natural = number(int, 1), number(int, 0)
seed = number(int, 0, MAX_SEED)


def exit_code(say: Callable[[str], object] | None = None) -> Callable[[Main[P]], Main[P]]:
    """Decorator of a script's ``main`` with the rule above; leaves the process group at the end.
    ``say`` gets the message, by default stderr does."""
    return functools.partial(_guarded, say or (lambda text: sys.stderr.write(text + "\n")))


def _guarded(say: Callable[[str], object], main: Main[P]) -> Main[P]:
    log, script = logging.getLogger(main.__module__), Path(inspect.getfile(main)).name

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            try:
                return main(*args, **kwargs)
            finally:
                sys.stdout.flush()  # here, where a broken pipe can be met
        except KeyboardInterrupt:
            if _speaks():
                say(f"{script}: stopped")
            return INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        except (ValueError, OSError, RunError) as e:
            log.debug("traceback of the error below", exc_info=True)
            if os.environ.get("OLMO_DEBUG"):
                traceback.print_exc()
            if _speaks():
                say(f"{script}: error: {explain(e)}")
            return MISTAKE
        finally:
            if "olmo.distributed" in sys.modules:  # importing it costs seconds
                sys.modules["olmo.distributed"].close_distributed()

    return guarded


def explain(error: BaseException) -> str:
    """The message of an error; of the system's errors the file and the reason, without a number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _speaks() -> bool:
    """Rank 0; every rank once they have joined, where each may fail for its own reasons."""
    torch = sys.modules.get("torch")
    joined = torch is not None and torch.distributed.is_initialized()
    return joined or os.environ.get("RANK", "0") == "0"
